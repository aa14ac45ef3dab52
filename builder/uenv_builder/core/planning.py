"""From recipe and lock to the graph of steps: pure, so that `uenv plan` needs neither network nor root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from uenv_builder.core.component_planning import PlannedComponent, plan_components
from uenv_builder.core.digest import Json, digest_of
from uenv_builder.core.plan_steps import Tools, make_step
from uenv_builder.core.spack_planning import uenv_steps
from uenv_builder.core.start_record import start_document
from uenv_builder.model.image import ImageConfig
from uenv_builder.model.lock import Lock, LockedBase, LockedDeb, LockedWheel
from uenv_builder.model.plan import Plan, Step, StepKind
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.start import StartRecord
from uenv_builder.model.system import System, Uarch


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedContent:
    """One file that a recipe adds: absolute path in the image, octal mode, and the content's sha256 and size."""

    path: str
    mode: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """All that decides a build.

    `added` is sorted by path; `generated` are texts and modes of generated files by path without a leading slash;
    `tools` are the versions of the programs whose output is kept, by kind of step; `components` are those from source,
    each after what it needs; `start` is what the squashfs has in front. Of a uenv, `spack_file` is the text of
    spack.yaml, and `system` has the contract that its views start from.
    """

    recipe: Recipe
    lock: Lock
    uarch: Uarch
    config: ImageConfig
    added: Sequence[AddedContent]
    generated: Mapping[str, tuple[str, int]]
    tools: Tools
    components: Sequence[PlannedComponent] = ()
    start: StartRecord | None = None
    spack_file: str = ""
    system: System | None = None

    @property
    def byte_compile(self) -> bool:
        """Whether modules get byte code: no lock has an interpreter for the build machine that is as a base's own."""
        return self.recipe.python.byte_compile and self.lock.userland is not None


def make_plan(inputs: PlanInputs) -> Plan:
    """The steps of a build, lowest layer first, then the images; the same inputs give the same plan on any machine."""
    if inputs.lock.spack:
        layers = [*uenv_steps(inputs, inputs.lock.spack), *_added_files(inputs)]
        steps = [*layers, _squashfs(inputs, layers)]
        return Plan(id=digest_of([step.id for step in steps]), steps=tuple(steps))
    layers = _base_layers(inputs, inputs.lock.base) if inputs.lock.base else [_userland(inputs)]
    if inputs.lock.python and inputs.byte_compile:
        layers.append(_bytecode(inputs, layers[0]))
    wheels = {wheel.name: _wheel(inputs, wheel) for wheel in (inputs.lock.python.wheels if inputs.lock.python else ())}
    built = plan_components(inputs.components, inputs.lock, inputs.uarch, inputs.tools, wheels)
    layers += [*wheels.values(), *built.layers]
    layers += _added_files(inputs)
    layers.append(_loader(inputs, layers))
    layers.append(_finish(inputs, layers[-1]))
    steps = [*built.packages, *layers, *_images(inputs, layers)]
    return Plan(id=digest_of([step.id for step in steps]), steps=tuple(steps))


def _added_files(inputs: PlanInputs) -> list[Step]:
    options: Json = [asdict(content) for content in inputs.added]
    return [_step(inputs, "files", "files of the recipe", options)] if inputs.added else []


def _userland(inputs: PlanInputs) -> Step:
    packages = inputs.lock.debs
    options: Json = {"epoch": inputs.lock.epoch, "debian": inputs.uarch.debian, "debs": _hashes(packages)}
    name = f"Debian userland, {len(packages)} packages"
    return _step(inputs, "userland", name, options, download=sum(deb.size for deb in packages))


def _base_layers(inputs: PlanInputs, base: LockedBase) -> list[Step]:
    removed: Json = list(inputs.recipe.base.oci.remove) if inputs.recipe.base.oci else []
    steps = []
    for number, layer in enumerate(base.layers, 1):
        options: Json = {
            "digest": layer.digest, "diff-id": layer.diff_id, "media-type": layer.media_type, "remove": removed,
        }  # fmt: skip
        name = f"layer {number} of {base.name}"
        steps.append(_step(inputs, "base-layer", name, options, download=layer.size))
    return steps


def _bytecode(inputs: PlanInputs, userland: Step) -> Step:
    options: Json = {"epoch": inputs.lock.epoch, **_compiler(inputs)}
    return _step(inputs, "bytecode", "byte code of Debian's Python modules", options, (userland,))


def _wheel(inputs: PlanInputs, wheel: LockedWheel) -> Step:
    compiler = _compiler(inputs) if inputs.byte_compile else {}
    interpreter = inputs.lock.base.contents.python if inputs.lock.base else None
    place: dict[str, Json] = {"interpreter": interpreter.model_dump(mode="json")} if interpreter else {}
    options: Json = {"file": wheel.file, "sha256": wheel.sha256, "python": _python(inputs), **compiler, **place}
    return _step(inputs, "wheel", f"{wheel.name} {wheel.version}", options, download=wheel.size)


def _loader(inputs: PlanInputs, layers: Sequence[Step]) -> Step:
    # Apart from the last layer: it reads all libraries, and a changed variable does not change it.
    options: Json = {"epoch": inputs.lock.epoch, "machine": inputs.uarch.machine}
    return _step(inputs, "loader", "loader cache", options, layers)


def _finish(inputs: PlanInputs, loader: Step) -> Step:
    # It is made from no other layer, but its id stands for all of them.
    options: Json = {
        "epoch": inputs.lock.epoch,
        "generated": {path: [text, f"{mode:o}"] for path, (text, mode) in inputs.generated.items()},
        "workdir": inputs.config.workdir,
    }
    return _step(inputs, "finish", "environment and start scripts", options, (loader,))


def _images(inputs: PlanInputs, layers: Sequence[Step]) -> list[Step]:
    steps = [_squashfs(inputs, layers)]
    if inputs.recipe.outputs.oci:
        config = asdict(inputs.config)
        steps.append(_step(inputs, "oci", "OCI image layout", {"config": config}, layers))
    return steps


def _squashfs(inputs: PlanInputs, layers: Sequence[Step]) -> Step:
    squashfs: dict[str, Json] = {"epoch": inputs.lock.epoch, **inputs.recipe.outputs.squashfs.model_dump(mode="json")}
    if inputs.start:
        squashfs["start"] = digest_of(start_document(inputs.start))
    return _step(inputs, "squashfs", "image.squashfs", squashfs, layers)


def _python(inputs: PlanInputs) -> str:
    return inputs.lock.python.version if inputs.lock.python else ""


def _compiler(inputs: PlanInputs) -> dict[str, Json]:
    # The byte code depends on the interpreter's exact version, not on the machine that it ran on.
    interpreters = {
        deb.version
        for debs in inputs.lock.compilers.values()
        for deb in debs
        if deb.name == f"python{_python(inputs)}-minimal"
    }
    return {"compiler": sorted(interpreters)}


def _hashes(debs: Sequence[LockedDeb]) -> list[str]:
    return [deb.sha256 for deb in debs]


def _step(
    inputs: PlanInputs, kind: StepKind, name: str, options: Json, after: Sequence[Step] = (), *, download: int = 0
) -> Step:
    return make_step(inputs.tools, kind, name, options, after, download=download)
