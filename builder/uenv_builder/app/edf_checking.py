"""What `uenv check` finds in an EDF file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.edf_files import EdfFolders
from uenv_builder.app.systems import named_system
from uenv_builder.core.edf.engine import Dialect
from uenv_builder.core.edf.file import Edf
from uenv_builder.core.edf.file_rules import EdfContext, check_edf
from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.rules.stack_facts import read_version
from uenv_builder.core.rules.tables import RUNTIME_RULES
from uenv_builder.core.rules.verdicts import run_rules, without_repetition
from uenv_builder.core.systems import load_uarchs
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.core.yaml_tree import Path as TreePath
from uenv_builder.model.errors import Diagnostic, Position, UsageError
from uenv_builder.model.system import NetworkMode, System


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfOptions:
    """What a user tells about where an EDF is read."""

    dialect: Dialect = "ce"
    system: str | None = None
    network: NetworkMode | None = None
    host_env: bool = False
    """Whether this process's variables are those of the host on which jobs start."""


def find_in_edf(path: Path, options: EdfOptions) -> list[Diagnostic]:
    """All that is wrong with the EDF at `path` and those that it builds on, in the order of their lines. Raises
    UsageError where it cannot be read, or no system has the given name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", rule="unreadable") from error
    folders = EdfFolders(options.dialect)
    system = named_system(options.system)
    context = EdfContext(
        dialect=options.dialect, read=folders.read, host_env=dict(os.environ) if options.host_env else None,
        system=system, network=options.network, search_path=folders.folders,
    )  # fmt: skip
    edf, findings = check_edf(content, str(path), context)

    def locate(at: TreePath) -> Position | None:
        return edf.key_position(at) if at[:1] == ("env",) and at[-1] in edf.env else None

    seen = edf_runtime(edf, system, options.network)
    # What the file does not set may come from the image: only what it sets itself is its fault.
    findings += [finding for finding in run_rules(RUNTIME_RULES, seen, locate) if finding.position]
    findings += lint_variables(
        edf.env, versions=seen.versions, locate=lambda name: locate(("env", name)), quoted=True
    )  # fmt: skip
    return without_repetition(findings)


def edf_runtime(edf: Edf, system: System | None, network: NetworkMode | None) -> Runtime:
    """What the shared rules about variables look at for jobs that name the EDF on `system`."""
    hooks = system.hooks.get(network) if system and network else None
    contract = system.env.get(network, {}) if system and network else {}
    uarch = load_uarchs().get(system.uarchs[0]) if system and len(system.uarchs) == 1 else None
    versions = {"libfabric": hooks.libfabric, "aws_ofi_nccl": hooks.aws_ofi_nccl} if hooks else {}
    return Runtime(
        env={**(hooks.env if hooks else {}), **contract, **edf.env},
        own=frozenset(edf.env),
        gpu=uarch.gpu if uarch else None,
        grace_hopper=bool(uarch and uarch.name == "gh200"),
        slingshot=bool(system and system.slingshot is not None and network != "none"),
        network=network,
        versions={name: version for name, text in versions.items() if (version := read_version(text)) is not None},
    )
