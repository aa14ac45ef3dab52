"""dpkg's database for packages that dpkg has not installed, so that dpkg, apt and scanners know them.

The files are those that dpkg 1.22 writes below /var/lib/dpkg; deb-control(5) and deb-triggers(5) tell what is in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from uenv_builder.layers.deb import DebControl
from uenv_builder.layers.made_entries import make_file, make_folder
from uenv_builder.layers.unpacking import Package
from uenv_builder.model.entry import Entry

_ROOT = "var/lib/dpkg"
_SCRIPTS = frozenset({"config", "postinst", "postrm", "preinst", "prerm"})
_ORDER = (
    "Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin", "Maintainer",
    "Bugs", "Architecture", "Multi-Arch", "Source", "Version", "Replaces", "Provides", "Depends", "Pre-Depends",
    "Recommends", "Suggests", "Breaks", "Conflicts", "Enhances", "Conffiles", "Description",
)  # fmt: skip
_FIELD = re.compile(r"^(?P<name>[!-9;-~]+):.*(?:\n[ \t].*)*", re.MULTILINE)
_INTEREST = re.compile(r"^interest(?P<noawait>-noawait)?(?:-await)?\s+(?P<trigger>\S+)", re.MULTILINE)


def database_entries(packages: Sequence[Package]) -> Iterator[Entry]:
    """The database for `packages`, which have been unpacked: status, info, triggers, and what is empty in a new one."""
    ordered = sorted(packages, key=lambda package: package.control.name)
    for folder in ("alternatives", "info", "parts", "triggers", "updates"):
        yield make_folder(f"{_ROOT}/{folder}")
    yield make_file(f"{_ROOT}/status", "".join(f"{_status(package)}\n" for package in ordered))
    for empty in ("available", "diversions", "statoverride", "triggers/Unincorp"):
        yield make_file(f"{_ROOT}/{empty}", "")
    yield make_file(f"{_ROOT}/info/format", "1\n")
    for package in ordered:
        yield from _info(package)
    yield from _triggers(ordered)


def _qualified(control: DebControl) -> str:
    """The name under which dpkg keeps a package: with its architecture, where that of others may be beside it."""
    same = control.fields.get("Multi-Arch") == "same"
    return f"{control.name}:{control.architecture}" if same else control.name


def _info(package: Package) -> Iterator[Entry]:
    prefix = f"{_ROOT}/info/{_qualified(package.control)}"
    yield make_file(f"{prefix}.list", "".join(f"{path}\n" for path in package.listed))
    for name, content in sorted(package.control.members.items()):
        if name not in {"control", "list"} and "/" not in name:
            yield make_file(f"{prefix}.{name}", content, 0o755 if name in _SCRIPTS else 0o644)


def _status(package: Package) -> str:
    """The control stanza as dpkg would write it for an installed package, in dpkg's order of the fields."""
    fields = {match["name"]: match[0] for match in _FIELD.finditer(package.control.stanza)}
    fields["Status"] = "Status: install ok installed"
    if package.conffiles:
        fields["Conffiles"] = "Conffiles:" + "".join(f"\n {path} {md5}" for path, md5 in package.conffiles.items())
    known = [fields.pop(name) for name in _ORDER if name in fields]
    return "".join(f"{text}\n" for text in [*known, *fields.values()])


def _triggers(packages: Sequence[Package]) -> Iterator[Entry]:
    """Who waits for which trigger: those on paths in one file, each of the others in a file of its own."""
    interests: dict[str, list[str]] = {}
    for package in packages:
        for match in _INTEREST.finditer(package.control.text("triggers")):
            waiting = _qualified(package.control) + ("/noawait" if match["noawait"] else "")
            interests.setdefault(match["trigger"], []).append(waiting)
    paths = {trigger: names for trigger, names in interests.items() if trigger.startswith("/")}
    if paths:
        lines = [f"{path} {name}\n" for path, names in sorted(paths.items()) for name in names]
        yield make_file(f"{_ROOT}/triggers/File", "".join(lines))
    for trigger, names in sorted(interests.items()):
        if "/" not in trigger:
            yield make_file(f"{_ROOT}/triggers/{trigger}", "".join(f"{name}\n" for name in names))
