"""Compiling one component in a sandbox: from its sources and packages to the layer of what it installs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uenv_builder.app.component_sources import unpack_sources
from uenv_builder.app.preparing import squashfs_options
from uenv_builder.app.session import Session
from uenv_builder.core.component_planning import PlannedComponent, locked_component
from uenv_builder.core.component_toolchain import DESTDIR, FOLDER, SOURCE, SYMBOLS, SYSROOT, Toolchain
from uenv_builder.core.planning import PlanInputs
from uenv_builder.images.merge import merged_entries
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.layers.elf_symbols import LinkedFile, linked_files
from uenv_builder.layers.installed import installed_entries
from uenv_builder.layers.wheel import Installation, wheel_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError, LockError
from uenv_builder.model.image import Layer
from uenv_builder.model.lock import LockedBuild, LockedComponent, LockedWheel
from uenv_builder.model.plan import Step
from uenv_builder.model.system import MACHINES
from uenv_builder.sandboxes import SANDBOXES, Bind, Command, Sandbox
from uenv_builder.system.events import Silent
from uenv_builder.system.files import remove_tree, sha256_of, write_text
from uenv_builder.system.layer_blob import write_layer
from uenv_builder.system.process import Completed
from uenv_builder.system.templates import load_template
from uenv_builder.system.unpack import unpack_entries

DEBUG_LAYER = "debug"
"""The folder in a component's result that has the layer of its debug symbols."""
_TAIL_LINES = 30
_LOG = "log"
_LATEST = 2**32 - 1
_BUILD_WHEELS = Installation(prefix="prefix", packages="packages", python="/usr/bin/python3")
"""Below the folder that BUILD_WHEELS is in."""


@dataclass
class ComponentBuilder:
    """Builds the components of one plan; `folders` says where each component's own files lie."""

    session: Session
    inputs: PlanInputs
    folders: Mapping[str, Path]

    def planned(self, step: Step) -> PlannedComponent:
        """The component that a step builds."""
        name = json.loads(step.options)["name"]
        return next(component for component in self.inputs.components if component.chosen.name == name)

    def wheels(self, steps: Iterable[Step]) -> list[LockedWheel]:
        """The wheels that the components among `steps` are compiled with, and that are not the image's."""
        found: list[LockedWheel] = []
        for planned in (self.planned(step) for step in steps if step.kind == "component"):
            locked = locked_component(_require_build(self.inputs), planned.chosen.name)
            found += locked.build_wheels.get(planned.crossed_on or self.inputs.uarch.debian, ())
        return found

    def build(self, step: Step, into: Path, below: Sequence[Layer]) -> dict[str, str]:
        """Compile the component of `step` and write its layer into `into`; `below` are the layers of its inputs.

        Returns the sha256 of what was written, by path in `into`. Raises BuildError (component-build) with the last
        lines of the log and where all of it lies; with the session's `shell_on_failure`, opens a shell there before.
        """
        work = into / "work"
        try:
            build = _Build(self, step, work, dict(zip(step.inputs, below, strict=True)))
            with self.session.listener.task(f"component {step.name}: unpacking its sources and packages"):
                build.prepare()
            with self.session.listener.task(f"component {step.name}: {build.how()}"):
                failed = build.compile()
            if failed:
                self._keep_log(build)
                if self.session.shell_on_failure:
                    with self.session.listener.aside():
                        build.open_shell()
                raise build.failure(failed, self._log_path(build))
            return build.write_layers(into)
        finally:
            if work.is_dir():
                remove_tree(work)

    def _log_path(self, build: _Build) -> Path:
        return self.session.store.log_path(f"{build.planned.chosen.name}-{build.step.id[:12]}")

    def _keep_log(self, build: _Build) -> None:
        path = self._log_path(build)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, (build.work / _LOG).read_text(encoding="utf-8", errors="replace"))


@dataclass
class _Build:
    """One component on its way; `work` is the folder that is seen as /build inside."""

    owner: ComponentBuilder
    step: Step
    work: Path
    below: Mapping[str, Layer]
    epoch: int = 0
    planned: PlannedComponent = field(init=False)
    toolchain: Toolchain = field(init=False)

    def __post_init__(self) -> None:
        inputs = self.owner.inputs
        self.planned = self.owner.planned(self.step)
        chosen = self.planned.chosen
        self.toolchain = Toolchain(
            debian=inputs.uarch.debian, crossed_on=self.planned.crossed_on, prefix=chosen.recipe.prefix,
            shown=f"/usr/src/{chosen.name}-{chosen.version}",
            python=inputs.lock.python.version if inputs.lock.python else None, debug=chosen.debug,
        )  # fmt: skip

    def prepare(self) -> None:
        """Everything that the compilers see."""
        for name in ("src", "dest", "bin", "home", "scratch", "patches", "symbols"):
            (self.work / name).mkdir(parents=True)
        locked = locked_component(_require_build(self.owner.inputs), self.planned.chosen.name)
        newest = unpack_sources(self.owner.session, locked, self.planned.chosen.source.sources, self.work / "src")
        self.epoch = min(newest, _LATEST)
        self._place_patches()
        self._write_scripts()
        self._unpack_wheels(locked)
        options = squashfs_options(self.owner.inputs.recipe)
        root = [self.below[identity] for identity in self._layers("root")]
        write_squashfs(root, self.work / "root.squashfs", options, epoch=0, listener=Silent())
        if sysroot := [self.below[identity] for identity in self._layers("sysroot")]:
            (self.work / "sysroot").mkdir()
            unpack_entries(merged_entries(sysroot), self.work / "sysroot")

    def how(self) -> str:
        """What compiles it, for people."""
        machine = self.owner.inputs.uarch.machine
        if self.planned.crossed_on:
            return f"cross-compiling for {machine}"
        return f"compiling for {machine}"

    def compile(self) -> Completed | None:
        """Run the build script; None when it came to a good end."""
        done = self._run(["/bin/bash", "-c", f"exec {FOLDER}/run.sh >{FOLDER}/{_LOG} 2>&1"])
        return done if done.returncode else None

    def open_shell(self) -> None:
        """An interactive shell where the build ended, with its variables; what it writes is thrown away."""
        sys.stderr.write(
            f"{self.step.name} did not build; its sources are in {SOURCE}, the script is {FOLDER}/build.sh, "
            f"the log {FOLDER}/{_LOG}; exit ends the shell and the build\n"
        )
        sys.stderr.flush()
        self._run(
            ["/bin/bash", "--norc", "-i"], interactive=True, more={"PS1": f"[{self.planned.chosen.name}] \\w\\$ "}
        )

    def failure(self, done: Completed, log: Path) -> BuildError:
        """The error, with what the log says last."""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reason = "".join(f"\n    {line}" for line in (lines or done.stderr.splitlines())[-_TAIL_LINES:])
        ending = f"exit {done.returncode}" if done.returncode < 128 else f"signal {done.returncode - 128}"
        return BuildError(
            f"the component {self.step.name} did not build ({ending}); the whole log: {log}{reason}",
            rule="component-build",
            hint="correct build.sh.j2 or component.yaml; `uenv build --shell-on-failure` opens a shell there",
        )

    def write_layers(self, into: Path) -> dict[str, str]:
        """What was installed as a layer, and its debug symbols as another one if they were asked for."""
        destdir = self.work / "dest"
        what = f"the component {self.step.name}"
        files = list(linked_files(destdir))
        _require_clean(files, what)
        if not any(path for path in destdir.rglob("*") if not path.is_dir()):
            raise BuildError(f"{what} installs nothing into DESTDIR", rule="component-empty",
                             hint="let build.sh.j2 install below $DESTDIR: most Makefiles do")  # fmt: skip
        self._strip(files)
        hashed = self._write(installed_entries(destdir, epoch=self.epoch, what=what), into, "")
        if self.planned.chosen.debug:
            (into / DEBUG_LAYER).mkdir()
            entries = installed_entries(self.work / "symbols", epoch=self.epoch, what=what)
            hashed |= self._write(entries, into / DEBUG_LAYER, f"{DEBUG_LAYER}/")
        return hashed

    def _write(self, entries: Iterator[Entry], folder: Path, prefix: str) -> dict[str, str]:
        options = squashfs_options(self.owner.inputs.recipe)
        layer = write_layer(entries, folder, level=options.level, block_size=options.block_size)
        return {prefix + layer.blob.name: layer.digest}

    def _strip(self, files: Sequence[LinkedFile]) -> None:
        if not files:
            return
        rows = [f"{file.kind}\t{self._symbols_of(file)}\t{DESTDIR}/{file.path}\n" for file in files]
        write_text(self.work / "files", "".join(rows))
        self._write_script("strip.sh", load_template("component-strip.sh.j2").render(folder=FOLDER))
        done = self._run([f"{FOLDER}/strip.sh"])
        if done.returncode:
            reason = "".join(f"\n    {line}" for line in (done.stderr or done.stdout).splitlines()[-_TAIL_LINES:])
            raise BuildError(f"the files of {self.step.name} could not be stripped:{reason}", rule="component-build",
                             hint="look at the files that its build installs")  # fmt: skip

    def _symbols_of(self, file: LinkedFile) -> str:
        if not self.planned.chosen.debug or file.kind != "linked":
            return "-"
        place = f".build-id/{file.build_id[:2]}/{file.build_id[2:]}" if file.build_id else file.path
        return f"{SYMBOLS}/usr/lib/debug/{place}.debug"

    def _layers(self, role: str) -> list[str]:
        return list(json.loads(self.step.options)[role])

    def _place_patches(self) -> None:
        folder = self.owner.folders[self.planned.chosen.name]
        for number, (name, sha256) in enumerate(self.planned.patches.items()):
            content = (folder / name).read_bytes()
            place = self.work / "patches" / _patch_name(number, name)
            place.write_bytes(content)
            if sha256_of(place) != sha256:
                raise BuildError(f"{folder / name}: changed while the build was running", hint="run the build again")

    def _unpack_wheels(self, locked: LockedComponent) -> None:
        session = self.owner.session
        wheels = locked.build_wheels.get(self.planned.crossed_on or self.toolchain.debian, ())
        files = session.fetch(session.wheel_downloads(wheels))
        for wheel in wheels:
            entries = wheel_entries(files[wheel.sha256], _BUILD_WHEELS, name=wheel.file, compiler=None)
            (self.work / "wheels").mkdir(exist_ok=True)
            unpack_entries(entries, self.work / "wheels")

    def _write_scripts(self) -> None:
        chosen = self.planned.chosen
        patches = [_patch_name(number, name) for number, name in enumerate(self.planned.patches)]
        run = load_template("component-run.sh.j2").render(
            name=chosen.name, version=chosen.version, source=SOURCE, folder=FOLDER, patches=patches
        )
        self._write_script("run.sh", run)
        self._write_script("build.sh", self.planned.script)
        for name, text in self.toolchain.wrappers().items():
            self._write_script(f"bin/{name}", text)
        if self.planned.crossed_on:
            text = load_template("component-toolchain.cmake.j2").render(
                machine=self.owner.inputs.uarch.machine, sysroot=SYSROOT, triple=self.toolchain.triple
            )
            write_text(self.work / "toolchain.cmake", text)

    def _write_script(self, name: str, text: str) -> None:
        write_text(self.work / name, text)
        (self.work / name).chmod(0o755)

    def _run(
        self, argv: Sequence[str], *, interactive: bool = False, more: Mapping[str, str] | None = None
    ) -> Completed:
        binds = [Bind(self.work, FOLDER, writable=True)]
        binds += [Bind(self.work / "sysroot", SYSROOT)] if (self.work / "sysroot").is_dir() else []
        env = self.toolchain.variables(jobs=self.owner.session.jobs, epoch=self.epoch)
        command = Command(
            argv=tuple(argv), env={**env, **(more or {})}, workdir=SOURCE, binds=tuple(binds), interactive=interactive
        )
        return self._sandbox().run(self.work / "root.squashfs", command)

    def _sandbox(self) -> Sandbox:
        uarch = self.owner.inputs.uarch
        if self.planned.crossed_on:
            return SANDBOXES["bwrap"](machine=MACHINES[self.planned.crossed_on])
        return SANDBOXES["bwrap"](machine=uarch.machine, qemu_cpu=uarch.qemu_cpu)


def _require_build(inputs: PlanInputs) -> LockedBuild:
    if inputs.lock.build is None:
        raise LockError("the lock holds no components", rule="lock-stale", hint="write it anew with `uenv lock`")
    return inputs.lock.build


def _patch_name(number: int, name: str) -> str:
    return f"{number:02d}-{Path(name).name}"


def _require_clean(files: Sequence[LinkedFile], what: str) -> None:
    for file in files:
        for folder in file.runpath:
            if folder.startswith((f"{FOLDER}/", f"{SYSROOT}/")):
                raise BuildError(
                    f"{what}: {file.path} looks for libraries in {folder}, which is no folder of the image",
                    rule="component-path", hint="let build.sh.j2 link without this -rpath, or change it with patchelf",
                )  # fmt: skip
