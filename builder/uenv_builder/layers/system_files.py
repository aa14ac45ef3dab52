"""Files that the scripts of Debian's base packages make: accounts, defaults, folders and links of a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from uenv_builder.layers.made_entries import make_file, make_folder, make_link
from uenv_builder.layers.safe_paths import merge_usr
from uenv_builder.model.entry import Entry

TEMPLATES = (
    "usr/share/base-files/", "usr/share/base-passwd/", "usr/share/debianutils/", "usr/share/libc-bin/",
    "usr/share/readline/",
)  # fmt: skip
"""Where packages keep what these files are made from."""
_COPIES = {
    "usr/share/base-files/dot.bashrc": "root/.bashrc",
    "usr/share/base-files/dot.profile": "root/.profile",
    "usr/share/base-files/info.dir": "usr/share/info/dir",
    "usr/share/base-files/motd": "etc/motd",
    "usr/share/base-files/nsswitch.conf": "etc/nsswitch.conf",
    "usr/share/base-files/profile": "etc/profile",
    "usr/share/libc-bin/nsswitch.conf": "etc/nsswitch.conf",
    "usr/share/readline/inputrc": "etc/inputrc",
}
_FOLDERS = (
    "boot", "dev", "etc/opt", "home", "media", "mnt", "opt", "proc", "run", "srv", "sys", "usr/bin", "usr/lib",
    "usr/local/bin", "usr/local/etc", "usr/local/games", "usr/local/include", "usr/local/lib", "usr/local/sbin",
    "usr/local/share/man", "usr/local/src", "usr/sbin", "var/opt",
)  # fmt: skip
_OPEN_FOLDERS = ("run/lock", "tmp", "var/tmp")
_MAIL_GROUP, _SHADOW_GROUP, _NOGROUP = 8, 42, 65534  # of Debian's base-passwd
_LINKS = {
    "bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin", "usr/local/man": "share/man", "var/lock": "/run/lock",
    "var/run": "/run", "var/spool/mail": "../mail",
}  # fmt: skip
_LINKS_IF = {
    "etc/dpkg/origins/default": ("etc/dpkg/origins/debian", "debian"),
    "etc/localtime": ("usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Etc/UTC"),
    "lib32": ("usr/lib32", "usr/lib32"),
    "lib64": ("usr/lib64", "usr/lib64"),
    "libx32": ("usr/libx32", "usr/libx32"),
    "usr/bin/sh": ("usr/bin/dash", "dash"),
}
"""Links that are made if a path exists: by the link's path, that path and the link's text."""
_HOSTS = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n"
_LOADER_CONFIGURATION = "include /etc/ld.so.conf.d/*.conf\n"
_APT_USER = f"_apt:x:100:{_NOGROUP}::/nonexistent:/usr/sbin/nologin"
_DAY = 86400


def system_entries(
    templates: Mapping[str, bytes], exists: Callable[[str], bool], *, packages: frozenset[str], epoch: int
) -> Iterator[Entry]:
    """What the scripts of `packages` (names) would make from `templates` (contents by path); what exists comes too.

    `exists` tells which paths there are. Passwords are locked, and dated with the day of `epoch`.
    """
    yield make_folder("root", 0o700)
    for path in _FOLDERS:
        yield make_folder(path)
    for path in _OPEN_FOLDERS:
        yield make_folder(path, 0o1777)
    yield make_folder("var/mail", 0o2775, _MAIL_GROUP)
    for path, target in _LINKS.items():
        yield make_link(path, target)
    for path, (needed, target) in _LINKS_IF.items():
        if exists(needed):
            yield make_link(path, target)
    for source, path in _COPIES.items():
        if source in templates:
            yield make_file(path, templates[source])
    yield make_file("etc/hosts", _HOSTS)
    yield make_file("etc/ld.so.conf", _LOADER_CONFIGURATION)
    yield make_file("etc/machine-id", "")  # empty: made anew when a system starts (machine-id(5))
    yield from _shells(templates)
    yield from _accounts(templates, with_apt="apt" in packages, day=epoch // _DAY)


def _accounts(templates: Mapping[str, bytes], *, with_apt: bool, day: int) -> Iterator[Entry]:
    users = _records(templates.get("usr/share/base-passwd/passwd.master"))
    groups = _records(templates.get("usr/share/base-passwd/group.master"))
    if not users or not groups:
        return
    if with_apt and "_apt" not in {user[0] for user in users}:
        users.append(_APT_USER.split(":"))
    yield make_file("etc/passwd", _lines([name, "x", *rest] for name, _, *rest in users))
    yield make_file("etc/group", _lines([name, "x", *rest] for name, _, *rest in groups))
    shadow = _lines([user[0], "*", str(day), "0", "99999", "7", "", "", ""] for user in users)
    yield make_file("etc/shadow", shadow, 0o640, _SHADOW_GROUP)
    gshadow = _lines([group[0], "*", "", group[3]] for group in groups)
    yield make_file("etc/gshadow", gshadow, 0o640, _SHADOW_GROUP)
    for path in ("etc/subuid", "etc/subgid"):
        yield make_file(path, "")


def _records(text: bytes | None) -> list[list[str]]:
    return [line.split(":") for line in (text or b"").decode().splitlines() if line.count(":") >= 3]


def _lines(records: Iterator[list[str]]) -> str:
    return "".join(f"{':'.join(record)}\n" for record in records)


def _shells(templates: Mapping[str, bytes]) -> Iterator[Entry]:
    """/etc/shells: debianutils' own list, then that of each package, each shell also where merged /usr has it."""
    sources = sorted(path for path in templates if path.startswith("usr/share/debianutils/shells"))
    lines = [line for path in sources for line in templates[path].decode().splitlines()]
    comments = [line for line in lines if line.startswith("#")]
    named = [line for line in lines if line.startswith("/")]
    shells = dict.fromkeys(shell for line in named for shell in (line, f"/{merge_usr(line.strip('/'))}"))
    if shells:
        text = "".join(f"{shell}\n" for shell in shells)
        yield make_file("etc/shells", "".join(f"{line}\n" for line in comments) + text)
        yield make_file("var/lib/shells.state", text)
