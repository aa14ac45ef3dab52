"""Where commands run inside an image. A new kind of sandbox is one file and one line here."""

from __future__ import annotations

from uenv_builder.sandboxes.bwrap import BwrapSandbox
from uenv_builder.sandboxes.interface import Bind, Command, OpenImage, Problem, Recording, Sandbox

SANDBOXES = {"bwrap": BwrapSandbox}
"""By name; each is made without arguments, or with `machine` and `qemu_cpu` of the images that it shall run."""

__all__ = ["SANDBOXES", "Bind", "Command", "OpenImage", "Problem", "Recording", "Sandbox"]
