"""The page of a system: what images and jobs can rely on there, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from uenv_builder.model.system import LEFT_OUT, HookStack, LaunchOptions, NetworkMode, Reason, System

_NODE_SHAPE = {
    "ranks_per_node": "--ntasks-per-node={}",
    "cpus_per_rank": "--cpus-per-task={}",
    "gpus_per_node": "--gpus-per-node={}",
}
_OWN_VALUES = """\
## Setting a value of one's own

What a job sets wins over the image, by the way of the engine that starts it:

| engine | a value | without the variable |
|---|---|---|
| Container Engine, Sarus Suite | `[env]` of an EDF with this one as `base_environment` | the empty value there |
| pyxis | `export NAME=VALUE`, and `srun --container-env=NAME` | `env -u NAME` before the command |
| enroot | `enroot start --env NAME=VALUE` | `env -u NAME` before the command |
| podman | `podman run --env NAME=VALUE` | `podman run --unsetenv NAME` |
| this builder | `uenv exec --env NAME=VALUE` | `env -u NAME` before the command |

In the first two rows it is not enough to export a variable before `srun`: what the image has wins over the host's.
Inside the container, `export` in a script always works. A login shell there keeps what is set, the empty value too, and
sets what is missing.
"""


def contract_page(system: System) -> str:
    """Markdown: nodes, driver, Slingshot, launch options, what hooks bring, and every variable with its story."""
    lines = [f"# {system.name}", "", _sentence(system.description), "", *_facts(system)]
    lines += ["", "## Launch", "", "| option | network modes | why | source |", "|---|---|---|---|"]
    lines += _launch_rows(system)
    if system.hooks:
        lines += ["", "## Hooks", "", *_hook_lines(system)]
    lines += ["", "## Variables", "", *_variable_lines(system)]
    if system.variables:
        lines += ["", _OWN_VALUES.rstrip()]
    lines += ["", "## Sources", "", *(f"- {source}" for source in system.sources)]
    return "\n".join(lines) + "\n"


def _facts(system: System) -> Iterator[str]:
    yield from ["| | |", "|---|---|"]
    yield f"| contract | `{system.contract}` |"
    yield f"| node types | {', '.join(system.uarchs)} |"
    yield f"| network modes | {', '.join(system.networks)} |"
    for name, title in (("driver", "GPU driver"), ("slingshot", "Slingshot Host Software")):
        value = getattr(system, name)
        yield f"| {title} | {_with_reason(value, system.reasons.get(name)) if value else 'not known, or none'} |"


def _with_reason(value: str, reason: Reason | None) -> str:
    return f"{value}. {_cell(reason.reason)} Source: {_cell(reason.source)}." if reason else value


def _launch_rows(system: System) -> Iterator[str]:
    launch = system.launch
    for name, option in _NODE_SHAPE.items():
        number = getattr(launch, name)
        if number:
            yield _launch_row(launch, option.format(number), name, "all")
    for option in launch.srun:
        yield _launch_row(launch, option, option, "all")
    modes: dict[str, list[str]] = {}
    for mode, options in launch.network_srun.items():
        for option in options:
            modes.setdefault(option, []).append(mode)
    for option, names in modes.items():
        yield _launch_row(launch, option, option, ", ".join(names))


def _launch_row(launch: LaunchOptions, option: str, key: str, modes: str) -> str:
    reason = launch.reasons.get(key)
    why, source = (_cell(reason.reason), _cell(reason.source)) if reason else ("", "")
    return f"| `{option}` | {modes} | {why} | {source} |"


def _hook_lines(system: System) -> Iterator[str]:
    yield "| network mode | libfabric | aws-ofi-nccl | sets | source |"
    yield "|---|---|---|---|---|"
    for mode, hook in system.hooks.items():
        count = f"{len(hook.env)} variables, see below" if hook.env else "no variables"
        versions = f"{hook.libfabric or 'not known'} | {hook.aws_ofi_nccl or 'not known'}"
        yield f"| {mode} | {versions} | {count} | {_cell(hook.source)} |"


def _variable_lines(system: System) -> Iterator[str]:
    names = dict.fromkeys([*system.variables, *(name for hook in system.hooks.values() for name in hook.env)])
    if not names:
        yield "None: images carry PATH and LANG, and what their recipes say."
        return
    yield "What images carry beside PATH and LANG, and what a recipe's `env:` can change."
    yield "A mode that is not named leaves the variable alone."
    yield ""
    yield "| variable | value (network modes) | why | source | others choose |"
    yield "|---|---|---|---|---|"
    for name in sorted(names):
        variable = system.variables.get(name)
        values = "<br>".join(_values(system, name))
        story = (_cell(variable.reason), _cell(variable.source)) if variable else ("set by the hook", "see Hooks")
        others = "<br>".join(_others(variable.others)) if variable else ""
        yield f"| `{name}` | {values} | {story[0]} | {story[1]} | {others} |"


def _values(system: System, name: str) -> Iterator[str]:
    variable = system.variables.get(name)
    if variable:
        yield from _by_value(variable.values)
        if variable.unset:
            yield f"must not be set ({', '.join(variable.unset)})"
    for text in _by_value(_of_hooks(system.hooks, name)):
        yield f"hook: {text}"


def _of_hooks(hooks: Mapping[NetworkMode, HookStack], name: str) -> dict[NetworkMode, str]:
    return {mode: hook.env[name] for mode, hook in hooks.items() if name in hook.env}


def _by_value(values: Mapping[NetworkMode, str]) -> Iterator[str]:
    modes: dict[str, list[str]] = {}
    for mode, value in values.items():
        modes.setdefault(value, []).append(mode)
    for value, names in modes.items():
        yield f"{_code(value)} ({', '.join(names)})"


def _others(others: Mapping[str, str]) -> Iterator[str]:
    for value, who in others.items():
        yield f"{value if value == LEFT_OUT else _code(value)}: {_cell(who)}"


def _code(value: str) -> str:
    return f"`{_cell(value)}`" if value else "empty"


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
