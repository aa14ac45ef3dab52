"""Which network NCCL will choose, from its environment and the plugin that it finds; and why.

The order of the steps is that of NVIDIA/nccl v2.30.7-1, src/plugin/net.cc (ncclNetInit) and src/plugin/plugin_open.cc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_LIBRARY = "libnccl-net.so"
_PREFIX = "libnccl-net"
_INTERNAL = ("IB", "Socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlugin:
    """The first of `candidates` that could be opened: where it is, and what each interface that it exports is called.

    `path` is None where none could be opened, with the loader's `errors`.
    """

    path: str | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    errors: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChoice:
    """What NCCL will do: the network it uses, the plugin's interface where it is the plugin, and each step's reason.

    `problem` says why the plugin is not what NCCL uses; empty where it is.
    """

    network: str
    interface: int | None
    steps: tuple[str, ...]
    problem: str = ""


def plugin_candidates(env: Mapping[str, str]) -> tuple[str, ...]:
    """The names that NCCL opens, in its order; none where the environment forbids plugins."""
    wanted = env.get("NCCL_NET_PLUGIN")
    if wanted is None:
        return (DEFAULT_LIBRARY,)
    if wanted.lower() == "none":
        return ()
    names: list[str] = []
    for name in filter(None, wanted.split(",")):
        is_library = "/" in name or (name.startswith("lib") and name.endswith(".so"))
        names += [name] if is_library else [name, f"{_PREFIX}-{name}.so"]
    return tuple(names)


def predict_network(
    env: Mapping[str, str], plugin: FoundPlugin, loads: Sequence[int] | None, nccl: str | None
) -> NetworkChoice:
    """NCCL's choice. `loads` are the interfaces of the NCCL that the image has, None where they are not known."""
    steps = [_explain_candidates(env)]
    if plugin.path is None:
        steps += [f"the loader: {error}" for error in plugin.errors]
        problem = "plugins are switched off" if not plugin_candidates(env) else "no plugin can be opened"
        return _fall_back(env, steps, problem)
    steps.append(f"the loader opens {plugin.path}")
    usable = [number for number in plugin.names if loads is None or number in loads]
    who = f"NCCL {nccl}" if nccl else "NCCL"
    if not usable:
        known = f"loads v{min(loads)} to v{max(loads)}" if loads else "is not known"
        exported = _list_interfaces(plugin.names)
        return _fall_back(env, steps, f"{who} {known}, and {plugin.path} exports {exported}")
    best = max(usable)
    name = plugin.names[best]
    unknown = "" if loads is not None else "; which ones this NCCL loads is not known"
    exported = _list_interfaces(plugin.names)
    steps.append(f'{who} takes interface v{best} of {exported}, which is called "{name}"{unknown}')
    wanted = env.get("NCCL_NET")
    if wanted is None:
        steps.append("NCCL_NET is not set: where the plugin finds no device, TCP sockets take its place in silence")
        return NetworkChoice(network=name, interface=best, steps=tuple(steps))
    if wanted.lower() != name.lower():
        return _fall_back(env, steps, f'NCCL_NET asks for "{wanted}", and the plugin is called "{name}"')
    steps.append(f'NCCL_NET asks for "{wanted}": without the plugin jobs end with an error, not with TCP sockets')
    return NetworkChoice(network=name, interface=best, steps=tuple(steps))


def _explain_candidates(env: Mapping[str, str]) -> str:
    names = plugin_candidates(env)
    if "NCCL_NET_PLUGIN" not in env:
        return f"NCCL_NET_PLUGIN is not set: NCCL opens {DEFAULT_LIBRARY}"
    tried = f"NCCL opens {', then '.join(names)}" if names else "NCCL opens no plugin"
    return f"NCCL_NET_PLUGIN={env['NCCL_NET_PLUGIN']}: {tried}"


def _fall_back(env: Mapping[str, str], steps: Sequence[str], problem: str) -> NetworkChoice:
    """What is left without the plugin: InfiniBand, which Slingshot has not, or sockets, or an error."""
    wanted = env.get("NCCL_NET")
    internal = next((name for name in _INTERNAL if wanted and name.lower() == wanted.lower()), None)
    if wanted is None:
        end = "NCCL_NET is not set: NCCL uses its own TCP sockets in silence"
        return NetworkChoice(network="Socket", interface=None, steps=(*steps, end), problem=problem)
    if internal:
        end = f"NCCL_NET asks for {internal}, which is NCCL's own"
        return NetworkChoice(network=internal, interface=None, steps=(*steps, end), problem=problem)
    end = f'NCCL_NET asks for "{wanted}", which nothing provides: every job ends with an error'
    return NetworkChoice(network="none", interface=None, steps=(*steps, end), problem=problem)


def _list_interfaces(numbers: Mapping[int, str]) -> str:
    return ", ".join(f"v{number}" for number in sorted(numbers)) or "no net-plugin interface"
