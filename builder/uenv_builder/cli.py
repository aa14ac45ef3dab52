"""The command line: which verbs there are, and where each is.

A verb's module is imported when it is asked for: `uenv check` shall not wait for what builds images.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from uenv_builder import __version__
from uenv_builder.model.errors import UenvError
from uenv_builder.system.up_to_date import find_answer

# pydantic reads the metadata of all installed packages in search of plugins, which takes longer than most checks.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

VERBS: dict[str, tuple[str, str]] = {
    "build": ("build", "build"),
    "check": ("check", "check"),
    "lock": ("lock", "lock"),
    "plan": ("plan", "plan"),
    "render": ("render", "render"),
    "test": ("check_image", "check_image"),
    "exec": ("execute", "execute"),
    "read-ahead": ("read_ahead", "read_ahead"),
    "inspect": ("inspect", "inspect"),
    "publish": ("publish", "publish"),
    "import": ("import_recipe", "import_recipe"),
    "explain": ("explain", "explain"),
    "doctor": ("examine", "examine"),
    "new": ("new", "start_recipe"),
    "ci": ("ci", "app"),
    "cache": ("cache", "app"),
    "mirror": ("mirror", "mirror"),
}
"""Module of `commands` and name in it, of a function or an app of further verbs."""


class Verbs(TyperGroup):
    """The verbs of VERBS, each imported when it is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Their names, in the order in which --help lists them."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | TyperGroup | None:  # type: ignore[override]
        """The verb of that name."""
        del ctx
        return load_verb(cmd_name) if cmd_name in VERBS else None


def load_verb(name: str) -> TyperCommand | TyperGroup:
    """The verb of that name as typer runs it."""
    from uenv_builder.commands.shared import verb

    module_name, attribute = VERBS[name]
    module = import_module(f"uenv_builder.commands.{module_name}")
    found = getattr(module, attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        settings = {"help_option_names": ["-h", "--help"], **getattr(module, "SETTINGS", {})}
        single.command(name, epilog=module.EPILOG, context_settings=settings)(verb(found))
        found = single
    command: TyperCommand | TyperGroup = typer.main.get_command(found)  # type: ignore[assignment]
    command.name = name
    return command


app = typer.Typer(
    name="uenv",
    cls=Verbs,
    help="Build, lock and prove user environments for HPC and machine learning.",
    epilog="Verbs that are not listed here (image, repo, start, run, status ...) go to the site's own uenv command. "
    "Exit codes: 0 ok, 1 internal, 2 usage, 3 recipe invalid, 4 incompatible, 5 lock stale or hash mismatch, "
    "6 build failed, 7 a check failed, 8 inconclusive, 9 registry or network, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"uenv-builder {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; verbs that are not ours become the site's own uenv."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if not word.startswith("-")), None)
    if asked is not None and asked not in VERBS:
        pass_on(asked, given)
    if arguments is None and given[:1] == ["build"] and (answer := find_answer(given)) is not None:
        answer.tell()
        return
    # Nearly all objects of a run live to its end: looking for cycles among them every 700 objects found nothing.
    gc.set_threshold(100_000, 50, 100)
    app(args=given, prog_name="uenv")


def pass_on(asked: str, given: list[str]) -> None:
    """Hand a verb that is not ours to the site's own uenv."""
    from uenv_builder.app import site_command
    from uenv_builder.commands.shared import complain

    try:
        site_command.pass_on(asked, given, own=Path(sys.argv[0]), known=sorted(VERBS))
    except UenvError as error:
        complain(error.diagnostics, as_json=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
