"""`uenv publish`: a tested build to those who use it."""

from __future__ import annotations

from typing import Annotated

import typer

from uenv_builder.app import destinations
from uenv_builder.app.publishing import prepare_publication
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, ImageArgument, JsonOption, QuietOption, VerboseOption

EPILOG = (
    "Examples: uenv publish build/tools-1.0-gh200 --to repo:/capstor/scratch/me/.uenv-images; "
    "uenv publish build/tools-1.0-gh200 --to repo:images --label tools/1.0:v2 --move"
)


def publish(
    image: ImageArgument,
    *,
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="DESTINATION", help="repo:PATH, a uenv repository; may be repeated."),
    ],
    label: Annotated[
        str | None,
        typer.Option("--label", help="name/version:tag@system%uarch; what it leaves out is as in the build's label."),
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Take the label from another image that has it.")] = False,
    untested: Annotated[
        str | None,
        typer.Option("--untested", metavar="REASON", help="Publish though required checks did not run; it is kept."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Publish a build whose required checks passed; its image is hashed before. Doing it again changes nothing."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        publication = prepare_publication(image, label=label, untested=untested, move=move)
        published = destinations.publish(run.session, publication, to)
        run.show(
            {
                "label": str(publication.label),
                "proof": publication.proof.document(),
                "published": [{"to": one.destination, **one.document} for one in published],
            },
            [line for one in published for line in one.lines],
        )
