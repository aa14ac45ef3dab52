"""Running the steps of a plan: each result lies in the store under the step's id, and is made once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from uenv_builder.app.component_building import ComponentBuilder
from uenv_builder.app.component_sources import fetch_sources, has_commit
from uenv_builder.app.layer_making import LayerMaker
from uenv_builder.app.missing import require_reachable
from uenv_builder.app.outputs import IMAGE
from uenv_builder.app.preparing import squashfs_options
from uenv_builder.app.session import Session
from uenv_builder.app.spack_installing import ACTIVATIONS, SpackInstaller, meta_entries
from uenv_builder.app.storing import result_label
from uenv_builder.core.artefacts import artefacts_of
from uenv_builder.core.planning import PlanInputs
from uenv_builder.images.oci import write_oci_layout
from uenv_builder.images.squashfs.from_layers import write_squashfs
from uenv_builder.layers.spack import spack_entries
from uenv_builder.model.entry import Entry
from uenv_builder.model.image import Layer
from uenv_builder.model.lock import LockedSource
from uenv_builder.model.plan import Plan, Step
from uenv_builder.model.start import StartRecord
from uenv_builder.system.files import sha256_of, write_json
from uenv_builder.system.layer_blob import read_layer, write_layer
from uenv_builder.system.layer_index import damaged


@dataclass
class StepRunner:
    """Runs the steps of one plan; `reference` is the image's name in the OCI layout's index."""

    session: Session
    plan: Plan
    inputs: PlanInputs
    sources: Mapping[str, Path]
    reference: str
    component_folders: Mapping[str, Path] = field(default_factory=dict)
    """Where each component's own files lie."""
    spack: SpackInstaller | None = None
    """Of a uenv."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step that ran took, by its name; the others lay in the store."""

    def __post_init__(self) -> None:
        self._components = ComponentBuilder(self.session, self.inputs, self.component_folders)
        self._layers = LayerMaker(self.session, self.inputs, self.sources)
        self._processors = threading.Semaphore(self.session.jobs)
        self._stopped = threading.Event()
        self._sound: set[str] = set()  # digests of blobs that were read or written whole in this run
        self._read: dict[Path, Layer] = {}  # several steps are made from the same layers
        self._options = squashfs_options(self.inputs.recipe)

    def run(self) -> dict[str, Path]:
        """Run what is missing and return the folder of each step's result, by step id; raises the first failure.

        Layers without inputs go on at once: their downloads overlap, and at most `jobs` of them are packed at a time.
        """
        with self.session.store.in_use():
            return self._run()

    def _run(self) -> dict[str, Path]:
        steps = self.plan.needed({step.id for step in self._missing(self.plan.lasting())})
        missing = self._missing(steps)
        sources = self._sources(missing)
        self._require_downloads(missing, sources)
        folders: dict[str, Path] = {}
        followers = {step.inputs[0]: step for step in steps if step.kind == "bytecode"}
        once = {step.id: step for step in steps if not step.inputs}  # an image may have a layer twice
        # What another layer waits for, then the largest: nobody should wait for one large wheel that began last.
        first = sorted(once.values(), key=lambda step: (step.id not in followers, -step.download_bytes))
        pool = ThreadPoolExecutor(max_workers=self.session.jobs + 2, thread_name_prefix="step")
        try:
            # What cannot be had is known before anything is compiled.
            fetching = pool.submit(fetch_sources, self.session, sources)
            running = [pool.submit(self._in_turn, step, followers.get(step.id)) for step in first]
            fetching.result()
            for future in running:
                folders |= future.result()
        except BaseException:
            self._stopped.set()
            self.session.stop_downloads()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        for step in steps:
            if step.id not in folders:
                folders[step.id] = self._result(step, folders)
        return folders

    def _in_turn(self, step: Step, follower: Step | None) -> dict[str, Path]:
        """The results of both; the second is made from the first alone."""
        folders = {step.id: self._result(step, {})}
        if follower:
            folders[follower.id] = self._result(follower, folders)
        return folders

    def _missing(self, steps: Iterable[Step]) -> list[Step]:
        return [step for step in steps if self.session.store.step_folder(step.id) is None]

    def _sources(self, steps: Iterable[Step]) -> list[LockedSource]:
        names = {self._components.planned(step).chosen.name for step in steps if step.kind == "component"}
        components = self.inputs.lock.build.components if self.inputs.lock.build else ()
        return [pin for component in components if component.name in names for pin in component.sources]

    def _require_downloads(self, steps: Sequence[Step], sources: Sequence[LockedSource]) -> None:
        # What cannot be had is named as a whole, and before anything is made of the rest.
        store, wheels = self.session.store, self._components.wheels(steps)
        wanted = [*self._layers.downloads(steps), *self.session.archive_downloads(sources)]
        wanted += self.session.wheel_downloads(wheels)
        missing = {file.sha256 for file in wanted if not store.has_download(file.sha256, file.size)}
        missing |= {source.commit for source in sources if source.commit and not has_commit(self.session, source)}
        require_reachable(self.session, [item for item in artefacts_of(self.inputs.lock) if item.key in missing])

    def _result(self, step: Step, folders: Mapping[str, Path]) -> Path:
        if (folder := self.session.store.step_folder(step.id)) is not None:
            return folder

        def build(into: Path) -> Mapping[str, str]:
            begun = time.monotonic()
            hashed = self._build(step, into, [self._layer(folders[identity]) for identity in step.inputs])
            self.seconds[step.name] = round(time.monotonic() - begun, 3)
            return hashed

        label = result_label(step, self.inputs.recipe.name)
        return self.session.store.step(step.id, build, listener=self.session.listener, label=label)

    def _layer(self, folder: Path) -> Layer:
        if folder not in self._read:
            self._read[folder] = read_layer(folder)
        return self._read[folder]

    def _build(self, step: Step, into: Path, below: Sequence[Layer]) -> Mapping[str, str]:
        """Fill the folder `into`; returns what is known of its files' sha256."""
        if step.kind == "squashfs":
            digest = self._write_squashfs(below, into / IMAGE)
            self._sound.update(layer.digest for layer in below)
            return {IMAGE: digest}
        if step.kind == "oci":
            with self.session.listener.task("writing the OCI image"):
                self._verify(below)
                write_oci_layout(below, self.inputs.config, into / "oci", reference=self.reference)
            return {f"oci/blobs/sha256/{layer.digest}": layer.digest for layer in below}
        if step.kind == "component":
            return self._components.build(step, into, below)
        if step.kind == "spack":
            with self._installer.installed(step.id) as result:
                write_json(into / ACTIVATIONS, result.document())
                return self._write_layer(step, spack_entries(result.tree, epoch=self.inputs.lock.epoch), into)
        if step.kind == "uenv-meta":
            return self._write_layer(step, meta_entries(self._installer, self.inputs, below[0]), into)
        return self._write_layer(step, self._layers.entries(step, below), into)

    @property
    def _installer(self) -> SpackInstaller:
        assert self.spack is not None, "a plan with Spack comes with one"
        return self.spack

    def _write_layer(self, step: Step, entries: Iterator[Entry], into: Path) -> Mapping[str, str]:
        with self._processors, self.session.listener.task(f"layer {step.name}"):
            options = self._options
            layer = write_layer(
                self._until_stopped(entries), into, level=options.level, block_size=options.block_size
            )  # fmt: skip
        self._sound.add(layer.digest)
        return {layer.blob.name: layer.digest}

    def _verify(self, layers: Sequence[Layer]) -> None:
        """Read the blobs that this run has neither written nor linked. Raises LockError, rule `hash-mismatch`."""
        for layer in layers:
            if layer.digest not in self._sound and sha256_of(layer.blob) != layer.digest:
                raise damaged(layer.blob, "its sha256 is another one")
            self._sound.add(layer.digest)

    def _until_stopped(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        # An interruption reaches the main thread only: the others look for it between two files.
        for entry in entries:
            if self._stopped.is_set():
                raise InterruptedError
            yield entry

    def _write_squashfs(self, below: Sequence[Layer], image: Path) -> str:
        epoch, listener = self.inputs.lock.epoch, self.session.listener
        record = self.inputs.start or StartRecord(())
        if record.repeated:
            again = f"{len(record.repeated)} files are listed again, {record.repeated[0]} first"
            listener.note(f"the recorded start: {again}; what their lines say is put together")
        return write_squashfs(
            below, image, self._options, epoch=epoch, listener=listener, start=record.files
        ).sha256  # fmt: skip
