"""Rules about combinations of variables, wherever these are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.runtime import Runtime

_LL128_SINCE = Version("2.27.3")
_OFI_NAME_SINCE = Version("1.15")


def check_ll128(runtime: Runtime) -> Iterator[Finding]:
    """NCCL's LL128 protocol on GH200 over Slingshot."""
    if not (runtime.grace_hopper and runtime.slingshot and runtime.uses_nccl):
        return
    protocols = runtime.env.get("NCCL_PROTO", "")
    names = {name.strip().upper() for name in protocols.lstrip("^").split(",")}
    if protocols and not protocols.startswith("^"):
        if "LL128" in names:
            yield Finding(message=f"NCCL_PROTO={protocols} turns LL128 on", at=("env", "NCCL_PROTO"))
        return
    nccl = runtime.versions.get("nccl")
    on = nccl is None or nccl >= _LL128_SINCE
    unset = not protocols and (runtime.network in {"hook-host", "hook-artifact"} or not runtime.own)
    if on and "LL128" not in names and runtime.env.get("NCCL_LL128_C2C") != "0" and not unset:
        value = f"NCCL_PROTO={protocols} leaves" if protocols else "NCCL_PROTO is not set, which leaves"
        yield Finding(message=f"{value} LL128 on", at=("env", "NCCL_PROTO"))


def check_net_plugin(runtime: Runtime) -> Iterator[Finding]:
    """NCCL_NET beside NCCL_NET_PLUGIN."""
    plugin, net = runtime.env.get("NCCL_NET_PLUGIN"), runtime.env.get("NCCL_NET")
    if not plugin or not runtime.uses_nccl:
        return
    version = runtime.versions.get("aws_ofi_nccl")
    if net:
        yield Finding(
            message=f'NCCL_NET_PLUGIN={plugin} beside NCCL_NET="{net}": NCCL then does not try libnccl-net.so',
            at=("env", "NCCL_NET_PLUGIN"),
        )
    elif plugin == "ofi" and version is not None and version < _OFI_NAME_SINCE:
        yield Finding(
            message=f"NCCL_NET_PLUGIN=ofi means libnccl-net-ofi.so, and aws-ofi-nccl {version} has no such file",
            at=("env", "NCCL_NET_PLUGIN"),
        )


def check_net_name(runtime: Runtime) -> Iterator[Finding]:
    """Quotes within NCCL_NET, or TCP by its name."""
    net = runtime.env.get("NCCL_NET", "")
    if any(sign in net for sign in "\"'"):
        yield Finding(
            message=f"NCCL_NET holds quotes: {net}", at=("env", "NCCL_NET"), hint="write AWS Libfabric without quotes"
        )
    elif net.lower() == "socket" and runtime.slingshot and runtime.multi_node:
        yield Finding(message="NCCL_NET=Socket keeps NCCL on TCP", at=("env", "NCCL_NET"))


def check_alt_read(runtime: Runtime) -> Iterator[Finding]:
    """The alternative rendezvous protocol without the launch option that it needs."""
    # libfabric reads - and _ as the same here
    protocol = runtime.env.get("FI_CXI_RDZV_PROTO", "").replace("-", "_")
    if runtime.srun_options is None or protocol != "alt_read" or not runtime.slingshot:
        return
    if not any("disable_rdzv_get" in option for option in runtime.srun_options):
        yield Finding(
            message="FI_CXI_RDZV_PROTO=alt_read, and the launch line has no --network=disable_rdzv_get",
            at=("env", "FI_CXI_RDZV_PROTO"),
        )


def check_provider(runtime: Runtime) -> Iterator[Finding]:
    """A choice of libfabric's providers that leaves Slingshot's out."""
    chosen = runtime.env.get("FI_PROVIDER", "")
    if not chosen or not runtime.slingshot:
        return
    names = {name.strip() for part in chosen.lstrip("^").split(",") for name in part.split(";")}
    if "lnx" in names and "cxi" in runtime.env.get("FI_LNX_PROV_LINKS", ""):
        names.add("cxi")  # the linked provider of Open MPI for Slingshot between nodes and shared memory within them
    if ("cxi" in names) == chosen.startswith("^"):
        yield Finding(message=f"FI_PROVIDER={chosen} leaves out cxi", at=("env", "FI_PROVIDER"))


def check_gpu_mpi(runtime: Runtime) -> Iterator[Finding]:
    """A GPU-aware MPI beside NCCL."""
    if runtime.uses_nccl and runtime.gpu and runtime.env.get("MPICH_GPU_SUPPORT_ENABLED") == "1":
        yield Finding(message="MPICH_GPU_SUPPORT_ENABLED=1 beside NCCL", at=("env", "MPICH_GPU_SUPPORT_ENABLED"))


RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    "ll128-gh200": check_ll128,
    "nccl-net-plugin": check_net_plugin,
    "nccl-net": check_net_name,
    "alt-read-launch": check_alt_read,
    "fi-provider": check_provider,
    "gpu-aware-mpi": check_gpu_mpi,
}
"""The rules by id; each has its story in knowledge/rules/settings.yaml."""
