"""Installing what a lock says with Spack, in the sandbox, and what it came to: a tree, and what its views do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uenv_builder.app.recipes import LoadedRecipe
from uenv_builder.app.session import Session
from uenv_builder.app.spack_locking import require_spack_lock, section_of, target_of
from uenv_builder.app.spack_places import find_places
from uenv_builder.app.spack_running import SpackWorkspace
from uenv_builder.app.spack_sources import place_sources
from uenv_builder.core.digest import Document
from uenv_builder.core.planning import PlanInputs
from uenv_builder.core.spack_file import ENVIRONMENT, OWN_BINARIES, STAGE
from uenv_builder.core.spack_modules import FILE, module_kinds, modules_file, refresh_words
from uenv_builder.core.spack_view import uenv_document
from uenv_builder.layers.uenv_meta import uenv_meta_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.errors import BuildError
from uenv_builder.model.image import Layer
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.spack_lock import LockedSpack
from uenv_builder.model.system import Uarch
from uenv_builder.sources.spack import (
    failed_packages,
    first_cause,
    read_activation,
    read_version,
    refuse,
    require_machine,
)
from uenv_builder.system.files import remove_tree
from uenv_builder.system.process import Completed

ACTIVATIONS = "activations.json"
"""Beside the layer: what activating each view does."""
_INSTALLED = re.compile(r"\[\+\] (\S+) (\S+) /\S+")
_OLD_INSTALLED = re.compile(r"==> (\S+): Successfully installed (\S+)")
_TAIL = 15


@dataclass(frozen=True, slots=True)
class SpackResult:
    """The install tree; by view, what activating it does; and the folders (relative) that views ask for."""

    tree: Path
    activations: Mapping[str, Mapping[str, str | None]]
    folders: Sequence[str]

    def document(self) -> Document:
        """What the image's metadata are made from, without the tree."""
        present = [folder for folder in self.folders if (self.tree / folder).is_dir()]
        return {"activations": self.activations, "folders": present}


def meta_entries(installer: SpackInstaller, inputs: PlanInputs, installed: Layer) -> Iterator[Entry]:
    """The folder meta of the uenv whose packages are in the layer `installed`."""
    document = json.loads((installed.blob.parent / ACTIVATIONS).read_text(encoding="utf-8"))
    recipe = installer.loaded.recipe
    present = {f"{recipe.mount}/{folder}" for folder in document["folders"]}
    assert inputs.system is not None, "a plan with Spack comes with one"
    env = uenv_document(inputs.system, recipe, document["activations"], has_folder=present.__contains__)
    files = {path: text.encode() for path, (text, _) in inputs.generated.items()}
    return uenv_meta_entries(env, files, epoch=inputs.lock.epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpackInstaller:
    """Installs the packages of a lock; `text` is that of spack.yaml."""

    session: Session
    loaded: LoadedRecipe
    uarch: Uarch
    locked: LockedSpack
    text: str

    @contextmanager
    def installed(self, identity: str) -> Iterator[SpackResult]:
        """The install tree and what its views do, as long as the context lasts.

        What is installed also goes to a build cache in the store, so that a package that fails costs only itself the
        next time. Raises BuildError with the end of the package's log.
        """
        recipe = self.loaded.recipe
        folder = self.session.store.root / "spack/work" / identity[:16]
        if folder.exists():
            remove_tree(folder)
        folder.mkdir(parents=True)
        try:
            workspace = self._workspace(folder)
            self._prepare(workspace)
            self._install(workspace)
            self._clean(workspace, recipe)
            self._write_modules(workspace, recipe)
            views = {name: view for one in section_of(recipe).environments.values() for name, view in one.views.items()}
            yield SpackResult(
                workspace.tree,
                {name: self._activation(workspace, name) for name in views},
                [f"env/{name}/{folder.strip('/')}" for name, view in views.items() for below in
                 view.prefix_paths.values() for folder in below],
            )  # fmt: skip
        finally:
            remove_tree(folder)

    def _workspace(self, folder: Path) -> SpackWorkspace:
        section = section_of(self.loaded.recipe)
        places = find_places(self.session, self.loaded, section, self.locked)
        return SpackWorkspace(
            session=self.session, places=places, section=section, folder=folder, mount=self.loaded.recipe.mount
        )

    def _prepare(self, workspace: SpackWorkspace) -> None:
        lock = require_spack_lock(self.loaded, self.uarch.name, self.locked)
        workspace.make(self.text)
        (workspace.environment / "spack.lock").write_text(lock, encoding="utf-8")
        version = read_version(workspace.run).text
        if version != self.locked.version:
            raise BuildError(
                f"the lock was made with Spack {self.locked.version}, and this one is {version}: it gives other hashes",
                rule="spack-version", hint="use that Spack, or write the lock anew with `uenv lock`",
            )  # fmt: skip
        require_machine(workspace.run, target_of(self.uarch))
        place_sources(self.session, self.loaded.recipe, self.locked, workspace)

    def _install(self, workspace: SpackWorkspace) -> None:
        total = len(self.locked.built)
        title = f"installing {total} packages with Spack"
        words = ["-e", ENVIRONMENT, "install", "-j", str(self.session.jobs), "--only-concrete",
                 "--use-buildcache", "auto", "--include-build-deps"]  # fmt: skip
        with self.session.listener.task(title):
            done = workspace.run(words, hear=self._tell)
        self._keep_binaries(workspace)
        if done.returncode != 0:
            raise self._failure(done, workspace)
        self._verify(workspace)

    def _tell(self, line: str) -> None:
        if match := _INSTALLED.match(line) or _OLD_INSTALLED.match(line):
            self.session.listener.note(f"Spack installed {match[2] if line[0] == '[' else match[1]}")

    def _keep_binaries(self, workspace: SpackWorkspace) -> None:
        """Put what is installed into the store's build cache; that this fails is told, and costs time alone."""
        with self.session.listener.task("keeping what Spack installed for the next build"):
            done = workspace.run(["-e", ENVIRONMENT, "buildcache", "push", "--unsigned", "--update-index",
                                  "--with-build-dependencies", OWN_BINARIES])  # fmt: skip
        if done.returncode != 0 and "not installed" not in done.stderr:
            self.session.listener.note(f"Spack's packages were not kept for the next build: {first_cause(done)}")

    def _failure(self, done: Completed, workspace: SpackWorkspace) -> BuildError:
        failed = failed_packages(f"{done.stdout}\n{done.stderr}")
        logs = {name: self._log(place, workspace) for name, place in failed.items()}
        found = [(name, log) for name, log in logs.items() if log is not None]
        if not found:
            return BuildError(f"Spack could not install everything: {first_cause(done)}", rule="spack-install",
                              hint="see the message; `uenv build` goes on with what was installed")  # fmt: skip
        name, log = found[0]
        kept = self.session.store.log_path(f"spack-{name.replace('@', '-')}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
        tail = "".join(f"\n    {line}" for line in log.read_text(errors="replace").splitlines()[-_TAIL:])
        others = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        return BuildError(
            f"{name} could not be installed{others}{tail}", rule="spack-install",
            hint=f"the whole log is {kept}; what was installed is kept for the next try",
        )  # fmt: skip

    def _log(self, place: str, workspace: SpackWorkspace) -> Path | None:
        path = workspace.stage / place.removeprefix(f"{STAGE}/")
        return path if place.startswith(f"{STAGE}/") and path.is_file() else None

    def _verify(self, workspace: SpackWorkspace) -> None:
        """Spack's view is there after a failed installation, too: its database says what is installed."""
        text = (workspace.tree / ".spack-db/index.json").read_text(encoding="utf-8")
        records = json.loads(text)["database"]["installs"]
        there = {spec for spec, record in records.items() if record.get("installed")}
        needed = {node.hash: node for node in self.locked.built}
        missing = [f"{needed[spec].name}@{needed[spec].version}" for spec in self._run_hashes() - there]
        if missing:
            raise BuildError(
                f"Spack ended well, and has not installed {', '.join(sorted(missing))}", rule="spack-install",
                hint="build again; if it stays, see what Spack says with the same spack.lock",
            )  # fmt: skip

    def _run_hashes(self) -> set[str]:
        """The packages that somebody asked for, by hash; those that only build others may be left out."""
        document = json.loads(require_spack_lock(self.loaded, self.uarch.name, self.locked))
        external = {node.hash for node in self.locked.nodes if node.external is not None}
        return {root["hash"] for root in document["roots"]} - external

    def _clean(self, workspace: SpackWorkspace, recipe: Recipe) -> None:
        cleanup = section_of(recipe).cleanup
        if cleanup == "none":
            return
        keep = ["--keep-build-dependencies"] if cleanup == "build" else []
        done = workspace.run(["gc", "--yes-to-all", *keep, "--except-environment", ENVIRONMENT])
        if done.returncode != 0:
            refuse(done, "Spack could not remove what nobody needs")

    def _write_modules(self, workspace: SpackWorkspace, recipe: Recipe) -> None:
        """Have Spack write the module files that the recipe asks for, with settings that nothing else sees."""
        settings = section_of(recipe).modules
        if settings is None:
            return
        scope = workspace.environment / "modules"
        scope.mkdir()
        (scope / FILE).write_text(modules_file(recipe, settings), encoding="utf-8")
        for kind in module_kinds(settings):
            done = workspace.run(refresh_words(kind, f"{ENVIRONMENT}/{scope.name}", ENVIRONMENT))
            if done.returncode != 0:
                refuse(done, "Spack could not write the module files")

    def _activation(self, workspace: SpackWorkspace, view: str) -> Mapping[str, str | None]:
        """With the compilers that Spack built in PATH, where the view asks for them."""
        found = read_activation(workspace.run, view)
        section = section_of(self.loaded.recipe)
        [environment] = [one for one in section.environments.values() if view in one.views]
        if environment.views[view].add_compilers:
            names = {"llvm", "llvm-amdgpu", "nvhpc", "intel-oneapi-compilers", "gcc"} & set(environment.compilers)
            built = [node for node in self.locked.built if node.name in names]
            folders = [place for node in built for place in self._compiler_folders(workspace, node.hash)]
            found["PATH"] = ":".join([*filter(None, [found.get("PATH")]), *folders])
        return found

    def _compiler_folders(self, workspace: SpackWorkspace, spec: str) -> list[str]:
        trees = sorted(workspace.tree.glob(f"*/*-{spec}/bin"))
        return [f"{workspace.mount}/{place.relative_to(workspace.tree)}" for place in trees]
