"""The main job: from what was prepared to a folder with both images, the users' files, a manifest and a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from uenv_builder.app import outputs
from uenv_builder.app.component_files import CHECK_SCRIPT
from uenv_builder.app.outputs import BuiltImage, open_build, place_folder
from uenv_builder.app.preparing import Prepared
from uenv_builder.app.rendering import render_user_files, start_line, uenv_line, write_user_files
from uenv_builder.app.reports import exit_code_of, reusable_report, summary_lines
from uenv_builder.app.session import Session
from uenv_builder.app.storing import commits_of, keep_build, keep_lock, references_of
from uenv_builder.core.digest import Document
from uenv_builder.core.lock_file import dump_lock
from uenv_builder.core.plan_changes import plan_document, read_plan
from uenv_builder.images.oci import read_oci_layout
from uenv_builder.images.squashfs.start_part import read_extents
from uenv_builder.model.errors import BuildError, LockError, UsageError
from uenv_builder.model.lock import Lock
from uenv_builder.model.plan import Plan
from uenv_builder.model.report import Report
from uenv_builder.system.abandoned import remove_abandoned
from uenv_builder.system.files import explained, link_or_copy, lock_file, replace_folder, write_json, write_text
from uenv_builder.system.report_files import write_report
from uenv_builder.system.store_entries import SUMS, step_damage

if TYPE_CHECKING:
    from uenv_builder.app.spack_installing import SpackInstaller


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build came to; `report` is None where no checks were asked for, `steps` is the plan's number of steps."""

    image: BuiltImage
    report: Report | None
    steps: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each step that ran took, by its name."""

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return exit_code_of(self.report) if self.report else 0

    def document(self) -> Document:
        """For --json."""
        return {
            "folder": str(self.image.folder),
            "built": list(self.seconds),
            "seconds": dict(self.seconds),
            "reused": self.steps - len(self.seconds),
            "outcome": self.report.outcome if self.report else "untested",
            "manifest": self.image.manifest,
        }

    def summary(self) -> list[str]:
        """For people."""
        manifest = self.image.manifest
        size = manifest["squashfs"]["size"] / 1e6
        lines = [
            f"{self.image.image}  {size:.1f} MB  sha256:{manifest['squashfs']['sha256']}",
            f"{len(self.seconds)} of {self.steps} steps ran, the others lay in the store",
            f"start it: {manifest['srun']}",
        ]
        return [*lines, *(summary_lines(self.report) if self.report else ["not tested (--no-test)"])]


def default_output(prepared: Prepared) -> Path:
    """build/NAME-VERSION-UARCH below the current folder."""
    label = prepared.selection.label
    return Path("build") / f"{label.name}-{label.version}-{label.uarch}"


def build(session: Session, prepared: Prepared, *, output: Path | None = None, test: bool = True) -> BuildResult:
    """Run the missing steps, write the folder `output` whole, and check the image unless told not to.

    The folder is replaced in one step: it never holds a half of a build. Raises BuildError, LockError or NetworkError.
    """
    folder = output or default_output(prepared)
    _refuse_foreign(folder)
    for place in (folder.resolve().parent, folder):
        remove_abandoned(place)
    if (image := _unchanged(session, prepared, folder)) is not None:
        _keep(session, prepared, folder)
        report = _check(session, image, reusable_report(folder), here=True) if test else None
        return BuildResult(image, report, len(prepared.plan.steps))
    seconds: dict[str, float] = {}
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)

    def waiting() -> None:
        session.listener.note(f"another build writes {folder}: waiting for it")

    with lock_file(folder.parent / f".{folder.name}.lock", waiting=waiting):
        with session.store.in_use(references_of(prepared.plan, prepared.lock), listener=session.listener):
            old_report = reusable_report(folder) if _has_same_checks(prepared, folder) else None
            try:
                image = _make(session, prepared, folder, seconds)
            except LockError as error:
                if not _drop_damaged(session, prepared.plan, prepared.lock, error):
                    raise
                image = _make(session, prepared, folder, seconds)
        report = _check(session, image, old_report) if test else None
    return BuildResult(image, report, len(prepared.plan.steps), seconds)


def _make(session: Session, prepared: Prepared, folder: Path, seconds: dict[str, float]) -> BuiltImage:
    """Run the missing steps and write the folder; how long those took that ran is added to `seconds`."""
    from uenv_builder.app.steps import StepRunner

    runner = StepRunner(
        session, prepared.plan, prepared.inputs, prepared.sources, reference=str(prepared.selection.label),
        component_folders=prepared.loaded.components.folders, spack=_spack_installer(session, prepared),
    )  # fmt: skip
    try:
        folders = runner.run()
    finally:
        seconds |= runner.seconds
    _keep(session, prepared, folder)
    with session.listener.task("writing the build's folder"):
        return _write_folder(folder, prepared, folders, made=frozenset(runner.seconds))


def _spack_installer(session: Session, prepared: Prepared) -> SpackInstaller | None:
    if prepared.lock.spack is None:
        return None
    from uenv_builder.app.spack_installing import SpackInstaller

    uarch = prepared.selection.uarch
    return SpackInstaller(
        session=session, loaded=prepared.loaded, uarch=uarch, locked=prepared.lock.spack,
        text=prepared.inputs.spack_file,
    )  # fmt: skip


def _drop_damaged(session: Session, plan: Plan, lock: Lock, error: LockError) -> bool:
    """Whether results of the plan, or commits of the lock, were damaged, and are dropped now: then try it again.

    Nothing is read unless `error` says that something was damaged; in a store that may only be read, all stays.
    """
    if error.diagnostics[0].rule != "hash-mismatch":
        return False
    session.listener.note(error.diagnostics[0].message)
    names = {step.id: step.name for step in plan.steps} | commits_of(lock)
    stored = [identity for identity in names if session.store.step_folder(identity) is not None]
    try:
        dropped = [names[identity] for identity in stored if session.store.sound_step(identity) is None]
    except BuildError:
        return False
    if dropped:
        session.listener.note(f"dropped what is damaged in the store, to be made anew: {', '.join(dropped)}")
    return bool(dropped)


def _keep(session: Session, prepared: Prepared, folder: Path) -> None:
    """Have the store keep what the build and its lock refer to, as long as they are there."""
    keep_lock(session.store, prepared.loaded.lock_path(prepared.selection.uarch.name), prepared.lock)
    keep_build(session.store, folder, prepared.plan)


def _refuse_foreign(folder: Path) -> None:
    # The folder is replaced as a whole: it must not be somebody's home.
    if folder.exists() and not (folder / outputs.MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists, and is not a build", hint="choose another --output, or remove it first")


def _unchanged(session: Session, prepared: Prepared, folder: Path) -> BuiltImage | None:
    """The build at `folder` where it is just what this one would write: then nothing is read or written again.

    Its image has to be the stored file itself, which was hashed when it came there; a copy on another file system is
    not.
    """
    stored = {step: session.store.step_folder(step.id) for step in prepared.plan.lasting()}
    by_kind = {step.kind: result for step, result in stored.items()}
    image = by_kind.get("squashfs")
    if image is None or None in stored.values() or not (folder / outputs.MANIFEST).is_file():
        return None
    try:
        built = open_build(folder)
        recorded = {key: built.manifest[key] for key in ("squashfs", "oci") if key in by_kind}
        document = json.loads(json.dumps({**_manifest(prepared, folder), **recorded}))
        same = (
            document == built.manifest
            and built.image.samefile(image / outputs.IMAGE)
            and built.image.stat().st_size == built.manifest["squashfs"]["size"]
            and (folder / "lock.yaml").read_text(encoding="utf-8") == dump_lock(prepared.lock)
            and read_plan((folder / outputs.PLAN).read_text(encoding="utf-8")) == prepared.plan
            and _has_same_checks(prepared, folder)
            and all((folder / name).read_text(encoding="utf-8") == text for name, text in _texts(prepared, folder))
        )
    except (UsageError, OSError, KeyError, ValueError):
        return None
    return built if same else None


def _texts(prepared: Prepared, folder: Path) -> Iterable[tuple[str, str]]:
    """What users select, by its place below `folder`."""
    return render_user_files(prepared, image=str((folder / outputs.IMAGE).absolute())).items()


def _has_same_checks(prepared: Prepared, folder: Path) -> bool:
    """Whether the build at `folder` was checked by the components' scripts as they are now."""
    there = {path.name: path.read_bytes() for path in (folder / outputs.CHECKS).glob("*.sh")}
    return there == {f"{name}.sh": path.read_bytes() for name, path in _check_scripts(prepared).items()}


def _check_scripts(prepared: Prepared) -> dict[str, Path]:
    places = {name: place / CHECK_SCRIPT for name, place in prepared.loaded.components.folders.items()}
    return {name: place for name, place in places.items() if place.is_file()}


def _check(session: Session, image: BuiltImage, old: Report | None, *, here: bool = False) -> Report:
    """The report on `image`; `old` serves where it is about the same image, and lies there already if it is `here`."""
    if old is not None and old.image == image.digest and old.plan == image.manifest["plan"]:
        session.listener.note(f"the image is the one that was tested at {old.started}; `uenv test` tests it again")
        report = old
        if here:
            return report
    else:
        from uenv_builder.app.testing import run_report  # nothing is run where nothing has changed

        report = run_report(session, image)
    write_report(report, image.folder)
    return report


def _write_folder(folder: Path, prepared: Prepared, folders: Mapping[str, Path], *, made: frozenset[str]) -> BuiltImage:
    """Write the build's folder; `made` are the names of the steps that ran just now, whose files were just hashed."""
    with replace_folder(folder) as new:
        manifest = _manifest(prepared, folder)
        for step in prepared.plan.steps:
            if step.kind in {"squashfs", "oci"} and step.name not in made:
                _verify(folders[step.id])
            if step.kind == "squashfs":
                manifest["squashfs"] = _place_squashfs(folders[step.id], new)
            elif step.kind == "oci":
                place_folder(folders[step.id] / "oci", new / "oci")
                manifest["oci"] = _oci_document(new / "oci")
        write_text(new / "lock.yaml", dump_lock(prepared.lock))
        if (folder / outputs.TESTS).is_dir():
            place_folder(folder / outputs.TESTS, new / outputs.TESTS)
        for name, script in _check_scripts(prepared).items():
            (new / outputs.CHECKS).mkdir(exist_ok=True)
            write_text(new / outputs.CHECKS / f"{name}.sh", script.read_text(encoding="utf-8"))
        write_user_files(dict(_texts(prepared, folder)), new)
        write_json(new / outputs.PLAN, plan_document(prepared.plan))
        write_json(new / outputs.MANIFEST, manifest)
    return open_build(folder)


def _verify(result: Path) -> None:
    if (reason := step_damage(result)) is not None:
        raise LockError(
            f"{result}: the stored image is damaged: {reason}",
            rule="hash-mismatch",
            hint="`uenv cache verify` drops it; build again",
        )


def _place_squashfs(step: Path, new: Path) -> Document:
    image = step / outputs.IMAGE
    recorded = json.loads((step / SUMS).read_text(encoding="utf-8"))[outputs.IMAGE]
    link_or_copy(image, new / outputs.IMAGE)
    document: Document = {"file": outputs.IMAGE, **recorded}
    if extents := read_extents(image):
        _tables, *data = extents
        end = max((start + length for start, length in data), default=0)
        document["start"] = {"bytes": sum(length for _, length in extents), "extents": len(extents), "end": end}
    return document


def _oci_document(folder: Path) -> Document:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    manifest, _ = read_oci_layout(folder)
    layers = manifest["layers"]
    return {
        "folder": "oci",
        "digest": index["manifests"][0]["digest"],
        "layers": len(layers),
        "size": sum(layer["size"] for layer in layers),
    }


def _manifest(prepared: Prepared, folder: Path) -> Document:
    recipe, lock, config = prepared.recipe, prepared.lock, prepared.inputs.config
    edf = folder / "edf" / f"{prepared.selection.label.name}.toml"
    uenv = recipe.kind == "uenv"
    return {
        "format": 1,
        "label": str(prepared.selection.label),
        "srun": uenv_line(recipe, folder.absolute() / outputs.IMAGE)
        if uenv
        else start_line(prepared, str(edf.absolute())),
        "kind": recipe.kind,
        **({"mount": recipe.mount} if uenv else {}),
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "system": prepared.selection.system.name,
        "uarch": prepared.selection.uarch.name,
        "network": recipe.network,
        "plan": prepared.plan.id,
        "steps": _step_documents(prepared.plan),
        "config": {"env": config.env, "workdir": config.workdir, "entrypoint": config.entrypoint, "cmd": config.cmd},
        "labels": config.labels,
        "epoch": lock.epoch,
        "checks": recipe.checks,
        "views": {name: view.model_dump(mode="json") for name, view in recipe.views.items()},
        "accelerator": lock.accelerator.model_dump(mode="json") if lock.accelerator else None,
        "packages": [[name, version] for name, version in lock.packages.items()],
        "wheels": [[wheel.name, wheel.version] for wheel in (lock.python.wheels if lock.python else ())],
        **({"spack": [[node.name, node.version, node.hash] for node in lock.spack.built]} if lock.spack else {}),
        "components": [
            [component.name, component.version] for component in (lock.build.components if lock.build else ())
        ],
    }


def _step_documents(plan: Plan) -> list[Document]:
    return [{"name": step.name, "kind": step.kind, "id": step.id, "inputs": step.inputs} for step in plan.steps]
