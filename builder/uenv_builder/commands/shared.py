"""What the verbs of the command line share: their options, what they print, and how they end."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from uenv_builder.core.digest import Document
from uenv_builder.model.errors import Diagnostic, UenvError

_INTERRUPTED = 130
_Parameters = ParamSpec("_Parameters")

RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A folder with a recipe.yaml, a file, or NAME[/VERSION] of a known recipe."),
]
LabelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[LABEL]", help="name/version[:tag]@system%uarch: picks the target and names the image."),
]
ImageArgument = Annotated[Path, typer.Argument(metavar="IMAGE", help="The folder of a build, or its squashfs.")]
UarchOption = Annotated[str | None, typer.Option("--uarch", help="Which of the recipe's targets, by its node type.")]
SystemOption = Annotated[str | None, typer.Option("--system", help="Which of the recipe's targets, by its system.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use the store and mirrors alone.")]
MirrorOption = Annotated[
    list[str] | None,
    typer.Option("--mirror", metavar="DIR|URL", help="A mirror to ask before all others; may be repeated."),
]
JobsOption = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Steps at once; default: the cores here.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Plain timed lines, and more of them.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="The folder to write; default: build/NAME-VERSION-UARCH.")
]


def verb(function: Callable[_Parameters, int | None]) -> Callable[_Parameters, None]:
    """End the process with the exit code of what the verb raises, and say it in one place."""

    @functools.wraps(function)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except UenvError as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            complain(error.diagnostics, as_json=bool(kwargs.get("as_json")))
            code = error.exit_code
        except KeyboardInterrupt:
            sys.stderr.write("uenv: interrupted; nothing half written is left, and the next run goes on from here\n")
            code = _INTERRUPTED
        except Exception as error:
            if kwargs.get("debug"):
                raise
            sys.stderr.write(f"uenv: internal error: {type(error).__name__}: {error}\n  hint: run again with --debug\n")
            code = 1
        raise typer.Exit(code)

    return run


def complain(diagnostics: Sequence[Diagnostic], *, as_json: bool) -> None:
    """Say on stderr what was found, and with `as_json` as a document on stdout, too."""
    if as_json:
        from uenv_builder.core.finding_formats import to_document

        print_json({"diagnostics": [to_document(finding) for finding in diagnostics]})
    for finding in diagnostics:
        sys.stderr.write(f"{finding}\n")


def print_json(document: Document) -> None:
    """The one document on stdout."""
    sys.stdout.write(json_text(document))


def json_text(document: Document) -> str:
    """A document as every verb writes it."""
    return json.dumps(document, indent=2) + "\n"
