"""`uenv read-ahead`: the recorded start of an image into memory."""

from __future__ import annotations

import sys

from uenv_builder.app import reading_ahead
from uenv_builder.commands.shared import DebugOption, ImageArgument, JsonOption, print_json

EPILOG = "Example, in a batch script: srun --ntasks-per-node=1 uenv read-ahead build/pytorch-2.14-gh200"


def read_ahead(image: ImageArgument, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Read what a start needs of an image, as recorded, into this machine's memory, and return when it is there."""
    document = reading_ahead.read_ahead(image)
    if as_json:
        print_json(document)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in reading_ahead.lines(document)))
