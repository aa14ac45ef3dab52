"""What is missing on this machine, and the command that installs it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from uenv_builder.app.session import Session
from uenv_builder.core.systems import load_uarchs
from uenv_builder.model.errors import UenvError
from uenv_builder.sandboxes import SANDBOXES
from uenv_builder.system.process import install_hint

_FUSE = "/dev/fuse"
_NEEDED = {
    "apt-get": ("lock", "resolves Debian packages"),
    "gpgv": ("lock", "verifies the mirrors' signatures"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `need` names the verbs that want it."""

    subject: str
    need: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(session: Session, machines: Sequence[str] = ()) -> list[Finding]:
    """Look at programs, mirrors, the store and the sandboxes for images of `machines` (default: all that are known)."""
    findings = [_program(name) for name in _NEEDED]
    findings.append(_mirrors(session))
    findings.append(_store(session))
    findings.append(_fuse())
    wanted = machines or sorted({uarch.machine for uarch in load_uarchs().values()})
    for machine in wanted:
        for name, sandbox in SANDBOXES.items():
            subject = f"run {machine} images with {name}"
            problems = sandbox().problems(machine)
            detail = "; ".join(problem.reason for problem in problems)
            remedy = "; ".join(dict.fromkeys(problem.remedy for problem in problems))
            native = " natively" if machine == platform.machine() else " under qemu-user"
            findings.append(Finding(subject, "test, exec", not problems, detail or f"works{native}", remedy))
    return findings


def as_documents(findings: Sequence[Finding]) -> list[dict[str, str | bool]]:
    """The findings as JSON has them."""
    return [asdict(finding) for finding in findings]


def _program(name: str) -> Finding:
    verb, purpose = _NEEDED[name]
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return Finding(
        name, verb, path is not None, path or f"is not installed; it {purpose}", "" if path else install_hint(name)
    )


def _mirrors(session: Session) -> Finding:
    subject = "Debian mirror and keyring"
    try:
        mirrors = session.mirrors
    except UenvError as error:
        first = error.diagnostics[0]
        return Finding(subject, "lock, build", ok=False, detail=first.message, remedy=first.hint or "")
    if not mirrors.keyring.is_file():
        remedy = "apt-get install debian-archive-keyring, or set debian-keyring in the configuration"
        return Finding(subject, "lock", ok=False, detail=f"{mirrors.keyring} does not exist", remedy=remedy)
    return Finding(subject, "lock, build", ok=True, detail=f"{len(mirrors.roots)} of this machine's configuration")


def _fuse() -> Finding:
    # The sandboxes' own findings tell whether images can be run; this is only what recording takes beyond that.
    ok = os.access(_FUSE, os.R_OK | os.W_OK)
    detail = f"{_FUSE} can be opened" if ok else f"{_FUSE} is missing, or you may not read and write it"
    remedy = "" if ok else "modprobe fuse, and let users read and write the device; or record as root"
    return Finding("record starts", "exec --profile-start", ok, detail, remedy)


def _store(session: Session) -> Finding:
    root = session.store.root
    place = next(parent for parent in [root, *root.parents] if parent.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    detail = f"{root}, {free / 1e9:.1f} GB free" if writable else f"{root} cannot be written"
    remedy = "set UENV_CACHE to a folder on a large disk"
    ok = writable and free > 10e9
    return Finding("store", "build", ok, detail, "" if ok else remedy)
