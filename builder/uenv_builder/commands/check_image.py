"""`uenv test`: the checks of a build, inside its image."""

from __future__ import annotations

from uenv_builder.app import testing
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, ImageArgument, JsonOption, QuietOption, VerboseOption

EPILOG = "Example: uenv test build/python-mpi-1.0-x86_64"


def check_image(
    image: ImageArgument,
    *,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Run the checks of a build inside its image again, and write the report beside it."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        report = testing.check_again(run.session, image)
        run.show(testing.report_document(report), testing.summary_lines(report))
        return testing.exit_code_of(report)
