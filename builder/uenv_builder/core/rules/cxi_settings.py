"""Rules about variables of libfabric that do harm or nothing on GH200 over Slingshot."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from uenv_builder.core.rules.finding import Finding, about_variable
from uenv_builder.core.rules.runtime import FALSE, TRUE, Runtime
from uenv_builder.core.variables import load_family, read_integer


def _size(runtime: Runtime, name: str, default: int) -> int | None:
    """The size that libfabric reads, `default` where it is not set; None for what is no size."""
    if not runtime.env.get(name, "").strip():
        return default
    number = read_integer(runtime.value(name) or "", load_family("FI_CXI_"))
    return number if number is not None and number >= 0 else None


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
    own = [name for name in _RENDEZVOUS_DEFAULTS if runtime.own_value(name) is not None]
    if runtime.own_value("FI_CXI_RDZV_PROTO") in {"alt_read", "alt-read"}:
        own.append("FI_CXI_RDZV_PROTO")
    if not own:
        return
    sizes = {name: _size(runtime, name, default) for name, default in _RENDEZVOUS_DEFAULTS.items()}
    copied = (runtime.value("FI_HMEM_CUDA_USE_GDRCOPY") or "").lower() not in FALSE
    left = [name for name in sizes if sizes[name]]
    if not (left and copied and runtime.grace_hopper and runtime.nccl_on_slingshot) or None in sizes.values():
        return
    at = next((name for name in left if name in own), own[0])
    shown = ", ".join(f"{name} is {sizes[name]}" for name in left)
    eager = max(sizes[_THRESHOLD] or 0, _WITHIN_COMMAND) + (sizes[_GET_MIN] or 0)
    what = f"messages of up to {eager} bytes" if left != [_EAGER] else "the first bytes of each message"
    yield about_variable(at, f"{what} are sent before the receiver is ready: {shown}")


def check_rendezvous_sizes(runtime: Runtime) -> Iterator[Finding]:
    """Rendezvous sizes that libfabric replaces by others."""
    if not any(runtime.own_value(name) for name in (*_RENDEZVOUS_DEFAULTS, _OVERFLOW)):
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
    if runtime.own_value(_EAGER) and 0 < threshold < eager:
        yield from _replaced(runtime, _EAGER, f"{eager} is more than {_THRESHOLD}={threshold}", str(threshold))


def _replaced(runtime: Runtime, name: str, why: str, used: str) -> Iterator[Finding]:
    at = next((own for own in (name, _THRESHOLD, _OVERFLOW) if runtime.own_value(own)), None)
    if at is not None:
        yield about_variable(at, f"{name}={why}, so libfabric takes {used}")


def check_cache_monitor(runtime: Runtime) -> Iterator[Finding]:
    """A registration cache that deadlocks beside NCCL, or is off."""
    if not runtime.nccl_on_slingshot:
        return
    monitor = runtime.own_value("FI_MR_CACHE_MONITOR")
    if monitor == "memhooks":
        yield about_variable("FI_MR_CACHE_MONITOR", "FI_MR_CACHE_MONITOR=memhooks can deadlock beside NCCL")
    elif monitor == "disabled":
        message = "FI_MR_CACHE_MONITOR=disabled: host memory is registered again for each transfer"
        yield about_variable("FI_MR_CACHE_MONITOR", message, severity="note")
    if runtime.own_value("FI_MR_CACHE_MAX_COUNT") == "0":
        yield about_variable(
            "FI_MR_CACHE_MAX_COUNT",
            "FI_MR_CACHE_MAX_COUNT=0 switches the registration cache off",
            hint="leave FI_MR_CACHE_MAX_COUNT out, or set it to 524288",
        )


def check_host_register(runtime: Runtime) -> Iterator[Finding]:
    """Registration of the provider's host buffers with the GPU."""
    name = "FI_CXI_DISABLE_HOST_REGISTER"
    if runtime.nccl_on_slingshot and runtime.gpu and runtime.says(name, FALSE):
        yield about_variable(
            name, f"{name}={runtime.own_value(name)}: calls of libfabric allocate with CUDA while NCCL runs"
        )


def check_match_mode(runtime: Runtime) -> Iterator[Finding]:
    """Messages matched by the NIC alone."""
    name = "FI_CXI_RX_MATCH_MODE"
    if runtime.nccl_on_slingshot and runtime.multi_node and runtime.own_value(name) == "hardware":
        yield about_variable(name, f"{name}=hardware leaves no way out when the NIC's entries for messages are used up")


def check_queue_sizes(runtime: Runtime) -> Iterator[Finding]:
    """Queues smaller than libfabric's own."""
    for name, default in _QUEUE_DEFAULTS.items():
        size = _size(runtime, name, default) if runtime.own_value(name) else None
        if runtime.slingshot and size is not None and 0 < size < default:
            yield about_variable(
                name, f"{name}={size} is less than libfabric's own {default}", hint=f"set {name} to at least {default}"
            )


def check_paging(runtime: Runtime) -> Iterator[Finding]:
    """Page faults of the NIC, and translation that Grace does not have."""
    if not runtime.slingshot:
        return
    for name in ("FI_CXI_ODP", "FI_CXI_FORCE_ODP"):
        if runtime.says(name, TRUE):
            yield about_variable(
                name, f"{name}={runtime.own_value(name)} uses on-demand paging, which is not supported yet"
            )
    if runtime.grace_hopper and runtime.says("FI_CXI_ATS", TRUE):
        message = "FI_CXI_ATS does nothing on Grace: the driver has address translation services for AMD hosts alone"
        yield about_variable("FI_CXI_ATS", message, severity="note", hint="leave FI_CXI_ATS out")


def check_one_nic(runtime: Runtime) -> Iterator[Finding]:
    """All ranks of a node on one of its NICs."""
    name = "FI_CXI_DEVICE_NAME"
    value = runtime.own_value(name) or ""
    if runtime.grace_hopper and runtime.slingshot and runtime.multi_node and re.fullmatch(r"cxi[0-9]+", value):
        yield about_variable(name, f"{name}={value} puts all ranks of a node on one NIC; each GH200 has its own")


RULES: dict[str, Callable[[Runtime], Iterator[Finding]]] = {
    "eager-messages": check_eager,
    "rendezvous-sizes": check_rendezvous_sizes,
    "mr-cache-monitor": check_cache_monitor,
    "host-register": check_host_register,
    "rx-match-mode": check_match_mode,
    "cxi-queue-size": check_queue_sizes,
    "cxi-paging": check_paging,
    "one-nic": check_one_nic,
}
"""The rules by id; each has its story in knowledge/rules/tuning.yaml."""
