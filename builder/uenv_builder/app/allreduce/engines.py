"""How a task of a job comes into the image: our sandbox, an EDF for Container Engine, the site's uenv, or pyxis."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import tomlkit

from uenv_builder.app.executing import sandbox_for
from uenv_builder.app.outputs import BuiltImage
from uenv_builder.core.edf.render import engine_option
from uenv_builder.core.systems import load_uarchs
from uenv_builder.launchers.interface import MARK, NODE, NODE_NAME, TASK
from uenv_builder.system.files import write_text
from uenv_builder.system.process import run

INSIDE = "/run/uenv-test"
"""Where a container sees the job's folder."""
_PASSED_ON = (TASK, NODE, NODE_NAME, MARK)


@dataclass(frozen=True, slots=True)
class Entered:
    """A command that runs inside the image, and what srun needs for it."""

    argv: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The build whose image is entered, the job's folder on this machine, and how many nodes there are."""

    build: BuiltImage
    folder: Path
    nodes: int


class Engine(Protocol):
    """A way into an image."""

    name: ClassVar[str]
    needs_slurm: ClassVar[bool]
    one_process_per_rank: ClassVar[bool]
    """Whether tasks of one job on many nodes can be the ranks of MPI."""

    def problems(self, place: Place) -> list[str]:
        """What keeps it from entering the image here, in words."""

    def folder_inside(self, place: Place) -> str:
        """The path of the job's folder as tasks see it."""

    def enter(self, place: Place, argv: Sequence[str], env: Mapping[str, str]) -> Entered:
        """The command that runs `argv` inside, with `env` over the image's own variables."""


class SandboxEngine:
    """Our own sandbox, in each task."""

    name: ClassVar[str] = "sandbox"
    needs_slurm: ClassVar[bool] = False
    one_process_per_rank: ClassVar[bool] = False

    def problems(self, place: Place) -> list[str]:
        """See `Engine.problems`."""
        machine = load_uarchs()[place.build.manifest["uarch"]].machine
        found = [problem.reason for problem in sandbox_for(place.build).problems(machine)]
        return [f"this machine cannot run the image: {'; '.join(found)}"] if found else []

    def folder_inside(self, place: Place) -> str:  # noqa: ARG002  (all take the same)
        """See `Engine.folder_inside`."""
        return INSIDE

    def enter(self, place: Place, argv: Sequence[str], env: Mapping[str, str]) -> Entered:
        """See `Engine.enter`."""
        words = [sys.executable, "-m", "uenv_builder.cli", "exec"]
        words += ["--bind", f"{place.folder.resolve()}:{INSIDE}", *(["--network"] if place.nodes > 1 else [])]
        variables = [*_PASSED_ON, *(f"{name}={value}" for name, value in env.items())]
        words += [word for variable in variables for word in ("--env", variable)]
        return Entered((*words, str(place.build.folder.resolve()), "--", *argv))


class EdfEngine:
    """Container Engine, with the build's EDF: the test's own copy names this image and shows the job's folder."""

    name: ClassVar[str] = "edf"
    needs_slurm: ClassVar[bool] = True
    one_process_per_rank: ClassVar[bool] = True

    def problems(self, place: Place) -> list[str]:
        """See `Engine.problems`."""
        missing = _missing_option("--environment", "Container Engine")
        return missing if _edf_of(place.build) else [*missing, "the build has no EDF file for Container Engine"]

    def folder_inside(self, place: Place) -> str:  # noqa: ARG002
        """See `Engine.folder_inside`."""
        return INSIDE

    def enter(self, place: Place, argv: Sequence[str], env: Mapping[str, str]) -> Entered:
        """See `Engine.enter`; writes the EDF into the job's folder."""
        source = _edf_of(place.build)
        document = tomllib.loads(source.read_text(encoding="utf-8")) if source else {}
        document["image"] = str(place.build.image.resolve())
        document["mounts"] = [*document.get("mounts", []), f"{place.folder.resolve()}:{INSIDE}"]
        document["env"] = {**document.get("env", {}), **env}
        target = place.folder.resolve() / "test.toml"
        write_text(target, tomlkit.dumps(document))
        return Entered(tuple(argv), (f"{engine_option('ce')}={target}",))


class UenvEngine:
    """The site's uenv: the image is mounted, and its first view sets the environment up."""

    name: ClassVar[str] = "uenv"
    needs_slurm: ClassVar[bool] = True
    one_process_per_rank: ClassVar[bool] = True

    def problems(self, place: Place) -> list[str]:
        """See `Engine.problems`."""
        missing = _missing_option("--uenv", "uenv")
        return missing if place.build.manifest.get("views") else [*missing, "the image has no view for uenv"]

    def folder_inside(self, place: Place) -> str:
        """See `Engine.folder_inside`."""
        return str(place.folder.resolve())

    def enter(self, place: Place, argv: Sequence[str], env: Mapping[str, str]) -> Entered:
        """See `Engine.enter`."""
        view = next(iter(place.build.manifest["views"]))
        words = ["env", *(f"{name}={value}" for name, value in env.items()), *argv]
        return Entered(tuple(words), (f"--uenv={place.build.image.resolve()}:/user-environment", f"--view={view}"))


class PyxisEngine:
    """pyxis: srun starts each task in a container that enroot makes of the squashfs."""

    name: ClassVar[str] = "pyxis"
    needs_slurm: ClassVar[bool] = True
    one_process_per_rank: ClassVar[bool] = True

    def problems(self, place: Place) -> list[str]:  # noqa: ARG002
        """See `Engine.problems`."""
        return _missing_option("--container-image", "pyxis")

    def folder_inside(self, place: Place) -> str:  # noqa: ARG002
        """See `Engine.folder_inside`."""
        return INSIDE

    def enter(self, place: Place, argv: Sequence[str], env: Mapping[str, str]) -> Entered:
        """See `Engine.enter`. The image's variables win over the job's, so `env` is set inside."""
        words = ["env", *(f"{name}={value}" for name, value in env.items()), *argv]
        mount = f"{place.folder.resolve()}:{INSIDE}"
        # Without the slash pyxis would look for a registry's image of that name; an absolute path has it.
        image = f"--container-image={place.build.image.resolve()}"
        return Entered(tuple(words), (image, f"--container-mounts={mount}", "--no-container-mount-home"))


ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (SandboxEngine(), EdfEngine(), UenvEngine(), PyxisEngine())
}
"""By name."""


def choose_engine(name: str | None, nodes: int) -> Engine:
    """The engine of that name; without one, Container Engine for many nodes where srun has it, else the sandbox."""
    if name:
        return ENGINES[name]
    usual = nodes > 1 and not _missing_option("--environment", "Container Engine")
    return ENGINES["edf" if usual else "sandbox"]


def _edf_of(build: BuiltImage) -> Path | None:
    found = [path for path in sorted(build.folder.glob("edf/*.toml")) if not path.name.endswith(".sarus.toml")]
    return found[0] if found else None


def _missing_option(option: str, plugin: str) -> list[str]:
    """Options of srun that a plugin brings stand in its help."""
    if shutil.which("srun") is None:
        return ["there is no srun on this machine"]
    known = run(["srun", "--help"], check=False, timeout=30).stdout
    return [] if option in known else [f"srun has no option {option} here: {plugin} is not installed"]
