"""What each kind of layer is made from: a stream of entries for every step of a plan that is a layer."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from uenv_builder.app.base_steps import base_layer_downloads, base_layer_entries, view_base
from uenv_builder.app.component_building import DEBUG_LAYER
from uenv_builder.app.session import Session
from uenv_builder.core.component_toolchain import FOLDER, SYSROOT
from uenv_builder.core.digest import digest_of
from uenv_builder.core.planning import PlanInputs
from uenv_builder.core.systems import load_uarchs
from uenv_builder.images.merge import merged_entries
from uenv_builder.layers.bytecode import ByteCompiler, NativeCompiler
from uenv_builder.layers.bytecode_modules import module_bytecode_entries
from uenv_builder.layers.deb import deb_entries
from uenv_builder.layers.finish import finish_entries
from uenv_builder.layers.loader import loader_entries
from uenv_builder.layers.made_entries import new_parents
from uenv_builder.layers.safe_paths import SymlinkGuard, merge_usr
from uenv_builder.layers.userland import userland_entries
from uenv_builder.layers.wheel import Installation, wheel_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import Layer
from uenv_builder.model.lock import LockedContents, LockedDeb, LockedWheel
from uenv_builder.model.plan import Step
from uenv_builder.model.system import ARCHITECTURES
from uenv_builder.system.download import Download
from uenv_builder.system.files import sha256_of
from uenv_builder.system.layer_blob import read_layer
from uenv_builder.system.unpack import unpack_entries


def installation(python: str) -> Installation:
    """Where wheels go: Debian's local scheme, which its own python3 and venvs with system packages both see."""
    return Installation(
        prefix="usr/local", packages=f"usr/local/lib/python{python}/dist-packages", python=f"/usr/bin/python{python}"
    )


def base_installation(base: LockedContents) -> Installation:
    """Where wheels go on a base image: where its own Python looks for packages that are added to it."""
    python = base.python
    if python is None:
        raise LockError("the locked base has no Python", rule="lock-stale", hint="write it anew with `uenv lock`")
    return Installation(
        prefix=python.prefix.strip("/"), packages=python.packages.strip("/"), python=python.executable
    )  # fmt: skip


class LayerMaker:
    """Makes the entries of a plan's layers; `sources` says where an added file is read from, by path in the image."""

    def __init__(self, session: Session, inputs: PlanInputs, sources: Mapping[str, Path]) -> None:
        self._session = session
        self._inputs = inputs
        self._sources = sources
        self._unpacking = threading.Lock()
        self._compiler: ByteCompiler | None = None
        self._kinds: dict[str, Callable[[Step, Sequence[Layer]], Iterator[Entry]]] = {
            "userland": self._userland,
            "base-layer": self._base_layer,
            "bytecode": self._bytecode,
            "wheel": self._wheel,
            "build-packages": self._build_packages,
            "debug-symbols": self._debug_symbols,
            "files": self._files,
            "loader": self._loader,
            "finish": self._finish,
        }

    def entries(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:
        """The entries of the layer `step`, after fetching what it needs; `below` are the layers that are its inputs."""
        return self._kinds[step.kind](step, below)

    def downloads(self, steps: Sequence[Step]) -> list[Download]:
        """All files that making the layers `steps` takes from outside."""
        found = []
        for step in steps:
            if step.kind == "userland":
                found += self._session.deb_downloads(self._inputs.lock.debs)
            elif step.kind == "base-layer":
                found += base_layer_downloads(self._session, self._inputs.lock, step)
            elif step.kind == "wheel":
                found += self._session.wheel_downloads([self._locked_wheel(step)])
            elif step.kind == "build-packages":
                found += self._session.deb_downloads(self._packages(step))
        compiles = self._inputs.byte_compile and any(step.kind in {"bytecode", "wheel"} for step in steps)
        if compiles and self._session.store.step_folder(self._interpreter_id(self._compiler_debs())) is None:
            found += self._session.deb_downloads(self._compiler_debs())
        return found

    def _userland(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        lock = self._inputs.lock
        debs = self._fetch(lock.debs)
        return userland_entries(debs, epoch=lock.epoch, uarch=self._inputs.uarch)

    def _base_layer(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        return base_layer_entries(self._session, self._inputs.lock, step)

    def _build_packages(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        debs = self._fetch(self._packages(step))
        architecture = json.loads(step.options)["debian"]
        machine = next(uarch for uarch in load_uarchs().values() if uarch.debian == architecture)
        yield from userland_entries(debs, epoch=0, uarch=machine)
        for folder in (FOLDER, SYSROOT):
            yield Entry(path=folder.strip("/"), kind="dir", mode=0o755, mtime=0)

    def _packages(self, step: Step) -> list[LockedDeb]:
        wanted = json.loads(step.options)["debs"]
        known = {deb.sha256: deb for deb in (self._inputs.lock.build.packages if self._inputs.lock.build else ())}
        return [known[sha256] for sha256 in wanted]

    def _debug_symbols(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        return merged_entries([read_layer(below[0].blob.parent / DEBUG_LAYER)])

    def _bytecode(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        return module_bytecode_entries(
            below[0], python=self._python, compiler=self._byte_compiler(), epoch=self._inputs.lock.epoch
        )

    def _wheel(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        wheel = self._locked_wheel(step)
        path = self._session.fetch(self._session.wheel_downloads([wheel]))[wheel.sha256]
        compiler = self._byte_compiler() if self._inputs.byte_compile else None
        return wheel_entries(path, self._installation, name=wheel.file, compiler=compiler)

    def _locked_wheel(self, step: Step) -> LockedWheel:
        python = self._inputs.lock.python
        wheels = python.wheels if python else ()
        return next(wheel for wheel in wheels if f"{wheel.name} {wheel.version}" == step.name)

    def _files(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        epoch, done = self._inputs.lock.epoch, set[str]()
        for added in self._inputs.added:
            path = merge_usr(added.path.strip("/"))
            for parent in new_parents(path, done):
                yield Entry(path=parent, kind="dir", mode=0o755, mtime=epoch)
            source = self._sources[added.path]
            if sha256_of(source) != added.sha256:
                raise BuildError(f"{source}: changed while the build was running", hint="run the build again")
            with source.open("rb") as content:
                yield Entry(
                    path=path, kind="file", mode=int(added.mode, 8), mtime=epoch, size=added.size, content=content
                )

    def _loader(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        base = view_base(below) if self._inputs.lock.base else None
        return loader_entries(
            below, machine=self._inputs.uarch.machine, epoch=self._inputs.lock.epoch, base=base
        )  # fmt: skip

    def _finish(self, step: Step, below: Sequence[Layer]) -> Iterator[Entry]:  # noqa: ARG002
        inputs = self._inputs
        return finish_entries(inputs.generated, workdir=inputs.config.workdir, epoch=inputs.lock.epoch)

    @property
    def _installation(self) -> Installation:
        base = self._inputs.lock.base
        return base_installation(base.contents) if base else installation(self._python)

    @property
    def _python(self) -> str:
        if self._inputs.lock.python is None:
            raise LockError("the lock holds no Python", hint="write it anew with `uenv lock`")
        return self._inputs.lock.python.version

    def _fetch(self, debs: Sequence[LockedDeb]) -> list[Path]:
        fetched = self._session.fetch(self._session.deb_downloads(debs))
        return [fetched[deb.sha256] for deb in debs]

    def _byte_compiler(self) -> ByteCompiler:
        """The image's own Python, in its exact version, for the machine that builds: unpacked once."""
        with self._unpacking:
            if self._compiler is None:
                self._compiler = self._unpack_interpreter()
        return self._compiler

    def _compiler_debs(self) -> Sequence[LockedDeb]:
        machine = platform.machine()
        debs = self._inputs.lock.compilers.get(ARCHITECTURES.get(machine, machine), ())
        if not debs:
            raise BuildError(
                f"the lock holds no Python {self._python} for build machines of type {machine}",
                rule="no-interpreter", hint="set `python: {byte_compile: false}`, or build on x86_64 or aarch64",
            )  # fmt: skip
        return debs

    @staticmethod
    def _interpreter_id(debs: Sequence[LockedDeb]) -> str:
        return digest_of(["interpreter", 1, [deb.sha256 for deb in debs]])

    def _unpack_interpreter(self) -> ByteCompiler:
        debs = self._compiler_debs()
        paths = self._fetch(debs)

        def unpack(into: Path) -> None:
            with self._session.listener.task(f"unpacking Python {self._python} for this machine"):
                unpack_entries(self._guarded(paths), into / "tree")

        # Byte code is not compared with anything: the Python that makes it has to be the one that was unpacked.
        identity = self._interpreter_id(debs)
        folder = self._session.store.sound_step(identity) or self._session.store.step(identity, unpack)
        return NativeCompiler(folder / "tree", python=self._python, machine=platform.machine())

    def _guarded(self, debs: Sequence[Path]) -> Iterator[Entry]:
        # These files lie on this machine's disk: no link of one package may lead another's files out of the folder.
        guard = SymlinkGuard("the interpreter's packages")
        for deb in debs:
            for entry in deb_entries(deb, newest=self._inputs.lock.epoch):
                guard.admit(entry.path, entry.kind)
                yield entry
