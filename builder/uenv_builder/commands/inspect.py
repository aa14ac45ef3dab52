"""`uenv inspect`: what a build holds."""

from __future__ import annotations

from uenv_builder.app import inspecting
from uenv_builder.commands.run import Run
from uenv_builder.commands.shared import DebugOption, ImageArgument, JsonOption

EPILOG = "Example: uenv inspect build/pytorch-2.14-gh200 --json"


def inspect(image: ImageArgument, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Show what a build holds: versions, environment, layers, digests, and the result of its checks."""
    with Run(as_json=as_json, quiet=True) as run:
        document = inspecting.describe_build(image)
        run.show(document, inspecting.lines(document))
