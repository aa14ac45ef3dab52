"""Rules about variables of MPI and NVSHMEM that do harm or nothing on GH200 over Slingshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from uenv_builder.core.rules.finding import Finding, about_variable
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.variables import load_family
from uenv_builder.model.errors import Severity

_IB_TRANSPORTS = {"ibrc", "ibdevx", "gpunetio"}
_UCX_OVER_NETWORK = {"all", "ib", "rc", "rc_v", "rc_x", "rc_mlx5", "ud", "ud_v", "ud_x", "dc", "dc_x", "tcp"}
_NVSHMEM_WANTS = {
    "FI_CXI_OPTIMIZED_MRS": ("0", "hang"),
    "FI_CXI_DISABLE_HMEM_DEV_REGISTER": ("1", "fail to start"),
    "FI_HMEM_CUDA_USE_GDRCOPY": ("1", "fail"),
}
"""What NVSHMEM's libfabric transport sets itself, and what it warns of where a job has set another value."""


def check_mpi_transport(runtime: Runtime) -> Iterator[Finding]:
    """Open MPI's ways around libfabric."""
    if not (runtime.slingshot and runtime.multi_node):
        return
    pml, cm = runtime.own_value("OMPI_MCA_pml"), runtime.value("OMPI_MCA_pml") == "cm"
    if pml == "ucx":
        yield about_variable(
            "OMPI_MCA_pml",
            "OMPI_MCA_pml=ucx: UCX has no transport for Slingshot, and takes TCP",
            hint="set OMPI_MCA_pml to cm, and OMPI_MCA_mtl to ofi",
        )
    btl = runtime.own_value("OMPI_MCA_btl")
    if btl and not cm and _chooses(btl, "tcp") and not btl.startswith("^"):
        yield about_variable(
            "OMPI_MCA_btl",
            f"OMPI_MCA_btl={btl} names tcp, and OMPI_MCA_pml is not cm",
            hint="set OMPI_MCA_pml to cm, and OMPI_MCA_mtl to ofi",
        )
    if (mtl := runtime.own_value("OMPI_MCA_mtl")) and not _chooses(mtl, "ofi"):
        yield about_variable(
            "OMPI_MCA_mtl",
            f"OMPI_MCA_mtl={mtl} leaves out ofi, Open MPI's way to libfabric",
            severity="error" if cm else None,
            hint="set OMPI_MCA_mtl to ofi",
        )
    for part in ("mtl_ofi", "opal_common_ofi"):
        name = f"OMPI_MCA_{part}_provider_include"
        if (chosen := runtime.own_value(name)) and not any(_chooses(chosen, word) for word in ("cxi", "lnx")):
            yield about_variable(name, f"{name}={chosen} leaves out cxi", hint=f"set {name} to cxi")


def _chooses(value: str, word: str) -> bool:
    """Whether a list of Open MPI, which ^ turns round, has `word`."""
    words = {part.strip().lower() for part in value.removeprefix("^").split(",")}
    return (word in words) != value.startswith("^")


def check_ucx(runtime: Runtime) -> Iterator[Finding]:
    """Networks chosen for UCX."""
    if not (runtime.slingshot and runtime.multi_node):
        return
    transports = {part.strip().lower() for part in (runtime.own_value("UCX_TLS") or "").split(",")}
    names = ["UCX_TLS"] if transports & _UCX_OVER_NETWORK else []
    for name in [*names, *(["UCX_NET_DEVICES"] if runtime.own_value("UCX_NET_DEVICES") else [])]:
        message = f"{name}={runtime.own_value(name)}: UCX has no transport for Slingshot"
        yield about_variable(name, message, hint=f"leave {name} out, and let MPI use libfabric")


def check_nvshmem_transport(runtime: Runtime) -> Iterator[Finding]:
    """NVSHMEM's way to other nodes."""
    if not (runtime.slingshot and runtime.multi_node):
        return
    name = "NVSHMEM_REMOTE_TRANSPORT"
    transport = (runtime.own_value(name) or "").lower()
    if transport in _IB_TRANSPORTS:
        yield about_variable(name, f"{name}={transport} needs InfiniBand, which Slingshot is not")
    elif transport in {"ucx", "none"}:
        yield about_variable(name, f"{name}={transport} has no way over Slingshot to other nodes", severity="warning")
    provider = runtime.own_value("NVSHMEM_LIBFABRIC_PROVIDER")
    if provider in {"efa", "verbs"} and _uses_libfabric(runtime):
        yield about_variable(
            "NVSHMEM_LIBFABRIC_PROVIDER",
            f"NVSHMEM_LIBFABRIC_PROVIDER={provider} is for another network",
            hint="set NVSHMEM_LIBFABRIC_PROVIDER to cxi",
        )
    if (runtime.own_value("NVSHMEM_IB_ENABLE_IBGDA") or "0")[0].lower() in "1ty":
        yield about_variable(
            "NVSHMEM_IB_ENABLE_IBGDA",
            "NVSHMEM_IB_ENABLE_IBGDA asks for InfiniBand, which Slingshot is not",
            severity="warning",
            hint="leave NVSHMEM_IB_ENABLE_IBGDA out",
        )
    if runtime.network is not None and name not in runtime.env:
        yield from _unset_transport(runtime)


def _unset_transport(runtime: Runtime) -> Iterator[Finding]:
    names = sorted(name for name in runtime.own if name.startswith("NVSHMEM_"))
    names = [name for name in names if name in load_family("NVSHMEM_").variables]
    if names:
        message = f"{names[0]} is set, and NVSHMEM_REMOTE_TRANSPORT is not: the default, ibrc, needs InfiniBand"
        yield about_variable(names[0], message, severity="warning")


def _uses_libfabric(runtime: Runtime) -> bool:
    return (runtime.value("NVSHMEM_REMOTE_TRANSPORT") or "").lower() == "libfabric"


def check_nvshmem_vmm(runtime: Runtime) -> Iterator[Finding]:
    """Memory that NVSHMEM's libfabric transport cannot register."""
    if not (runtime.slingshot and runtime.multi_node and _uses_libfabric(runtime)):
        return
    name, transport = "NVSHMEM_DISABLE_CUDA_VMM", "NVSHMEM_REMOTE_TRANSPORT"
    if (own := runtime.own_value(name)) and own[0].lower() in "0nf":
        yield about_variable(name, f"{name}={own} beside {transport}=libfabric")
    elif not runtime.env.get(name, "").strip() and transport in runtime.own:
        yield about_variable(transport, f"{transport}=libfabric without {name}=1")


def check_nvshmem_settings(runtime: Runtime) -> Iterator[Finding]:
    """Settings of libfabric that NVSHMEM wants otherwise."""
    if not (runtime.slingshot and runtime.multi_node and _uses_libfabric(runtime)):
        return
    severity: Severity | None = None if "NVSHMEM_REMOTE_TRANSPORT" in runtime.own else "note"
    for name, (wanted, harm) in _NVSHMEM_WANTS.items():
        if (value := runtime.own_value(name)) and value != wanted:
            yield about_variable(
                name,
                f"{name}={value}: NVSHMEM over libfabric wants {wanted}, and may {harm}",
                severity=severity,
                hint=f"leave {name} out: NVSHMEM sets it itself",
            )


RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    "mpi-transport": check_mpi_transport,
    "ucx-transport": check_ucx,
    "nvshmem-transport": check_nvshmem_transport,
    "nvshmem-cuda-vmm": check_nvshmem_vmm,
    "nvshmem-libfabric-settings": check_nvshmem_settings,
}
"""The rules by id; each has its story in knowledge/rules/tuning.yaml."""
