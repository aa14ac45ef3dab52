"""The scripts that installing a wheel makes: its entry points, and its own scripts with their first line set."""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass

from uenv_builder.model.errors import BuildError

_GROUPS = ("console_scripts", "gui_scripts")
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE = re.compile(rf"(?P<module>{_DOTTED})\s*:\s*(?P<attribute>{_DOTTED})\s*(\[.*\])?$")
_NAME = re.compile(r"[^/\\\x00-\x1f]+$")
PLACEHOLDER = b"#!python"
"""How a script of a wheel begins whose first line is to name the interpreter (PEP 427)."""
_FIRST_LINE = re.compile(rb"\A" + re.escape(PLACEHOLDER) + rb"[^\n]*")


@dataclass(frozen=True, slots=True)
class Script:
    """A script in the image's bin folder: its name and content."""

    name: str
    content: bytes


def entry_point_scripts(text: str, *, python: str, wheel: str) -> list[Script]:
    """The scripts for the console and gui entry points in `text`, the wheel's entry_points.txt, sorted by name.

    The format is that of the entry points specification (an INI file, keys case-sensitive). `python` is the
    interpreter's absolute path. Raises BuildError for an entry that is not `module:attribute`.
    """
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise BuildError(f"{wheel}: entry_points.txt cannot be read: {error}", rule="wheel-entry-points") from error
    scripts = {}
    for group in _GROUPS:
        for name, reference in parser.items(group) if parser.has_section(group) else ():
            match = _REFERENCE.match(reference.strip())
            if not match or not _NAME.match(name) or name in {".", ".."}:
                raise BuildError(f"{wheel}: entry point {name} = {reference} is not of the form module:attribute",
                                 rule="wheel-entry-points")  # fmt: skip
            scripts[name] = Script(name, _script(python, match["module"], match["attribute"]))
    return [scripts[name] for name in sorted(scripts)]


def _script(python: str, module: str, attribute: str) -> bytes:
    head, _, rest = attribute.partition(".")
    call = f"{head}.{rest}" if rest else head
    return (
        f"#!{python}\n"
        "import sys\n"
        "\n"
        f"from {module} import {head}\n"
        "\n"
        'if __name__ == "__main__":\n'
        '    sys.argv[0] = sys.argv[0].removesuffix(".exe")\n'
        f"    sys.exit({call}())\n"
    ).encode()


def with_interpreter(content: bytes, python: str) -> bytes:
    """A wheel's script whose first line says `#!python`, with the interpreter's path in its place (PEP 427)."""
    return _FIRST_LINE.sub(f"#!{python}".encode(), content, count=1)
