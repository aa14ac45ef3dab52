"""The files in /etc by which enroot starts an image and login shells keep its environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from uenv_builder.core.environment import DEFAULT_PATH, check_environment
from uenv_builder.model.errors import RecipeError
from uenv_builder.model.image import ImageConfig

_TITLE = "org.opencontainers.image.title"
_VERSION = "org.opencontainers.image.version"


def etc_files(config: ImageConfig) -> dict[str, tuple[str, int]]:
    """Text and mode of each file, by its path in the image without a leading slash, sorted.

    enroot reads rc, environment and fstab of an image (its doc/image-format.md); pyxis replaces rc.local, which rc has
    to read after changing to the workdir. Raises RecipeError where a variable cannot be written so that every engine
    reads the same value.
    """
    found = [finding for finding in check_environment(config.env) if finding.severity == "error"]
    if found:
        raise RecipeError.collect(found)
    return {
        "etc/environment": (_environment(config.env), 0o644),
        "etc/fstab": ("", 0o644),
        "etc/profile.d/zz-uenv.sh": (_profile(config.env), 0o644),
        "etc/rc": (_start_script(config), 0o755),
        "etc/rc.local": ("", 0o644),
    }


def _environment(env: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in env.items())


def _start_script(config: ImageConfig) -> str:
    labels = config.labels
    origin = f"{labels.get(_TITLE, 'image')}/{labels.get(_VERSION, '0')}"
    comments = [f"enroot-provenance: uenv-builder://{origin}", *(f"{key} {labels[key]}" for key in sorted(labels))]
    workdir = _quote(config.workdir)
    entrypoint = "".join(f"{_quote(word)} " for word in config.entrypoint)
    command = " ".join(_quote(word) for word in config.cmd)
    default = f"{entrypoint}{command}".strip() or _quote("/bin/sh")
    return "".join(
        [
            *(f"# {_one_line(comment)}\n" for comment in comments),
            "\n",
            "# A read-only root may refuse to make the folder; changing to it then says so.\n",
            f"mkdir -p -- {workdir} 2> /dev/null\n",
            f"cd -- {workdir} || exit 1\n",
            "unset OLDPWD\n",
            "\n",
            "# Container engines put their own start into this file.\n",
            "[ ! -s /etc/rc.local ] || . /etc/rc.local\n",
            "\n",
            f"[ $# -gt 0 ] || exec {default}\n",
            f'exec {entrypoint}"$@"\n',
        ]
    )


def _one_line(text: str) -> str:
    # A line end within a label would end the comment, and the rest would be run.
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _profile(env: Mapping[str, str]) -> str:
    lines = [
        "# A login shell reads /etc/profile, which sets PATH anew. This gives back what the image has: folders that",
        "# are missing from PATH, and variables that are not set. Whatever is set already stays.",
        *_path_lines(env.get("PATH", "")),
    ]
    for name, value in env.items():
        if name != "PATH":
            lines.append(f'[ -n "${{{name}+set}}" ] || export {name}={_quote(value)}')
    return "\n".join(lines) + "\n"


def _path_lines(value: str) -> Iterator[str]:
    """One test for each folder: those that come before the system's own folders go in front, the others behind."""
    folders = list(dict.fromkeys(value.split(":"))) if value else []
    first = next((number for number, folder in enumerate(folders) if folder in DEFAULT_PATH), len(folders))
    for folder in reversed(folders[:first]):
        yield f'case ":${{PATH-}}:" in *:{_quote(folder)}:*) ;; *) PATH={_quote(folder)}${{PATH:+":$PATH"}} ;; esac'
    for folder in folders[first:]:
        yield f'case ":${{PATH-}}:" in *:{_quote(folder)}:*) ;; *) PATH=${{PATH:+"$PATH:"}}{_quote(folder)} ;; esac'
    if folders:
        yield "export PATH"


def _quote(text: str) -> str:
    """`text` as one word of a POSIX shell, always in single quotes."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
