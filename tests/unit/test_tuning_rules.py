"""Rules about tuning variables: each fires at its variable, and is silent once the file is mended as its hint says."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.rules.stories import find_story, load_chapter
from uenv_builder.core.rules.tuning import RULES
from uenv_builder.core.rules.verdicts import diagnose
from uenv_builder.core.systems import load_systems
from uenv_builder.core.variables import family_prefixes, load_family
from uenv_builder.model.errors import Position

SYSTEMS = load_systems()
GH200 = {"gpu": "sm_90", "grace_hopper": True, "slingshot": True}
RDZV = ("FI_CXI_RDZV_THRESHOLD", "FI_CXI_RDZV_GET_MIN", "FI_CXI_RDZV_EAGER_SIZE")
NO_EAGER = dict.fromkeys(RDZV, "0")
NVSHMEM = {"NVSHMEM_REMOTE_TRANSPORT": "libfabric", "NVSHMEM_DISABLE_CUDA_VMM": "1"}
CM = {"OMPI_MCA_pml": "cm", "OMPI_MCA_mtl": "ofi"}


def runtime(own, under=None, **facts):
    versions = {name: Version(text) for name, text in facts.pop("versions", {}).items()}
    env = {**(under or {}), **own}
    return Runtime(env=env, own=frozenset(own), versions=versions, **{**GH200, **facts})


def findings(job):
    return [(rule, finding) for rule, judge in RULES.items() for finding in judge(job)]


def verdicts(job):
    """Rule and variable; `?` marks a warning, `.` a note."""
    found = []
    for rule, finding in findings(job):
        place = diagnose(rule, finding, lambda path: Position("x", 1, 1) if path[0] == "env" else None)
        assert place.position, rule
        found.append(f"{rule}{ {'error': '', 'warning': '?', 'note': '.'}[place.severity] } {finding.at[1]}")
    return found


# What the file sets, what is known beside it, the verdicts, and what the file sets once it is mended.
CASES = {
    "eager messages by size": (
        {RDZV[0]: "16384"}, {"under": NO_EAGER}, ["eager-messages? FI_CXI_RDZV_THRESHOLD"], NO_EAGER,
    ),
    "eager messages by half": (
        {RDZV[0]: "0"}, {}, ["eager-messages? FI_CXI_RDZV_THRESHOLD"], NO_EAGER,
    ),
    "eager part of long messages": (
        {RDZV[2]: "2048"}, {"under": NO_EAGER}, ["eager-messages? FI_CXI_RDZV_EAGER_SIZE"], {RDZV[2]: "0"},
    ),
    "alternative protocol alone": (
        {"FI_CXI_RDZV_PROTO": "alt_read"}, {}, ["eager-messages? FI_CXI_RDZV_PROTO"],
        {"FI_CXI_RDZV_PROTO": "alt_read", **NO_EAGER},
    ),
    "eager messages elsewhere": ({RDZV[0]: "16384"}, {"grace_hopper": False}, [], None),
    "eager messages of MPI": ({RDZV[0]: "16384"}, {"uses_nccl": False}, [], None),
    "eager messages by others": ({}, {"under": {RDZV[0]: "16384"}}, [], None),
    "eager messages of unknown size": ({RDZV[0]: "16K"}, {}, [], None),
    "eager messages without GDRCopy": (
        {RDZV[0]: "16384"}, {"under": {"FI_HMEM_CUDA_USE_GDRCOPY": "no"}}, [], None,
    ),
    "threshold beyond a buffer": (
        {RDZV[0]: "16777216"}, {"uses_nccl": False}, ["rendezvous-sizes? FI_CXI_RDZV_THRESHOLD"], {RDZV[0]: "16384"},
    ),
    "buffer under the threshold": (
        {"FI_CXI_OFLOW_BUF_SIZE": "4096"}, {}, ["rendezvous-sizes? FI_CXI_OFLOW_BUF_SIZE"],
        {"FI_CXI_OFLOW_BUF_SIZE": "12582912"},
    ),
    "least get beyond a buffer": (
        {RDZV[1]: "12566529"}, {"uses_nccl": False}, ["rendezvous-sizes? FI_CXI_RDZV_GET_MIN"],
        {RDZV[1]: "12566528"},
    ),
    "eager size beyond the threshold": (
        {RDZV[2]: "32768"}, {"uses_nccl": False}, ["rendezvous-sizes? FI_CXI_RDZV_EAGER_SIZE"], {RDZV[2]: "16384"},
    ),
    "threshold of a whole buffer": ({RDZV[0]: "12582912", RDZV[1]: "0"}, {"uses_nccl": False}, [], None),
    "threshold under the eager size of others": (
        {RDZV[0]: "16384"}, {"under": {RDZV[2]: "32768"}, "uses_nccl": False}, [], None,
    ),
    "memhooks": (
        {"FI_MR_CACHE_MONITOR": "memhooks"}, {}, ["mr-cache-monitor? FI_MR_CACHE_MONITOR"],
        {"FI_MR_CACHE_MONITOR": "userfaultfd"},
    ),
    "kdreg2": ({"FI_MR_CACHE_MONITOR": "kdreg2"}, {}, [], None),
    "no monitor": (
        {"FI_MR_CACHE_MONITOR": "disabled"}, {}, ["mr-cache-monitor. FI_MR_CACHE_MONITOR"],
        {"FI_MR_CACHE_MONITOR": "kdreg2"},
    ),
    "no cache": (
        {"FI_MR_CACHE_MAX_COUNT": "0"}, {}, ["mr-cache-monitor? FI_MR_CACHE_MAX_COUNT"],
        {"FI_MR_CACHE_MAX_COUNT": "524288"},
    ),
    "memhooks without NCCL": ({"FI_MR_CACHE_MONITOR": "memhooks"}, {"uses_nccl": False}, [], None),
    "memhooks without Slingshot": ({"FI_MR_CACHE_MONITOR": "memhooks"}, {"slingshot": False}, [], None),
    "host registration": (
        {"FI_CXI_DISABLE_HOST_REGISTER": "no"}, {}, ["host-register? FI_CXI_DISABLE_HOST_REGISTER"],
        {"FI_CXI_DISABLE_HOST_REGISTER": "1"},
    ),
    "matching by the NIC": (
        {"FI_CXI_RX_MATCH_MODE": "hardware"}, {}, ["rx-match-mode? FI_CXI_RX_MATCH_MODE"],
        {"FI_CXI_RX_MATCH_MODE": "hybrid"},
    ),
    "matching by software": ({"FI_CXI_RX_MATCH_MODE": "software"}, {}, [], None),
    "matching on one node": ({"FI_CXI_RX_MATCH_MODE": "hardware"}, {"multi_node": False}, [], None),
    "short queues": (
        {"FI_CXI_DEFAULT_CQ_SIZE": "131071", "FI_CXI_DEFAULT_TX_SIZE": "512"}, {},
        ["cxi-queue-size? FI_CXI_DEFAULT_CQ_SIZE", "cxi-queue-size? FI_CXI_DEFAULT_TX_SIZE"],
        {"FI_CXI_DEFAULT_CQ_SIZE": "131072", "FI_CXI_DEFAULT_TX_SIZE": "1024"},
    ),
    "a queue by default": ({"FI_CXI_DEFAULT_CQ_SIZE": "0"}, {}, [], None),
    "a queue by a suffix": ({"FI_CXI_DEFAULT_CQ_SIZE": "128K"}, {}, [], None),
    "paging": ({"FI_CXI_ODP": "1"}, {}, ["cxi-paging? FI_CXI_ODP"], {}),
    "forced paging": ({"FI_CXI_FORCE_ODP": "true"}, {}, ["cxi-paging? FI_CXI_FORCE_ODP"], {}),
    "translation of AMD": ({"FI_CXI_ATS": "1"}, {}, ["cxi-paging. FI_CXI_ATS"], {}),
    "no paging": ({"FI_CXI_ODP": "0", "FI_CXI_ATS": "false"}, {}, [], None),
    "one NIC": ({"FI_CXI_DEVICE_NAME": "cxi0"}, {}, ["one-nic? FI_CXI_DEVICE_NAME"], {}),
    "all NICs": ({"FI_CXI_DEVICE_NAME": "cxi0,cxi1,cxi2,cxi3"}, {}, [], None),
    "GPU direct at NVLink": (
        {"NCCL_NET_GDR_LEVEL": "NVL"}, {}, ["gpu-direct-off? NCCL_NET_GDR_LEVEL"], {"NCCL_NET_GDR_LEVEL": "PHB"},
    ),
    "GPU direct at a number": (
        {"NCCL_NET_GDR_LEVEL": "0"}, {}, ["gpu-direct-off? NCCL_NET_GDR_LEVEL"], {"NCCL_NET_GDR_LEVEL": "3"},
    ),
    "GPU direct at a switch, 2.29.2": (
        {"NCCL_NET_GDR_LEVEL": "PIX"}, {"versions": {"nccl": "2.29.2"}}, ["gpu-direct-off? NCCL_NET_GDR_LEVEL"],
        {"NCCL_NET_GDR_LEVEL": "PHB"},
    ),
    "GPU direct at a switch, 2.27.3": ({"NCCL_NET_GDR_LEVEL": "PIX"}, {"versions": {"nccl": "2.27.3"}}, [], None),
    "GPU direct at a switch, 2.28.9": ({"NCCL_NET_GDR_LEVEL": "PIX"}, {"versions": {"nccl": "2.28.9"}}, [], None),
    "GPU direct at a switch, 2.26.2": (
        {"NCCL_NET_GDR_LEVEL": "PXB"}, {"versions": {"nccl": "2.26.2"}}, ["gpu-direct-off? NCCL_NET_GDR_LEVEL"],
        {"NCCL_NET_GDR_LEVEL": "SYS"},
    ),
    "GPU direct at a switch, 2.26.2 over C2C": (
        {"NCCL_NET_GDR_LEVEL": "PXB"}, {"under": {"NCCL_NET_GDR_C2C": "1"}, "versions": {"nccl": "2.26.2"}}, [], None,
    ),
    "GPU direct at a switch, 2.25.1": (
        {"NCCL_NET_GDR_LEVEL": "2", "NCCL_NET_GDR_C2C": "1"}, {"versions": {"nccl": "2.25.1"}},
        ["gpu-direct-off? NCCL_NET_GDR_LEVEL"], {"NCCL_NET_GDR_LEVEL": "PHB", "NCCL_NET_GDR_C2C": "1"},
    ),
    "GPU direct at a switch, unknown": ({"NCCL_NET_GDR_LEVEL": "PIX"}, {}, [], None),
    "GPU direct not over C2C": (
        {"NCCL_NET_GDR_C2C": "0"}, {}, ["gpu-direct-off? NCCL_NET_GDR_C2C"],
        {"NCCL_NET_GDR_C2C": "1", "NCCL_NET_GDR_LEVEL": "PHB"},
    ),
    "GPU direct not over C2C, at a switch": (
        {"NCCL_NET_GDR_C2C": "0", "NCCL_NET_GDR_LEVEL": "PIX"}, {}, ["gpu-direct-off? NCCL_NET_GDR_LEVEL"],
        {"NCCL_NET_GDR_C2C": "0", "NCCL_NET_GDR_LEVEL": "PHB"},
    ),
    "GPU direct not over C2C, by the hook's level": (
        {"NCCL_NET_GDR_C2C": "0"}, {"under": {"NCCL_NET_GDR_LEVEL": "PHB"}}, [], None,
    ),
    "GPU direct for receives": (
        {"NCCL_NET_GDR_READ": "0"}, {}, ["gpu-direct-off? NCCL_NET_GDR_READ"], {"NCCL_NET_GDR_READ": "1"},
    ),
    "no GDRCopy": (
        {"FI_HMEM_CUDA_USE_GDRCOPY": "0"}, {}, ["gpu-direct-off? FI_HMEM_CUDA_USE_GDRCOPY"], NO_EAGER,
    ),
    "no CUDA": ({"FI_HMEM": "system"}, {}, ["gpu-direct-off? FI_HMEM"], {}),
    "CUDA": ({"FI_HMEM": "system,CUDA"}, {}, [], None),
    "GPU direct on one node": ({"NCCL_NET_GDR_LEVEL": "LOC"}, {"multi_node": False}, [], None),
    "no NVLink": ({"NCCL_P2P_DISABLE": "1"}, {}, ["nvlink-off? NCCL_P2P_DISABLE"], {"NCCL_P2P_LEVEL": "NVL"}),
    "no NVLink by level": (
        {"NCCL_P2P_LEVEL": "LOC"}, {"multi_node": False}, ["nvlink-off? NCCL_P2P_LEVEL"], {"NCCL_P2P_LEVEL": "NVL"},
    ),
    "NVLink": ({"NCCL_P2P_DISABLE": "0"}, {}, [], None),
    "one GPU": ({"CUDA_VISIBLE_DEVICES": "0"}, {}, ["one-gpu? CUDA_VISIBLE_DEVICES"], {}),
    "one GPU by its id": ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c"}, {}, ["one-gpu? CUDA_VISIBLE_DEVICES"], {}),
    "four GPUs": ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, {}, [], None),
    "one GPU of one node": ({"CUDA_VISIBLE_DEVICES": "0"}, {"multi_node": False}, [], None),
    "registration beside segments": (
        {"TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}, {},
        ["tensor-registration? TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK"],
        {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
    ),
    "segments beside registration": (
        {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"},
        {"under": {"TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK": "true"}},
        ["tensor-registration? PYTORCH_CUDA_ALLOC_CONF"], {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"},
    ),
    "segments alone": ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, {}, [], None),
    "InfiniBand by name": (
        {"NCCL_NET": "IB"}, {}, ["nccl-net-missing NCCL_NET"], {"NCCL_NET": "AWS Libfabric"},
    ),
    "no name": ({"NCCL_NET": ""}, {}, ["nccl-net-missing? NCCL_NET"], {"NCCL_NET": "AWS Libfabric"}),
    "no name on one node": ({"NCCL_NET": ""}, {"multi_node": False}, [], None),
    "the plugin's name without one": (
        {"NCCL_NET": "aws libfabric"}, {"network": "none", "slingshot": False}, ["nccl-net-missing? NCCL_NET"], {},
    ),
    "another name": ({"NCCL_NET": "OFI"}, {}, [], None),
    "no plugin": (
        {"NCCL_NET_PLUGIN": "none"}, {}, ["nccl-plugin-off NCCL_NET_PLUGIN"], {"NCCL_NET": "AWS Libfabric"},
    ),
    "no plugin on one node": ({"NCCL_NET_PLUGIN": "none"}, {"multi_node": False}, [], None),
    "no plugin beside a network": ({"NCCL_NET_PLUGIN": "none"}, {"under": {"NCCL_NET": "AWS Libfabric"}}, [], None),
    "a plugin that is forgotten first": (
        {"NCCL_NET_PLUGIN": "ofi"}, {"versions": {"nccl": "2.28.3"}},
        ["nccl-plugin-name-lost? NCCL_NET_PLUGIN"], {},
    ),
    "a plugin that is forgotten": (
        {"NCCL_NET_PLUGIN": "ofi"}, {"versions": {"nccl": "2.29.7"}},
        ["nccl-plugin-name-lost? NCCL_NET_PLUGIN"], {"NCCL_NET_PLUGIN": "ofi", "NCCL_NET_PLUGIN_REF_COUNT": "1"},
    ),
    "a plugin by its usual name": (
        {"NCCL_NET_PLUGIN": "libnccl-net.so"}, {"versions": {"nccl": "2.29.7"}}, [], None,
    ),
    "a plugin before": ({"NCCL_NET_PLUGIN": "ofi"}, {"versions": {"nccl": "2.27.7"}}, [], None),
    "a plugin after": ({"NCCL_NET_PLUGIN": "ofi"}, {"versions": {"nccl": "2.30.3"}}, [], None),
    "a plugin, unknown": ({"NCCL_NET_PLUGIN": "ofi"}, {}, [], None),
    "RDMA before 1.20": (
        {"OFI_NCCL_PROTOCOL": "RDMA"}, {"versions": {"aws_ofi_nccl": "1.19.2"}}, ["ofi-protocol OFI_NCCL_PROTOCOL"],
        {"OFI_NCCL_PROTOCOL": "SENDRECV"},
    ),
    "RDMA before libfabric 2.5": (
        {"OFI_NCCL_PROTOCOL": "rdma", "FI_CXI_ENABLE_WRITEDATA": "1"},
        {"versions": {"aws_ofi_nccl": "1.20.0", "libfabric": "2.3.1"}}, ["ofi-protocol OFI_NCCL_PROTOCOL"], {},
    ),
    "RDMA": (
        {"OFI_NCCL_PROTOCOL": "RDMA"}, {"versions": {"aws_ofi_nccl": "1.20.0", "libfabric": "2.6.0"}},
        ["ofi-protocol OFI_NCCL_PROTOCOL"], {"OFI_NCCL_PROTOCOL": "RDMA", "FI_CXI_ENABLE_WRITEDATA": "1"},
    ),
    "RDMA with all that it needs": (
        {"OFI_NCCL_PROTOCOL": "RDMA", "FI_CXI_ENABLE_WRITEDATA": "1", "OFI_NCCL_MIN_STRIPE_SIZE": "131072"},
        {"versions": {"aws_ofi_nccl": "1.20.0", "libfabric": "2.5.0"}}, [], None,
    ),
    "RDMA, half unknown": (
        {"OFI_NCCL_PROTOCOL": "RDMA"}, {"versions": {"aws_ofi_nccl": "1.20.0"}},
        ["ofi-protocol? OFI_NCCL_PROTOCOL"], {},
    ),
    "RDMA, unknown": ({"OFI_NCCL_PROTOCOL": "RDMA"}, {}, ["ofi-protocol? OFI_NCCL_PROTOCOL"], {}),
    "rails of RDMA": (
        {"OFI_NCCL_FORCE_NUM_RAILS": "4", "OFI_NCCL_RDMA_MIN_POSTED_EAGER_BUFFERS": "64", "OFI_NCCL_CQ_SIZE": "1"}, {},
        ["ofi-rdma-only. OFI_NCCL_FORCE_NUM_RAILS", "ofi-rdma-only. OFI_NCCL_RDMA_MIN_POSTED_EAGER_BUFFERS"],
        {"OFI_NCCL_CQ_SIZE": "1"},
    ),
    "networking in kernels": (
        {"NCCL_GIN_TYPE": "2", "NCCL_GIN_PLUGIN": "ofi"}, {},
        ["nccl-gin? NCCL_GIN_TYPE", "nccl-gin? NCCL_GIN_PLUGIN"], {},
    ),
    "no networking in kernels": (
        {"NCCL_GIN_TYPE": "-1", "NCCL_GIN_PLUGIN": "none", "NCCL_GIN_ENABLE": "1"}, {}, [], None,
    ),
    "networking in kernels off": ({"NCCL_GIN_TYPE": "2", "NCCL_GIN_ENABLE": "0"}, {}, [], None),
    "InfiniBand": (
        {"NCCL_IB_DISABLE": "1", "NCCL_IB_HCA": "mlx5"}, {},
        ["nccl-ib-unused. NCCL_IB_DISABLE", "nccl-ib-unused. NCCL_IB_HCA"], {},
    ),
    "InfiniBand elsewhere": ({"NCCL_IB_HCA": "mlx5"}, {"slingshot": False}, [], None),
    "another interface": (
        {"NCCL_SOCKET_IFNAME": "nmn,eth0"}, {}, ["socket-interface? NCCL_SOCKET_IFNAME"], {"NCCL_SOCKET_IFNAME": "hsn"},
    ),
    "no interface of a network": (
        {"NCCL_SOCKET_IFNAME": "lo"}, {}, ["socket-interface? NCCL_SOCKET_IFNAME"], {"NCCL_SOCKET_IFNAME": "hs"},
    ),
    "an interface that NCCL passes over": ({"NCCL_SOCKET_IFNAME": "e", "GLOO_SOCKET_IFNAME": "e"}, {}, [], None),
    "no whole name": (
        {"NCCL_SOCKET_IFNAME": "=hsn"}, {}, ["socket-interface? NCCL_SOCKET_IFNAME"], {"NCCL_SOCKET_IFNAME": "=hsn0"},
    ),
    "all but Slingshot": (
        {"NCCL_SOCKET_IFNAME": "^docker,hs"}, {}, ["socket-interface? NCCL_SOCKET_IFNAME"],
        {"NCCL_SOCKET_IFNAME": "^docker,lo,hsn3"},
    ),
    "interfaces of Slingshot": ({"NCCL_SOCKET_IFNAME": "hsn0,hsn1"}, {}, [], None),
    "an interface on one node": ({"NCCL_SOCKET_IFNAME": "lo"}, {"multi_node": False}, [], None),
    "NCCL's interface for Gloo": (
        {"GLOO_SOCKET_IFNAME": "hsn"}, {}, ["gloo-interface GLOO_SOCKET_IFNAME"], {"GLOO_SOCKET_IFNAME": "hsn0"},
    ),
    "NCCL's signs for Gloo": (
        {"GLOO_SOCKET_IFNAME": "^lo"}, {"slingshot": False}, ["gloo-interface GLOO_SOCKET_IFNAME"], {},
    ),
    "an empty name for Gloo": (
        {"GLOO_SOCKET_IFNAME": "hsn0,"}, {}, ["gloo-interface GLOO_SOCKET_IFNAME"], {"GLOO_SOCKET_IFNAME": "hsn0,hsn1"},
    ),
    "no interface of a network for Gloo": (
        {"GLOO_SOCKET_IFNAME": "lo"}, {}, ["gloo-interface? GLOO_SOCKET_IFNAME"], {"GLOO_SOCKET_IFNAME": "hsn0"},
    ),
    "another interface for Gloo": (
        {"GLOO_SOCKET_IFNAME": "eth0"}, {}, ["gloo-interface? GLOO_SOCKET_IFNAME"], {"GLOO_SOCKET_IFNAME": "hsn0"},
    ),
    "MPI over UCX": ({"OMPI_MCA_pml": "ucx"}, {}, ["mpi-transport? OMPI_MCA_pml"], CM),
    "MPI on one node": (
        {"OMPI_MCA_pml": "ucx", "OMPI_MCA_btl": "tcp", "UCX_TLS": "all"}, {"multi_node": False}, [], None,
    ),
    "MPI elsewhere": (
        {"OMPI_MCA_pml": "ucx", "UCX_TLS": "all", **NVSHMEM, "NVSHMEM_REMOTE_TRANSPORT": "ucx"},
        {"slingshot": False}, [], None,
    ),
    "MPI over TCP": ({"OMPI_MCA_btl": "tcp,self"}, {}, ["mpi-transport? OMPI_MCA_btl"], CM),
    "TCP beside cm": ({"OMPI_MCA_btl": "tcp,self"}, {"under": CM}, [], None),
    "not TCP": ({"OMPI_MCA_btl": "^tcp,uct"}, {}, [], None),
    "cm without ofi": ({"OMPI_MCA_mtl": "^ofi"}, {"under": CM}, ["mpi-transport OMPI_MCA_mtl"], CM),
    "another MTL": ({"OMPI_MCA_mtl": "psm2"}, {}, ["mpi-transport? OMPI_MCA_mtl"], CM),
    "another provider": (
        {"OMPI_MCA_mtl_ofi_provider_include": "tcp"}, {}, ["mpi-transport? OMPI_MCA_mtl_ofi_provider_include"],
        {"OMPI_MCA_mtl_ofi_provider_include": "cxi"},
    ),
    "linked providers": ({"OMPI_MCA_opal_common_ofi_provider_include": "lnx"}, {}, [], None),
    "UCX over a network": (
        {"UCX_TLS": "rc,cuda_copy", "UCX_NET_DEVICES": "hsn0"}, {},
        ["ucx-transport. UCX_TLS", "ucx-transport. UCX_NET_DEVICES"], {"UCX_TLS": "sm,cuda_copy,cuda_ipc"},
    ),
    "UCX on a node": ({"UCX_TLS": "^tcp"}, {}, [], None),
    "NVSHMEM over InfiniBand": (
        {"NVSHMEM_REMOTE_TRANSPORT": "IBRC"}, {}, ["nvshmem-transport NVSHMEM_REMOTE_TRANSPORT"], NVSHMEM,
    ),
    "NVSHMEM over UCX": (
        {"NVSHMEM_REMOTE_TRANSPORT": "ucx"}, {}, ["nvshmem-transport? NVSHMEM_REMOTE_TRANSPORT"], NVSHMEM,
    ),
    "NVSHMEM within a node": (
        {"NVSHMEM_REMOTE_TRANSPORT": "none"}, {}, ["nvshmem-transport? NVSHMEM_REMOTE_TRANSPORT"], NVSHMEM,
    ),
    "NVSHMEM for EFA": (
        {"NVSHMEM_LIBFABRIC_PROVIDER": "efa"}, {"under": NVSHMEM},
        ["nvshmem-transport NVSHMEM_LIBFABRIC_PROVIDER"], {"NVSHMEM_LIBFABRIC_PROVIDER": "cxi"},
    ),
    "NVSHMEM from kernels": (
        {"NVSHMEM_IB_ENABLE_IBGDA": "1", **NVSHMEM}, {}, ["nvshmem-transport? NVSHMEM_IB_ENABLE_IBGDA"], NVSHMEM,
    ),
    "NVSHMEM not from kernels": ({"NVSHMEM_IB_ENABLE_IBGDA": "0", **NVSHMEM}, {}, [], None),
    "NVSHMEM for EFA elsewhere": (
        {"NVSHMEM_LIBFABRIC_PROVIDER": "efa"}, {"under": {"NVSHMEM_REMOTE_TRANSPORT": "none"}}, [], None,
    ),
    "NVSHMEM by default": (
        {"NVSHMEM_SYMMETRIC_SIZE": "2G"}, {"network": "hook-artifact"},
        ["nvshmem-transport? NVSHMEM_SYMMETRIC_SIZE"], {"NVSHMEM_SYMMETRIC_SIZE": "2G", **NVSHMEM},
    ),
    "NVSHMEM, unknown": ({"NVSHMEM_SYMMETRIC_SIZE": "2G"}, {}, [], None),
    "NVSHMEM on one node": ({"NVSHMEM_REMOTE_TRANSPORT": "ibrc"}, {"multi_node": False}, [], None),
    "NVSHMEM's memory": (
        {"NVSHMEM_REMOTE_TRANSPORT": "libfabric"}, {}, ["nvshmem-cuda-vmm? NVSHMEM_REMOTE_TRANSPORT"], NVSHMEM,
    ),
    "NVSHMEM's memory by name": (
        {"NVSHMEM_DISABLE_CUDA_VMM": "no"}, {"under": NVSHMEM}, ["nvshmem-cuda-vmm? NVSHMEM_DISABLE_CUDA_VMM"],
        {"NVSHMEM_DISABLE_CUDA_VMM": "1"},
    ),
    "NVSHMEM's settings": (
        {"FI_CXI_OPTIMIZED_MRS": "1", **NVSHMEM}, {}, ["nvshmem-libfabric-settings? FI_CXI_OPTIMIZED_MRS"], NVSHMEM,
    ),
    "NVSHMEM's settings where the system chose it": (
        {"FI_CXI_DISABLE_HMEM_DEV_REGISTER": "0"}, {"under": NVSHMEM},
        ["nvshmem-libfabric-settings. FI_CXI_DISABLE_HMEM_DEV_REGISTER"], {},
    ),
    "NVSHMEM's settings as wanted": ({"FI_CXI_OPTIMIZED_MRS": "0", **NVSHMEM}, {}, [], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name):
    own, facts, expected, mended = CASES[name]
    assert verdicts(runtime(own, **facts)) == expected
    assert (mended is None) == (expected == [])
    if mended is not None:
        assert verdicts(runtime(mended, **facts)) == []


GPU, GRACE, NCCL, NODES, SLINGSHOT = "gpu", "grace_hopper", "uses_nccl", "multi_node", "slingshot"
ELSEWHERE = {GPU: None, GRACE: False, NCCL: False, NODES: False, SLINGSHOT: False}
# What has to hold for a rule to have anything to say; a case by its name where it differs from its rule.
NEEDS = {
    "eager-messages": {SLINGSHOT, NCCL, GRACE},
    "rendezvous-sizes": {SLINGSHOT},
    "mr-cache-monitor": {SLINGSHOT, NCCL},
    "host-register": {SLINGSHOT, NCCL, GPU},
    "rx-match-mode": {SLINGSHOT, NCCL, NODES},
    "cxi-queue-size": {SLINGSHOT},
    "cxi-paging": {SLINGSHOT},
    "translation of AMD": {SLINGSHOT, GRACE},
    "one-nic": {SLINGSHOT, GRACE, NODES},
    "gpu-direct-off": {SLINGSHOT, NCCL, GRACE, NODES},
    "nvlink-off": {NCCL, GRACE},
    "one-gpu": {GPU, NCCL, NODES},
    "tensor-registration": {NCCL},
    "InfiniBand by name": {SLINGSHOT, NCCL},
    "no name": {SLINGSHOT, NCCL, NODES},
    "nccl-net-missing": {NCCL},
    "nccl-plugin-off": {SLINGSHOT, NCCL, NODES},
    "nccl-plugin-name-lost": {NCCL},
    "ofi-protocol": {SLINGSHOT, NCCL},
    "ofi-rdma-only": {SLINGSHOT, NCCL},
    "nccl-gin": {SLINGSHOT, NCCL},
    "nccl-ib-unused": {SLINGSHOT, NCCL},
    "socket-interface": {SLINGSHOT, NCCL, NODES},
    "gloo-interface": set(),
    "another interface for Gloo": {SLINGSHOT, NODES},
    "no interface of a network for Gloo": {SLINGSHOT, NODES},
    "mpi-transport": {SLINGSHOT, NODES},
    "ucx-transport": {SLINGSHOT, NODES},
    "nvshmem-transport": {SLINGSHOT, NODES},
    "nvshmem-cuda-vmm": {SLINGSHOT, NODES},
    "nvshmem-libfabric-settings": {SLINGSHOT, NODES},
}


@pytest.mark.parametrize("name", [name for name, (_, _, expected, _) in CASES.items() if expected])
@pytest.mark.parametrize("fact", ELSEWHERE)
def test_where_a_rule_holds(name, fact):
    own, facts, expected, _ = CASES[name]
    needs = NEEDS.get(name, NEEDS[expected[0].split()[0].rstrip("?.")])
    found = verdicts(runtime(own, **{**facts, fact: ELSEWHERE[fact]}))
    assert found == ([] if fact in needs else expected)


def test_every_rule_has_a_case_and_a_story():
    fired = {
        verdict.rstrip("?.") for _, _, expected, _ in CASES.values() for verdict in (e.split()[0] for e in expected)
    }
    stories = load_chapter("tuning").stories
    assert fired == set(RULES) == set(stories)
    assert all(find_story(rule) is story for rule, story in stories.items())


@pytest.mark.parametrize(
    ("system", "mode"), [(name, mode) for name, system in SYSTEMS.items() for mode in system.networks]
)
@pytest.mark.parametrize("versions", [{}, {"nccl": "2.30.7", "aws_ofi_nccl": "1.20.0", "libfabric": "2.6.0"}])
def test_what_the_contracts_and_hooks_set_is_right(system, mode, versions):
    known = SYSTEMS[system]
    env = {**(known.hooks[mode].env if mode in known.hooks else {}), **known.env.get(mode, {})}
    slingshot = known.slingshot is not None and mode != "none"
    assert verdicts(runtime(env, slingshot=slingshot, network=mode, versions=versions)) == []


@pytest.mark.parametrize("name", CASES)
def test_what_others_set_is_not_the_files_fault(name):
    own, facts, _, _ = CASES[name]
    under = {**facts.get("under", {}), **own}
    assert verdicts(runtime({}, **{**facts, "under": under})) == []


@pytest.mark.parametrize("value", ["$VALUE", "${VALUE:-1}", "`value`", " "])
def test_values_that_are_not_known_yet_are_not_wrong(value):
    names = {name for own, _, _, _ in CASES.values() for name in own} - ({"NCCL_NET"} if value == " " else set())
    assert verdicts(runtime(dict.fromkeys(names, value))) == []


@pytest.mark.parametrize(
    "name",
    [*RDZV, "FI_CXI_RDZV_PROTO", "FI_MR_CACHE_MONITOR", "FI_CXI_DISABLE_HOST_REGISTER", "FI_CXI_RX_MATCH_MODE",
     "FI_CXI_DEFAULT_CQ_SIZE", "FI_CXI_ODP", "FI_CXI_DEVICE_NAME", "NCCL_NET_GDR_LEVEL", "NCCL_NET_GDR_C2C",
     "FI_HMEM_CUDA_USE_GDRCOPY", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "CUDA_VISIBLE_DEVICES", "NCCL_NET",
     "OFI_NCCL_PROTOCOL", "OMPI_MCA_pml", "OMPI_MCA_btl", "UCX_TLS", "NVSHMEM_REMOTE_TRANSPORT"],
)  # fmt: skip
def test_words_that_nobody_knows_are_not_wrong(name):
    assert verdicts(runtime({name: "whatever"}, under={"NCCL_NET_PLUGIN": "whatever"})) == []


def test_messages_name_the_values():
    [(_, eager)] = findings(runtime({RDZV[0]: "0"}))
    assert eager.message == (
        "messages of up to 2241 bytes are sent before the receiver is ready: "
        "FI_CXI_RDZV_GET_MIN is 2049, FI_CXI_RDZV_EAGER_SIZE is 2048"
    )
    [(_, eager)] = findings(runtime({RDZV[0]: "16384"}, under=NO_EAGER))
    assert eager.message.startswith("messages of up to 16384 bytes are sent before")
    [(_, sizes)] = findings(runtime({RDZV[0]: "16777216"}, uses_nccl=False))
    assert sizes.message == (
        "FI_CXI_RDZV_THRESHOLD=16777216 is more than FI_CXI_OFLOW_BUF_SIZE=12582912, so libfabric takes 16384"
    )
    [(_, level)] = findings(runtime({"NCCL_NET_GDR_LEVEL": "LOC"}))
    assert "NCCL_NET_GDR_LEVEL=LOC" in level.message
    assert level.hint == "set NCCL_NET_GDR_LEVEL to PHB"


NAMES = sorted({
    *(name for own, facts, _, _ in CASES.values() for name in (*own, *facts.get("under", {}))),
    *(name for prefix in family_prefixes() for name in load_family(prefix).variables),
})  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.sampled_from(
        ["0", "1", "^", "=", ",", "^,", "=,", "^=", "libfabric", "none", "hsn", "lo", "-1", "0x", "9" * 90]
    ),
)


@given(
    env=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8),
    hidden=st.sets(st.sampled_from(NAMES), max_size=3),
    versions=st.dictionaries(st.sampled_from(["nccl", "aws_ofi_nccl", "libfabric"]),
                             st.sampled_from(["0", "1.0.dev1", "2.26.2", "2.29.7", "99"])),
    facts=st.fixed_dictionaries({
        name: st.booleans() for name in ("grace_hopper", "slingshot", "multi_node", "uses_nccl")
    }),
    network=st.sampled_from([None, "none", "image", "hook-host"]),
    gpu=st.sampled_from([None, "sm_90"]),
)  # fmt: skip
@example(env={"FI_CXI_DEFAULT_CQ_SIZE": "9" * 90}, hidden=set(), versions={}, facts={}, network=None, gpu="sm_90")
@settings(max_examples=400, deadline=None)
def test_no_variables_make_a_rule_raise(env, hidden, versions, facts, network, gpu):
    job = Runtime(
        env=env, own=frozenset(env) - hidden, gpu=gpu, network=network,
        versions={name: Version(text) for name, text in versions.items()}, **facts,
    )  # fmt: skip
    for rule, finding in findings(job):
        assert finding.at[0] == "env", rule
        assert finding.at[1] in job.own, rule
        assert finding.message.strip()
