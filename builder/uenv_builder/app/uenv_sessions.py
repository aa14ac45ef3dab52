"""What a session in a uenv looks like: the environment that its views leave, and where it begins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from uenv_builder.app.outputs import BuiltImage
from uenv_builder.app.uenv_image import read_uenv
from uenv_builder.core.uenv_meta import apply_views
from uenv_builder.model.errors import UsageError

_OWN_INSIDE = ("/tmp", "/run", "/dev", "/proc", "/sys")  # noqa: S108  (folders that a sandbox makes anew)


def is_uenv(build: BuiltImage) -> bool:
    """Whether the build's image is mounted on a machine's own files, instead of being a file system of its own."""
    return bool(build.manifest.get("kind") == "uenv")


def uenv_environment(build: BuiltImage, views: Sequence[str]) -> dict[str, str]:
    """The environment with `views`, which a uenv applies to this process's own, and a container to the image's.

    Without any, a uenv's default view is taken. Raises UsageError for an image without views, and BuildError for a view
    that is not there.
    """
    uenv = read_uenv(build.image)
    if uenv is None:
        raise UsageError(
            f"{build.image}: has no views: there is no meta/env.json in it", hint="leave out --view",
        )  # fmt: skip
    default = [uenv.meta.default_view] if uenv.meta.default_view in uenv.meta.views else []
    environment = dict(os.environ) if is_uenv(build) else build.manifest["config"]["env"]
    return apply_views(uenv.meta, list(views) or [name for name in default if name], environment)


def visible_folder() -> str:
    """The current folder where a session of a uenv sees it, else the root."""
    here = Path.cwd()
    hidden = any(here.is_relative_to(folder) for folder in _OWN_INSIDE)
    return "/" if hidden else str(here)
