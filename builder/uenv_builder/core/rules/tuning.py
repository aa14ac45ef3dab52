"""Rules about variables that tune NCCL, libfabric, MPI and NVSHMEM, and do harm or nothing on GH200 over Slingshot.

As in settings.py, what the checked file does not set itself is not its fault. Empty values count as unset, and values
that a shell or an engine fills in are not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from packaging.version import Version

from uenv_builder.core.rules.finding import Finding
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.variables import load_family, read_integer, read_leading
from uenv_builder.model.errors import Severity

_FILLED_IN = re.compile(r"[$`]")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def _value(runtime: Runtime, name: str) -> str | None:
    text = runtime.env.get(name, "").strip()
    return None if not text or _FILLED_IN.search(text) else text


def _own(runtime: Runtime, name: str) -> str | None:
    return _value(runtime, name) if name in runtime.own else None


def _says(runtime: Runtime, name: str, words: set[str]) -> bool:
    """Whether the file sets `name` to one of `words`."""
    return (_own(runtime, name) or "").lower() in words


def _size(runtime: Runtime, name: str, default: int) -> int | None:
    """The size that libfabric reads, `default` where it is not set; None for what is no size."""
    if not runtime.env.get(name, "").strip():
        return default
    number = read_integer(_value(runtime, name) or "", load_family("FI_CXI_"))
    return number if number is not None and number >= 0 else None


def _finding(name: str, message: str, *, severity: Severity | None = None, hint: str | None = None) -> Finding:
    return Finding(message=message, at=("env", name), severity=severity, hint=hint)


def _nccl_on_slingshot(runtime: Runtime) -> bool:
    return runtime.slingshot and runtime.uses_nccl


# libfabric's provider for Slingshot

_THRESHOLD, _GET_MIN, _EAGER = "FI_CXI_RDZV_THRESHOLD", "FI_CXI_RDZV_GET_MIN", "FI_CXI_RDZV_EAGER_SIZE"
_RENDEZVOUS_DEFAULTS = {_THRESHOLD: 16384, _GET_MIN: 2049, _EAGER: 2048}
_OVERFLOW = "FI_CXI_OFLOW_BUF_SIZE"
_OVERFLOW_DEFAULT = 12 << 20
_WITHIN_COMMAND = 192
"""The bytes that fit into a command: libfabric raises a lower threshold to them."""
_QUEUE_DEFAULTS = {"FI_CXI_DEFAULT_CQ_SIZE": 131072, "FI_CXI_DEFAULT_TX_SIZE": 1024}
"""The defaults of libfabric since 2.2."""


def check_eager(runtime: Runtime) -> Iterator[Finding]:
    """Rendezvous settings that still send some messages of NCCL before the receiver is ready."""
    own = [name for name in _RENDEZVOUS_DEFAULTS if _own(runtime, name) is not None]
    if _own(runtime, "FI_CXI_RDZV_PROTO") in {"alt_read", "alt-read"}:
        own.append("FI_CXI_RDZV_PROTO")
    if not own:
        return
    sizes = {name: _size(runtime, name, default) for name, default in _RENDEZVOUS_DEFAULTS.items()}
    copied = (_value(runtime, "FI_HMEM_CUDA_USE_GDRCOPY") or "").lower() not in _FALSE
    left = [name for name in sizes if sizes[name]]
    if not (left and copied and runtime.grace_hopper and _nccl_on_slingshot(runtime)) or None in sizes.values():
        return
    at = next((name for name in left if name in own), own[0])
    shown = ", ".join(f"{name} is {sizes[name]}" for name in left)
    eager = max(sizes[_THRESHOLD] or 0, _WITHIN_COMMAND) + (sizes[_GET_MIN] or 0)
    what = f"messages of up to {eager} bytes" if left != [_EAGER] else "the first bytes of each message"
    yield _finding(at, f"{what} are sent before the receiver is ready: {shown}")


def check_rendezvous_sizes(runtime: Runtime) -> Iterator[Finding]:
    """Rendezvous sizes that libfabric replaces by others."""
    if not any(_own(runtime, name) for name in (*_RENDEZVOUS_DEFAULTS, _OVERFLOW)):
        return
    threshold, get_min, eager = (_size(runtime, name, default) for name, default in _RENDEZVOUS_DEFAULTS.items())
    overflow = _size(runtime, _OVERFLOW, _OVERFLOW_DEFAULT)
    if not runtime.slingshot or threshold is None or get_min is None or eager is None or overflow is None:
        return
    if threshold > overflow:
        yield from _replaced(runtime, _THRESHOLD, f"{threshold} is more than {_OVERFLOW}={overflow}", "16384")
    elif get_min > overflow - threshold:
        text = f"{get_min} with {_THRESHOLD}={threshold} is more than {_OVERFLOW}={overflow}"
        yield from _replaced(runtime, _GET_MIN, text, "0")
    if _own(runtime, _EAGER) and 0 < threshold < eager:
        yield from _replaced(runtime, _EAGER, f"{eager} is more than {_THRESHOLD}={threshold}", str(threshold))


def _replaced(runtime: Runtime, name: str, why: str, used: str) -> Iterator[Finding]:
    at = next((own for own in (name, _THRESHOLD, _OVERFLOW) if _own(runtime, own)), None)
    if at is not None:
        yield _finding(at, f"{name}={why}, so libfabric takes {used}")


def check_cache_monitor(runtime: Runtime) -> Iterator[Finding]:
    """A registration cache that deadlocks beside NCCL, or is off."""
    if not _nccl_on_slingshot(runtime):
        return
    monitor = _own(runtime, "FI_MR_CACHE_MONITOR")
    if monitor == "memhooks":
        yield _finding("FI_MR_CACHE_MONITOR", "FI_MR_CACHE_MONITOR=memhooks can deadlock beside NCCL")
    elif monitor == "disabled":
        message = "FI_MR_CACHE_MONITOR=disabled: host memory is registered again for each transfer"
        yield _finding("FI_MR_CACHE_MONITOR", message, severity="note")
    if _own(runtime, "FI_MR_CACHE_MAX_COUNT") == "0":
        yield _finding(
            "FI_MR_CACHE_MAX_COUNT", "FI_MR_CACHE_MAX_COUNT=0 switches the registration cache off",
            hint="leave FI_MR_CACHE_MAX_COUNT out, or set it to 524288",
        )  # fmt: skip


def check_host_register(runtime: Runtime) -> Iterator[Finding]:
    """Registration of the provider's host buffers with the GPU."""
    name = "FI_CXI_DISABLE_HOST_REGISTER"
    if _nccl_on_slingshot(runtime) and runtime.gpu and _says(runtime, name, _FALSE):
        yield _finding(name, f"{name}={_own(runtime, name)}: calls of libfabric allocate with CUDA while NCCL runs")


def check_match_mode(runtime: Runtime) -> Iterator[Finding]:
    """Messages matched by the NIC alone."""
    name = "FI_CXI_RX_MATCH_MODE"
    if _nccl_on_slingshot(runtime) and runtime.multi_node and _own(runtime, name) == "hardware":
        yield _finding(name, f"{name}=hardware leaves no way out when the NIC's entries for messages are used up")


def check_queue_sizes(runtime: Runtime) -> Iterator[Finding]:
    """Queues smaller than libfabric's own."""
    for name, default in _QUEUE_DEFAULTS.items():
        size = _size(runtime, name, default) if _own(runtime, name) else None
        if runtime.slingshot and size is not None and 0 < size < default:
            yield _finding(name, f"{name}={size} is less than libfabric's own {default}",
                           hint=f"set {name} to at least {default}")  # fmt: skip


def check_paging(runtime: Runtime) -> Iterator[Finding]:
    """Page faults of the NIC, and translation that Grace does not have."""
    if not runtime.slingshot:
        return
    for name in ("FI_CXI_ODP", "FI_CXI_FORCE_ODP"):
        if _says(runtime, name, _TRUE):
            yield _finding(name, f"{name}={_own(runtime, name)} uses on-demand paging, which is not supported yet")
    if runtime.grace_hopper and _says(runtime, "FI_CXI_ATS", _TRUE):
        message = "FI_CXI_ATS does nothing on Grace: the driver has address translation services for AMD hosts alone"
        yield _finding("FI_CXI_ATS", message, severity="note", hint="leave FI_CXI_ATS out")


def check_one_nic(runtime: Runtime) -> Iterator[Finding]:
    """All ranks of a node on one of its NICs."""
    name = "FI_CXI_DEVICE_NAME"
    value = _own(runtime, name) or ""
    if runtime.grace_hopper and runtime.slingshot and runtime.multi_node and re.fullmatch(r"cxi[0-9]+", value):
        yield _finding(name, f"{name}={value} puts all ranks of a node on one NIC; each GH200 has its own")


# NCCL's way between GPUs

_NEAR = {"LOC": 0, "NVL": 0, "NVB": 0, "0": 0, "C2C": 1, "PIX": 1, "PXB": 1, "1": 1, "2": 1}
"""Levels under that of a GH200's GPU and NIC: 0 for all releases, 1 for those where NCCL_NET_GDR_C2C does not help."""
_FAR = {"P2C", "PHB", "SYS", "3", "4", "5"}


def check_gpu_direct(runtime: Runtime) -> Iterator[Finding]:
    """Variables that keep the NIC from the GPU's memory."""
    if not (runtime.grace_hopper and runtime.multi_node and _nccl_on_slingshot(runtime)):
        return
    if (level := _own(runtime, "NCCL_NET_GDR_LEVEL")) and _is_too_near(runtime, level):
        message = f"NCCL_NET_GDR_LEVEL={level} is less than the distance of a GH200's GPU and NIC"
        yield _finding("NCCL_NET_GDR_LEVEL", message, hint="set NCCL_NET_GDR_LEVEL to PHB")
    elif _own(runtime, "NCCL_NET_GDR_C2C") == "0" and runtime.env.get("NCCL_NET_GDR_LEVEL", "") in {"", *_NEAR}:
        message = "NCCL_NET_GDR_C2C=0, and no NCCL_NET_GDR_LEVEL that allows it all the same"
        yield _finding("NCCL_NET_GDR_C2C", message, hint="set NCCL_NET_GDR_C2C to 1, and NCCL_NET_GDR_LEVEL to PHB")
    if _own(runtime, "NCCL_NET_GDR_READ") == "0":
        message = "NCCL_NET_GDR_READ=0 copies all that is sent through host memory"
        yield _finding("NCCL_NET_GDR_READ", message, hint="set NCCL_NET_GDR_READ to 1")
    if _says(runtime, name := "FI_HMEM_CUDA_USE_GDRCOPY", _FALSE):
        message = f"{name}={_own(runtime, name)}: the NCCL plugin then gives up the GPU's memory altogether"
        yield _finding(
            name, message, hint=f"leave {name} out; {_THRESHOLD}, {_GET_MIN} and {_EAGER} at 0 avoid the copy"
        )
    if (kinds := _own(runtime, "FI_HMEM")) and "cuda" not in {kind.strip().lower() for kind in kinds.split(",")}:
        yield _finding("FI_HMEM", f"FI_HMEM={kinds} leaves out cuda", hint="leave FI_HMEM out")


def _is_too_near(runtime: Runtime, level: str) -> bool:
    nccl = runtime.versions.get("nccl")
    c2c = _value(runtime, "NCCL_NET_GDR_C2C") or ("0" if nccl and nccl < Version("2.27.3") else "1")
    helps = c2c != "0" and not (nccl and (nccl < Version("2.26.2") or nccl >= Version("2.29.2")))
    return level in _NEAR and (_NEAR[level] == 0 or not helps)


def check_nvlink(runtime: Runtime) -> Iterator[Finding]:
    """GPUs of one node kept from each other."""
    if not (runtime.grace_hopper and runtime.uses_nccl):
        return
    disable = _own(runtime, "NCCL_P2P_DISABLE")
    if disable and read_leading(disable, load_family("NCCL_")) == 1:
        yield _finding("NCCL_P2P_DISABLE", f"NCCL_P2P_DISABLE={disable} keeps NCCL from NVLink")
    elif (level := _own(runtime, "NCCL_P2P_LEVEL")) in {"LOC", "0"}:
        yield _finding("NCCL_P2P_LEVEL", f"NCCL_P2P_LEVEL={level} keeps NCCL from NVLink")


def check_one_gpu(runtime: Runtime) -> Iterator[Finding]:
    """All ranks of a node on one of its GPUs."""
    name = "CUDA_VISIBLE_DEVICES"
    value = _own(runtime, name) or ""
    if runtime.gpu and runtime.uses_nccl and runtime.multi_node and re.fullmatch(r"[0-9]+|(GPU|MIG)-[\w-]+", value):
        yield _finding(name, f"{name}={value} shows one GPU, and the same one, to all ranks of a node")


def check_tensor_registration(runtime: Runtime) -> Iterator[Finding]:
    """Registration of torch's memory with NCCL beside expandable segments."""
    hook = "TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK"
    if not runtime.uses_nccl or (_value(runtime, hook) or "").lower() not in {*_TRUE, "t", "y"}:
        return
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        expandable = re.search(r"expandable_segments\s*:\s*True\b", _value(runtime, name) or "")
        at = next((own for own in (hook, name) if own in runtime.own), None)
        if expandable and at:
            yield _finding(at, f"{hook} has no effect beside expandable_segments:True in {name}")
            return


# NCCL's network and its plugins

_LOST = Version("2.28.3"), Version("2.29.7")
"""The first and the last release that forget a plugin's name."""
_RDMA_PLUGIN, _RDMA_LIBFABRIC = Version("1.20"), Version("2.5")
"""The first releases with which the plugin's RDMA protocol can work on Slingshot."""
_RDMA_ONLY = re.compile(
    r"OFI_NCCL_(FORCE_NUM_RAILS|MIN_STRIPE_SIZE|ROUND_ROBIN_THRESHOLD|EAGER_MAX_SIZE|EARLY_COMPLETION|RDMA_\w+)"
)


def check_net(runtime: Runtime) -> Iterator[Finding]:
    """A network by name that the job does not have."""
    net = _own(runtime, "NCCL_NET")
    if not runtime.uses_nccl:
        return
    if net is None and "NCCL_NET" in runtime.own and not runtime.env.get("NCCL_NET", "").strip():
        if runtime.slingshot and runtime.multi_node:
            message = "NCCL_NET is empty: NCCL finds no network of that name, or takes TCP where an engine unsets it"
            yield _finding("NCCL_NET", message, severity="warning")
    elif net and net.lower() == "ib" and runtime.slingshot:
        yield _finding("NCCL_NET", f"NCCL_NET={net} asks for InfiniBand, which Slingshot is not")
    elif net and net.lower() == "aws libfabric" and runtime.network == "none":
        yield _finding(
            "NCCL_NET", f"NCCL_NET={net} in network mode none, which brings no such plugin",
            severity="warning", hint="leave NCCL_NET out, or choose a network mode with a plugin",
        )  # fmt: skip


def check_plugin_off(runtime: Runtime) -> Iterator[Finding]:
    """NCCL without a plugin on Slingshot."""
    name = "NCCL_NET_PLUGIN"
    off = (_own(runtime, name) or "").lower() == "none"
    if off and _nccl_on_slingshot(runtime) and runtime.multi_node and not runtime.env.get("NCCL_NET"):
        yield _finding(name, f"{name}={_own(runtime, name)} keeps NCCL on TCP")


def check_plugin_lost(runtime: Runtime) -> Iterator[Finding]:
    """A plugin's name that NCCL forgets when it unloads the plugin."""
    plugin, nccl = _own(runtime, "NCCL_NET_PLUGIN"), runtime.versions.get("nccl")
    if not runtime.uses_nccl or plugin is None or plugin.lower() in {"none", "libnccl-net.so"}:
        return
    if nccl is None or not _LOST[0] <= nccl <= _LOST[1]:
        return
    if read_leading(_value(runtime, "NCCL_NET_PLUGIN_REF_COUNT") or "", load_family("NCCL_")) <= 0:
        yield _finding("NCCL_NET_PLUGIN", f"NCCL {nccl} forgets NCCL_NET_PLUGIN={plugin} once no communicator is left")


def check_ofi_protocol(runtime: Runtime) -> Iterator[Finding]:
    """The plugin's RDMA protocol."""
    name, switch = "OFI_NCCL_PROTOCOL", "FI_CXI_ENABLE_WRITEDATA"
    if not _nccl_on_slingshot(runtime) or (_own(runtime, name) or "").upper() != "RDMA":
        return
    plugin, libfabric = runtime.versions.get("aws_ofi_nccl"), runtime.versions.get("libfabric")
    if plugin is not None and plugin < _RDMA_PLUGIN:
        yield _finding(name, f"{name}=RDMA: aws-ofi-nccl {plugin} has no such protocol for Slingshot's NIC")
    elif libfabric is not None and libfabric < _RDMA_LIBFABRIC:
        yield _finding(name, f"{name}=RDMA: libfabric {libfabric} cannot send data with the completion of a write")
    elif (_value(runtime, switch) or "").lower() not in _TRUE:
        severity: Severity | None = None if plugin and libfabric else "warning"
        yield _finding(name, f"{name}=RDMA without {switch}=1: writes then fail", severity=severity)


def check_rdma_only(runtime: Runtime) -> Iterator[Finding]:
    """Variables of the plugin that only its RDMA protocol reads."""
    if not _nccl_on_slingshot(runtime) or (_value(runtime, "OFI_NCCL_PROTOCOL") or "").upper() == "RDMA":
        return
    for name in sorted(runtime.own):
        if _RDMA_ONLY.fullmatch(name) and _own(runtime, name):
            yield _finding(name, f"{name} does nothing: only the plugin's RDMA protocol reads it",
                           hint=f"leave {name} out")  # fmt: skip


def check_gin(runtime: Runtime) -> Iterator[Finding]:
    """NCCL's networking from within kernels."""
    if not _nccl_on_slingshot(runtime) or _value(runtime, "NCCL_GIN_ENABLE") == "0":
        return
    for name in ("NCCL_GIN_TYPE", "OFI_NCCL_GIN_TYPE", "NCCL_GIN_PLUGIN"):
        value = _own(runtime, name)
        if value and value.lower() not in {"-1", "none"}:
            yield _finding(name, f"{name}={value} asks for GPU-initiated networking", hint=f"leave {name} out")


def check_infiniband(runtime: Runtime) -> Iterator[Finding]:
    """Variables of NCCL's InfiniBand transport."""
    if _nccl_on_slingshot(runtime):
        for name in sorted(runtime.own):
            if name.startswith("NCCL_IB_") and _own(runtime, name):
                yield _finding(name, f"{name} is about InfiniBand, and does nothing on Slingshot",
                               hint=f"leave {name} out")  # fmt: skip


def check_socket_interface(runtime: Runtime) -> Iterator[Finding]:
    """The interfaces over which ranks of NCCL find each other."""
    name = "NCCL_SOCKET_IFNAME"
    value = _own(runtime, name)
    if not value or len(value) < 2 or not (_nccl_on_slingshot(runtime) and runtime.multi_node):
        return
    excluded, names = value.startswith("^"), value.removeprefix("^")
    exact, names = names.startswith("="), names.removeprefix("=")
    words = [word.strip().partition(":")[0] for word in names.split(",") if word.strip()]
    all_of_them = not exact and any("hsn".startswith(word) for word in words)
    some_of_them = all_of_them or any(re.fullmatch(r"hsn[0-9]+", word) for word in words)
    left_out = all_of_them if excluded else not some_of_them
    if left_out:
        yield _finding(name, f"{name}={value} leaves out Slingshot's interfaces")


def check_gloo_interface(runtime: Runtime) -> Iterator[Finding]:
    """The interfaces of torch's CPU backend, by their whole names."""
    name = "GLOO_SOCKET_IFNAME"
    value = _own(runtime, name)
    if not value or len(value) < 2:
        return
    words = value.split(",")
    wrong = [word for word in words if word in {"", "hsn"} or re.search(r"[\^=*?\s]", word)]
    if wrong:
        yield _finding(name, f'{name}={value}: no interface has the name "{wrong[0]}"')
    elif runtime.slingshot and runtime.multi_node and not any(word.startswith("hsn") for word in words):
        yield _finding(name, f"{name}={value} names no interface of Slingshot", severity="warning")


# MPI and NVSHMEM

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
    pml, cm = _own(runtime, "OMPI_MCA_pml"), _value(runtime, "OMPI_MCA_pml") == "cm"
    if pml == "ucx":
        yield _finding("OMPI_MCA_pml", "OMPI_MCA_pml=ucx: UCX has no transport for Slingshot, and takes TCP",
                       hint="set OMPI_MCA_pml to cm, and OMPI_MCA_mtl to ofi")  # fmt: skip
    btl = _own(runtime, "OMPI_MCA_btl")
    if btl and not cm and _chooses(btl, "tcp") and not btl.startswith("^"):
        yield _finding("OMPI_MCA_btl", f"OMPI_MCA_btl={btl} names tcp, and OMPI_MCA_pml is not cm",
                       hint="set OMPI_MCA_pml to cm, and OMPI_MCA_mtl to ofi")  # fmt: skip
    if (mtl := _own(runtime, "OMPI_MCA_mtl")) and not _chooses(mtl, "ofi"):
        yield _finding("OMPI_MCA_mtl", f"OMPI_MCA_mtl={mtl} leaves out ofi, Open MPI's way to libfabric",
                       severity="error" if cm else None, hint="set OMPI_MCA_mtl to ofi")  # fmt: skip
    for part in ("mtl_ofi", "opal_common_ofi"):
        name = f"OMPI_MCA_{part}_provider_include"
        if (chosen := _own(runtime, name)) and not any(_chooses(chosen, word) for word in ("cxi", "lnx")):
            yield _finding(name, f"{name}={chosen} leaves out cxi", hint=f"set {name} to cxi")


def _chooses(value: str, word: str) -> bool:
    """Whether a list of Open MPI, which ^ turns round, has `word`."""
    words = {part.strip().lower() for part in value.removeprefix("^").split(",")}
    return (word in words) != value.startswith("^")


def check_ucx(runtime: Runtime) -> Iterator[Finding]:
    """Networks chosen for UCX."""
    if not (runtime.slingshot and runtime.multi_node):
        return
    transports = {part.strip().lower() for part in (_own(runtime, "UCX_TLS") or "").split(",")}
    names = ["UCX_TLS"] if transports & _UCX_OVER_NETWORK else []
    for name in [*names, *(["UCX_NET_DEVICES"] if _own(runtime, "UCX_NET_DEVICES") else [])]:
        message = f"{name}={_own(runtime, name)}: UCX has no transport for Slingshot"
        yield _finding(name, message, hint=f"leave {name} out, and let MPI use libfabric")


def check_nvshmem_transport(runtime: Runtime) -> Iterator[Finding]:
    """NVSHMEM's way to other nodes."""
    if not (runtime.slingshot and runtime.multi_node):
        return
    name = "NVSHMEM_REMOTE_TRANSPORT"
    transport = (_own(runtime, name) or "").lower()
    if transport in _IB_TRANSPORTS:
        yield _finding(name, f"{name}={transport} needs InfiniBand, which Slingshot is not")
    elif transport in {"ucx", "none"}:
        yield _finding(name, f"{name}={transport} has no way over Slingshot to other nodes", severity="warning")
    provider = _own(runtime, "NVSHMEM_LIBFABRIC_PROVIDER")
    if provider in {"efa", "verbs"} and _uses_libfabric(runtime):
        yield _finding("NVSHMEM_LIBFABRIC_PROVIDER", f"NVSHMEM_LIBFABRIC_PROVIDER={provider} is for another network",
                       hint="set NVSHMEM_LIBFABRIC_PROVIDER to cxi")  # fmt: skip
    if (_own(runtime, "NVSHMEM_IB_ENABLE_IBGDA") or "0")[0].lower() in "1ty":
        yield _finding("NVSHMEM_IB_ENABLE_IBGDA", "NVSHMEM_IB_ENABLE_IBGDA asks for InfiniBand, which Slingshot is not",
                       severity="warning", hint="leave NVSHMEM_IB_ENABLE_IBGDA out")  # fmt: skip
    if runtime.network is not None and name not in runtime.env:
        yield from _unset_transport(runtime)


def _unset_transport(runtime: Runtime) -> Iterator[Finding]:
    names = sorted(name for name in runtime.own if name.startswith("NVSHMEM_"))
    names = [name for name in names if name in load_family("NVSHMEM_").variables]
    if names:
        message = f"{names[0]} is set, and NVSHMEM_REMOTE_TRANSPORT is not: the default, ibrc, needs InfiniBand"
        yield _finding(names[0], message, severity="warning")


def _uses_libfabric(runtime: Runtime) -> bool:
    return (_value(runtime, "NVSHMEM_REMOTE_TRANSPORT") or "").lower() == "libfabric"


def check_nvshmem_vmm(runtime: Runtime) -> Iterator[Finding]:
    """Memory that NVSHMEM's libfabric transport cannot register."""
    if not (runtime.slingshot and runtime.multi_node and _uses_libfabric(runtime)):
        return
    name, transport = "NVSHMEM_DISABLE_CUDA_VMM", "NVSHMEM_REMOTE_TRANSPORT"
    if (own := _own(runtime, name)) and own[0].lower() in "0nf":
        yield _finding(name, f"{name}={own} beside {transport}=libfabric")
    elif not runtime.env.get(name, "").strip() and transport in runtime.own:
        yield _finding(transport, f"{transport}=libfabric without {name}=1")


def check_nvshmem_settings(runtime: Runtime) -> Iterator[Finding]:
    """Settings of libfabric that NVSHMEM wants otherwise."""
    if not (runtime.slingshot and runtime.multi_node and _uses_libfabric(runtime)):
        return
    severity: Severity | None = None if "NVSHMEM_REMOTE_TRANSPORT" in runtime.own else "note"
    for name, (wanted, harm) in _NVSHMEM_WANTS.items():
        if (value := _own(runtime, name)) and value != wanted:
            yield _finding(name, f"{name}={value}: NVSHMEM over libfabric wants {wanted}, and may {harm}",
                           severity=severity, hint=f"leave {name} out: NVSHMEM sets it itself")  # fmt: skip


RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    "eager-messages": check_eager,
    "rendezvous-sizes": check_rendezvous_sizes,
    "mr-cache-monitor": check_cache_monitor,
    "host-register": check_host_register,
    "rx-match-mode": check_match_mode,
    "cxi-queue-size": check_queue_sizes,
    "cxi-paging": check_paging,
    "one-nic": check_one_nic,
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
    "mpi-transport": check_mpi_transport,
    "ucx-transport": check_ucx,
    "nvshmem-transport": check_nvshmem_transport,
    "nvshmem-cuda-vmm": check_nvshmem_vmm,
    "nvshmem-libfabric-settings": check_nvshmem_settings,
}
"""The rules by id; each has its story in knowledge/rules/tuning.yaml."""
