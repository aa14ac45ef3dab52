"""What users select, from what was prepared: EDF files for both engines and the batch script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from uenv_builder.app.preparing import Prepared
from uenv_builder.core.edf.render import EdfRequest, render_edf
from uenv_builder.core.sbatch import SbatchRequest, Workload, render_sbatch, srun_line
from uenv_builder.core.uenv_view import DEFAULT
from uenv_builder.model.recipe import Recipe
from uenv_builder.system.files import write_text
from uenv_builder.system.templates import load_template

_SITE_IMAGES = "${SCRATCH}/ce-images"
"""Where CSCS tells users to keep images, for a file that is rendered before there is an image."""
_SITE_REGISTRY = "registry.example.org"


def render_user_files(prepared: Prepared, *, image: str | None = None) -> dict[str, str]:
    """The texts by file name, relative to a build's folder.

    `image` is the squashfs as the Container Engine's EDF names it. Sarus Suite takes registry references only: its EDF
    names the image under a registry that whoever publishes the image fills in. Without Slurm, no file is rendered.
    """
    if prepared.recipe.kind == "uenv":
        return {}  # it is started by its label, not by an EDF
    label, system = prepared.selection.label, prepared.selection.system
    network, name = prepared.recipe.network, str(label.name)
    # The id of the topmost layer stands for all content, and does not change with the machine's squashfs tools.
    content = prepared.plan.layers()[-1].id
    place = image or f"{_SITE_IMAGES}/{label.name}-{label.version}-{label.uarch}.squashfs"
    reference = f"{_SITE_REGISTRY}/{name.lower()}:{label.version}"

    def edf(dialect: str, where: str) -> str:
        return render_edf(
            EdfRequest(
                label=str(label),
                content=content,
                dialect="sarus" if dialect == "sarus" else "ce",
                image=where,
                system=system,
                network=network,
                settings=prepared.recipe.edf,
                entrypoint=bool(prepared.inputs.config.entrypoint),
            )
        )

    return {
        f"edf/{name}.toml": edf("ce", place),
        f"edf/{name}.sarus.toml": edf("sarus", reference),
        "sbatch.sh": render_sbatch(_sbatch(prepared, name), load_template("sbatch.sh.j2")),
    }


def start_line(prepared: Prepared, edf: str) -> str:
    """The srun line that runs a command in the environment; `edf` is a file's absolute path, or its name."""
    return srun_line(_sbatch(prepared, edf), ("COMMAND",))


def uenv_line(recipe: Recipe, image: Path) -> str:
    """The srun line that runs a command in the uenv with its default view; `image` is absolute."""
    return f"srun --uenv={image}:{recipe.mount} --view={recipe.default_view or DEFAULT} COMMAND"


def _sbatch(prepared: Prepared, edf: str) -> SbatchRequest:
    return SbatchRequest(
        label=prepared.selection.label,
        edf=edf,
        system=prepared.selection.system,
        network=prepared.recipe.network,
        workload=_workload(prepared),
        command=("python3", "-V"),
    )


def _workload(prepared: Prepared) -> Workload:
    wheels = {wheel.name for wheel in (prepared.lock.python.wheels if prepared.lock.python else ())}
    if "torch" in wheels:
        return "torch"
    return "mpi" if "mpi4py" in wheels else "command"


def write_user_files(texts: Mapping[str, str], folder: Path) -> None:
    """Write the texts below `folder`, each whole or not at all."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        if name.endswith(".sh"):
            path.chmod(0o755)
