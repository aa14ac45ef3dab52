"""Rules about variables of NCCL, its plugin and torch that do harm or nothing on GH200 over Slingshot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding, about_variable
from uenv_builder.core.rules.runtime import FALSE, TRUE, Runtime
from uenv_builder.core.variables import load_family, read_leading
from uenv_builder.model.errors import Severity

_NEAR = {"LOC": 0, "NVL": 0, "NVB": 0, "0": 0, "C2C": 1, "PIX": 1, "PXB": 1, "1": 1, "2": 1}
"""Levels under that of a GH200's GPU and NIC: 0 for all releases, 1 for those where NCCL_NET_GDR_C2C does not help."""
_FAR = {"P2C", "PHB", "SYS", "3", "4", "5"}


def check_gpu_direct(runtime: Runtime) -> Iterator[Finding]:
    """Variables that keep the NIC from the GPU's memory."""
    if not (runtime.grace_hopper and runtime.multi_node and runtime.nccl_on_slingshot):
        return
    if (level := runtime.own_value("NCCL_NET_GDR_LEVEL")) and _is_too_near(runtime, level):
        message = f"NCCL_NET_GDR_LEVEL={level} is less than the distance of a GH200's GPU and NIC"
        yield about_variable("NCCL_NET_GDR_LEVEL", message, hint="set NCCL_NET_GDR_LEVEL to PHB")
    elif runtime.own_value("NCCL_NET_GDR_C2C") == "0" and runtime.env.get("NCCL_NET_GDR_LEVEL", "") in {"", *_NEAR}:
        message = "NCCL_NET_GDR_C2C=0, and no NCCL_NET_GDR_LEVEL that allows it all the same"
        yield about_variable(
            "NCCL_NET_GDR_C2C", message, hint="set NCCL_NET_GDR_C2C to 1, and NCCL_NET_GDR_LEVEL to PHB"
        )
    if runtime.own_value("NCCL_NET_GDR_READ") == "0":
        message = "NCCL_NET_GDR_READ=0 copies all that is sent through host memory"
        yield about_variable("NCCL_NET_GDR_READ", message, hint="set NCCL_NET_GDR_READ to 1")
    if runtime.says(name := "FI_HMEM_CUDA_USE_GDRCOPY", FALSE):
        message = f"{name}={runtime.own_value(name)}: the NCCL plugin then gives up the GPU's memory altogether"
        yield about_variable(
            name,
            message,
            hint=f"leave {name} out; FI_CXI_RDZV_THRESHOLD, FI_CXI_RDZV_GET_MIN and FI_CXI_RDZV_EAGER_SIZE at 0 avoid "
            "the copy",
        )
    if (kinds := runtime.own_value("FI_HMEM")) and "cuda" not in {kind.strip().lower() for kind in kinds.split(",")}:
        yield about_variable("FI_HMEM", f"FI_HMEM={kinds} leaves out cuda", hint="leave FI_HMEM out")


def _is_too_near(runtime: Runtime, level: str) -> bool:
    nccl = runtime.versions.get("nccl")
    c2c = runtime.value("NCCL_NET_GDR_C2C") or ("0" if nccl and nccl < Version("2.27.3") else "1")
    helps = c2c != "0" and not (nccl and (nccl < Version("2.26.2") or nccl >= Version("2.29.2")))
    return level in _NEAR and (_NEAR[level] == 0 or not helps)


def check_nvlink(runtime: Runtime) -> Iterator[Finding]:
    """GPUs of one node kept from each other."""
    if not (runtime.grace_hopper and runtime.uses_nccl):
        return
    disable = runtime.own_value("NCCL_P2P_DISABLE")
    if disable and read_leading(disable, load_family("NCCL_")) == 1:
        yield about_variable("NCCL_P2P_DISABLE", f"NCCL_P2P_DISABLE={disable} keeps NCCL from NVLink")
    elif (level := runtime.own_value("NCCL_P2P_LEVEL")) in {"LOC", "0"}:
        yield about_variable("NCCL_P2P_LEVEL", f"NCCL_P2P_LEVEL={level} keeps NCCL from NVLink")


def check_one_gpu(runtime: Runtime) -> Iterator[Finding]:
    """All ranks of a node on one of its GPUs."""
    name = "CUDA_VISIBLE_DEVICES"
    value = runtime.own_value(name) or ""
    if runtime.gpu and runtime.uses_nccl and runtime.multi_node and re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w-]+", value):
        yield about_variable(name, f"{name}={value} shows one GPU, and the same one, to all ranks of a node")


def check_tensor_registration(runtime: Runtime) -> Iterator[Finding]:
    """Registration of torch's memory with NCCL beside expandable segments."""
    hook = "TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK"
    if not runtime.uses_nccl or (runtime.value(hook) or "").lower() not in {*TRUE, "t", "y"}:
        return
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        expandable = re.search(r"expandable_segments\s*:\s*True\b", runtime.value(name) or "")
        at = next((own for own in (hook, name) if own in runtime.own), None)
        if expandable and at:
            yield about_variable(at, f"{hook} has no effect beside expandable_segments:True in {name}")
            return


_LOST = Version("2.28.3"), Version("2.29.7")
"""The first and the last release that forget a plugin's name."""
_RDMA_PLUGIN, _RDMA_LIBFABRIC = Version("1.20"), Version("2.5")
"""The first releases with which the plugin's RDMA protocol can work on Slingshot."""
_RDMA_ONLY = re.compile(
    r"OFI_NCCL_(FORCE_NUM_RAILS|MIN_STRIPE_SIZE|ROUND_ROBIN_THRESHOLD|EAGER_MAX_SIZE|EARLY_COMPLETION|RDMA_\w+)"
)


def check_net(runtime: Runtime) -> Iterator[Finding]:
    """A network by name that the job does not have."""
    net = runtime.own_value("NCCL_NET")
    if not runtime.uses_nccl:
        return
    if net is None and "NCCL_NET" in runtime.own and not runtime.env.get("NCCL_NET", "").strip():
        if runtime.slingshot and runtime.multi_node:
            message = "NCCL_NET is empty: NCCL finds no network of that name, or takes TCP where an engine unsets it"
            yield about_variable("NCCL_NET", message, severity="warning")
    elif net and net.lower() == "ib" and runtime.slingshot:
        yield about_variable("NCCL_NET", f"NCCL_NET={net} asks for InfiniBand, which Slingshot is not")
    elif net and net.lower() == "aws libfabric" and runtime.network == "none":
        yield about_variable(
            "NCCL_NET",
            f"NCCL_NET={net} in network mode none, which brings no such plugin",
            severity="warning",
            hint="leave NCCL_NET out, or choose a network mode with a plugin",
        )


def check_plugin_off(runtime: Runtime) -> Iterator[Finding]:
    """NCCL without a plugin on Slingshot."""
    name = "NCCL_NET_PLUGIN"
    off = (runtime.own_value(name) or "").lower() == "none"
    if off and runtime.nccl_on_slingshot and runtime.multi_node and not runtime.env.get("NCCL_NET"):
        yield about_variable(name, f"{name}={runtime.own_value(name)} keeps NCCL on TCP")


def check_plugin_lost(runtime: Runtime) -> Iterator[Finding]:
    """A plugin's name that NCCL forgets when it unloads the plugin."""
    plugin, nccl = runtime.own_value("NCCL_NET_PLUGIN"), runtime.versions.get("nccl")
    if not runtime.uses_nccl or plugin is None or plugin.lower() in {"none", "libnccl-net.so"}:
        return
    if nccl is None or not _LOST[0] <= nccl <= _LOST[1]:
        return
    if read_leading(runtime.value("NCCL_NET_PLUGIN_REF_COUNT") or "", load_family("NCCL_")) <= 0:
        yield about_variable(
            "NCCL_NET_PLUGIN", f"NCCL {nccl} forgets NCCL_NET_PLUGIN={plugin} once no communicator is left"
        )


def check_ofi_protocol(runtime: Runtime) -> Iterator[Finding]:
    """The plugin's RDMA protocol."""
    name, switch = "OFI_NCCL_PROTOCOL", "FI_CXI_ENABLE_WRITEDATA"
    if not runtime.nccl_on_slingshot or (runtime.own_value(name) or "").upper() != "RDMA":
        return
    plugin, libfabric = runtime.versions.get("aws_ofi_nccl"), runtime.versions.get("libfabric")
    if plugin is not None and plugin < _RDMA_PLUGIN:
        yield about_variable(name, f"{name}=RDMA: aws-ofi-nccl {plugin} has no such protocol for Slingshot's NIC")
    elif libfabric is not None and libfabric < _RDMA_LIBFABRIC:
        yield about_variable(
            name, f"{name}=RDMA: libfabric {libfabric} cannot send data with the completion of a write"
        )
    elif (runtime.value(switch) or "").lower() not in TRUE:
        severity: Severity | None = None if plugin and libfabric else "warning"
        yield about_variable(name, f"{name}=RDMA without {switch}=1: writes then fail", severity=severity)


def check_rdma_only(runtime: Runtime) -> Iterator[Finding]:
    """Variables of the plugin that only its RDMA protocol reads."""
    if not runtime.nccl_on_slingshot or (runtime.value("OFI_NCCL_PROTOCOL") or "").upper() == "RDMA":
        return
    for name in sorted(runtime.own):
        if _RDMA_ONLY.fullmatch(name) and runtime.own_value(name):
            yield about_variable(
                name, f"{name} does nothing: only the plugin's RDMA protocol reads it", hint=f"leave {name} out"
            )


def check_gin(runtime: Runtime) -> Iterator[Finding]:
    """NCCL's networking from within kernels."""
    if not runtime.nccl_on_slingshot or runtime.value("NCCL_GIN_ENABLE") == "0":
        return
    for name in ("NCCL_GIN_TYPE", "OFI_NCCL_GIN_TYPE", "NCCL_GIN_PLUGIN"):
        value = runtime.own_value(name)
        if value and value.lower() not in {"-1", "none"}:
            yield about_variable(name, f"{name}={value} asks for GPU-initiated networking", hint=f"leave {name} out")


def check_infiniband(runtime: Runtime) -> Iterator[Finding]:
    """Variables of NCCL's InfiniBand transport."""
    if runtime.nccl_on_slingshot:
        for name in sorted(runtime.own):
            if name.startswith("NCCL_IB_") and runtime.own_value(name):
                yield about_variable(
                    name, f"{name} is about InfiniBand, and does nothing on Slingshot", hint=f"leave {name} out"
                )


def check_socket_interface(runtime: Runtime) -> Iterator[Finding]:
    """The interfaces over which ranks of NCCL find each other."""
    name = "NCCL_SOCKET_IFNAME"
    value = runtime.own_value(name)
    if not value or len(value) < 2 or not (runtime.nccl_on_slingshot and runtime.multi_node):
        return
    excluded, names = value.startswith("^"), value.removeprefix("^")
    exact, names = names.startswith("="), names.removeprefix("=")
    words = [word.strip().partition(":")[0] for word in names.split(",") if word.strip()]
    all_of_them = not exact and any("hsn".startswith(word) for word in words)
    some_of_them = all_of_them or any(re.fullmatch(r"hsn[0-9]+", word) for word in words)
    left_out = all_of_them if excluded else not some_of_them
    if left_out:
        yield about_variable(name, f"{name}={value} leaves out Slingshot's interfaces")


def check_gloo_interface(runtime: Runtime) -> Iterator[Finding]:
    """The interfaces of torch's CPU backend, by their whole names."""
    name = "GLOO_SOCKET_IFNAME"
    value = runtime.own_value(name)
    if not value or len(value) < 2:
        return
    words = value.split(",")
    wrong = [word for word in words if word in {"", "hsn"} or re.search(r"[\^=*?\s]", word)]
    if wrong:
        yield about_variable(name, f'{name}={value}: no interface has the name "{wrong[0]}"')
    elif runtime.slingshot and runtime.multi_node and not any(word.startswith("hsn") for word in words):
        yield about_variable(name, f"{name}={value} names no interface of Slingshot", severity="warning")


RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    "gpu-direct-off": check_gpu_direct,
    "nvlink-off": check_nvlink,
    "one-gpu": check_one_gpu,
    "tensor-registration": check_tensor_registration,
    "nccl-net-missing": check_net,
    "nccl-plugin-off": check_plugin_off,
    "nccl-plugin-name-lost": check_plugin_lost,
    "ofi-protocol": check_ofi_protocol,
    "ofi-rdma-only": check_rdma_only,
    "nccl-gin": check_gin,
    "nccl-ib-unused": check_infiniband,
    "socket-interface": check_socket_interface,
    "gloo-interface": check_gloo_interface,
}
"""The rules by id; each has its story in knowledge/rules/tuning.yaml."""
