"""Debian's alternatives, read from the postinst scripts that would register them (update-alternatives(1))."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from uenv_builder.layers.made_entries import make_file, make_folder, make_link
from uenv_builder.model.entry import Entry

_PROGRAM = "update-alternatives"
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_CONTINUED = re.compile(r"\\\n")
_ASSIGNMENT = re.compile(
    r"""^[ \t]*(?P<name>\w+)=(?P<quote>["']?)(?P<value>[^\s"'$`\\;&|()]*)(?P=quote)[ \t]*;?$""", re.MULTILINE
)
_ANY_ASSIGNMENT = r"(?:^|[\s;]){}="
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_NAME = re.compile(r"[^\s/$`]+")
_PATH = re.compile(r"/[^\s$`]+")
_DATABASE = "var/lib/dpkg/alternatives"


@dataclass(frozen=True, slots=True)
class Choice:
    """One `--install`: `link` and `target` by the alternative's name, the slaves' by theirs."""

    name: str
    link: str
    target: str
    priority: int
    slaves: dict[str, tuple[str, str]] = field(default_factory=dict)


def read_alternatives(script: str) -> list[Choice]:
    """What `script` (a postinst) registers; commands with anything that only a shell can evaluate are left out.

    Variables that the script sets once, to plain text, are filled in.
    """
    text = _CONTINUED.sub(" ", _COMMENT.sub("", script))
    values = {
        match["name"]: match["value"]
        for match in _ASSIGNMENT.finditer(text)
        if len(re.findall(_ANY_ASSIGNMENT.format(match["name"]), text)) == 1
    }
    text = _VARIABLE.sub(lambda match: values.get(match[1] or match[2], match[0]), text)
    commands = (_words(line[at.start() :]) for line in text.splitlines() for at in re.finditer(_PROGRAM, line))
    return [choice for words in commands if (choice := _parse(words))]


def _words(command: str) -> list[str]:
    """The words of the first simple command in `command`; none if it is not whole."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        return []
    end = next((at for at, word in enumerate(words) if re.fullmatch(r"[();<>|&]+", word)), len(words))
    return words[:end]


def _parse(words: list[str]) -> Choice | None:
    if "--install" not in words:
        return None
    at = words.index("--install") + 1
    main, rest = words[at : at + 4], words[at + 4 :]
    slaves: dict[str, tuple[str, str]] = {}
    while len(rest) >= 4 and rest[0] == "--slave":
        link, name, target = rest[1:4]
        slaves[name] = (link, target)
        rest = rest[4:]
    if len(main) != 4 or not re.fullmatch(r"-?\d+", main[3]) or any(word.startswith("--") for word in rest):
        return None
    places = [(main[1], main[0], main[2]), *((name, *paths) for name, paths in slaves.items())]
    if not all(_NAME.fullmatch(name) and _PATH.fullmatch(link) and _PATH.fullmatch(to) for name, link, to in places):
        return None
    return Choice(main[1], main[0], main[2], int(main[3]), slaves)


def alternative_entries(choices: Iterable[Choice], exists: Callable[[str], bool]) -> Iterator[Entry]:
    """The links and the database of `choices`; those whose target does not exist are left out, as dpkg would.

    The highest priority wins, the first path by its code points among equals. `exists` is asked about absolute paths.
    """
    groups: dict[str, dict[str, Choice]] = {}
    for choice in choices:
        if exists(choice.target):
            groups.setdefault(choice.name, {})[choice.target] = choice
    yield make_folder("etc/alternatives")
    for name, group in sorted(groups.items()):
        ordered = [group[target] for target in sorted(group)]
        best = max(ordered, key=lambda choice: choice.priority)
        yield from _links(name, best.link, best.target)
        for slave, (link, target) in sorted(best.slaves.items()):
            if exists(target):
                yield from _links(slave, link, target)
        yield make_file(f"{_DATABASE}/{name}", _database(ordered))


def _links(name: str, link: str, target: str) -> Iterator[Entry]:
    yield make_link(f"etc/alternatives/{name}", target)
    yield make_link(link.strip("/"), f"/etc/alternatives/{name}")


def _database(choices: list[Choice]) -> str:
    """One alternative as dpkg keeps it: its mode and links, an empty line, then the choices, and an empty line."""
    slaves = {name: link for choice in choices for name, (link, _) in choice.slaves.items()}
    lines = ["auto", choices[-1].link]
    for name, link in sorted(slaves.items()):
        lines += [name, link]
    lines.append("")
    for choice in choices:
        lines += [choice.target, str(choice.priority)]
        lines += [choice.slaves[name][1] if name in choice.slaves else "" for name in sorted(slaves)]
    return "".join(f"{line}\n" for line in [*lines, ""])
