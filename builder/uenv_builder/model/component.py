"""A component that is built from source, as its component.yaml describes it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from uenv_builder.model.recipe import PackageName, VersionText
from uenv_builder.model.section import AbsolutePath, Name

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
SourceUrl = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=2000)]
PoolPath = Annotated[str, Field(pattern=r"^pool/[^\s\x00-\x1f]+$", max_length=500)]
RelativePath = Annotated[str, Field(pattern=r"^[^/\s\x00-\x1f][^\s\x00-\x1f]*$", max_length=500)]
OptionText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:+=@%/ -]*$", max_length=500)]
"""What stands in a shell script as it is: no quotes, no dollar signs, no line breaks."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class ComponentSource(_Section):
    """One source: an archive by its sha256, or a commit of a git repository; exactly one of the first three keys."""

    archive: list[SourceUrl] = []
    """URLs of one tar archive (gz, bz2, xz, zst or plain) or zip archive; the first that has it serves."""
    debian: PoolPath | None = None
    """The path of a source archive below the root of any Debian mirror: pool/main/h/hwloc/hwloc_2.12.0.orig.tar.bz2."""
    git: list[SourceUrl] = []
    """URLs of one git repository: https, ssh or file, a bare repository's folder or a bundle."""
    sha256: Sha256 | None = None
    """Of the archive."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Of the archive, in bytes; only for messages and for an earlier refusal of a wrong file."""
    commit: Commit | None = None
    """The commit's whole id."""
    submodules: bool = False
    """Whether submodules are fetched, too, by the commits that are named for them; else one that has any is refused."""
    strip: Annotated[int, Field(ge=0, le=9)] | None = None
    """How many folders to take off an archive's paths; by default 1, and 0 for git."""
    folder: RelativePath = "."
    """Where it goes, below the folder that is built in."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [name for name in ("archive", "debian", "git") if getattr(self, name)]
        if len(given) != 1:
            raise PydanticCustomError("one_source", "name exactly one of archive, debian and git")
        wanted, other = ("commit", "sha256") if self.git else ("sha256", "commit")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise PydanticCustomError("source_pin", f"a source of the kind {given[0]} is pinned by `{wanted}`")
        if ".." in self.folder.split("/"):
            raise PydanticCustomError("source_folder", "folder must not go up with ..")
        return self


class ComponentVersion(_Section):
    """Where one version comes from."""

    sources: Annotated[list[ComponentSource], Field(min_length=1)]
    """What is unpacked, in this order, into the folder that is built in."""
    patches: list[RelativePath] = []
    """Files of the component's folder, applied in this order with `patch -p1`."""


class ComponentOption(_Section):
    """A choice that recipes have; build.sh.j2 reads it as `{{ options.NAME }}`."""

    description: Annotated[str, Field(min_length=1)]
    """What it decides, in one line."""
    default: OptionText
    """Its value where a recipe says nothing."""
    values: list[OptionText] = []
    """The values that it takes; without them, any text that a shell leaves as it is."""


class BuildPackages(_Section):
    """What compiling needs. None of it reaches the image; compilers, make, patch and the shell's tools are there."""

    tools: list[PackageName] = []
    """Debian packages that run while building, for the machine that builds: autoconf, cmake, pkgconf."""
    libraries: list[PackageName] = []
    """Debian packages to compile and link against, for the machine that the image is for: libnl-3-dev."""
    wheels: list[str] = []
    """Requirements (PEP 508) of programs for the machine that builds; `${{ pins.cuda }}` is a pin of the recipe."""


class ComponentNeeds(_Section):
    """Parts of the image that are there, at their places, while the component is compiled."""

    components: list[str] = []
    """Other components, or what they provide, with or without bounds: `libfabric>=2.0`. They come with it."""
    wheels: list[str] = []
    """Wheels that the recipe's Python packages bring, such as nvidia-cuda-runtime; `a | b`: the first in the lock."""


class ComponentRecipe(_Section):
    """One component built from source."""

    name: Name
    """Its name; that of its folder, too."""
    description: Annotated[str, Field(min_length=1)]
    """What it is, in one line."""
    homepage: str = ""
    """Where its project lives."""
    license: str = ""
    """Its license as SPDX writes it."""
    provides: list[Name] = []
    """Other names that `needs` of components may have for it, such as mpi."""
    needs: ComponentNeeds = ComponentNeeds()
    """Parts of the image that it is compiled with."""
    build: BuildPackages = BuildPackages()
    """Packages that it is compiled with, and that do not reach the image."""
    run_packages: list[PackageName] = []
    """Debian packages that the image has to have for it; they come into the userland with what they depend on."""
    cross: bool = True
    """Whether it may be compiled by a cross compiler; else, a machine of another kind compiles it under qemu-user."""
    prefix: AbsolutePath = "/usr/local"
    """Where it is installed."""
    options: dict[Name, ComponentOption] = {}
    """What recipes may choose."""
    versions: Annotated[dict[VersionText, ComponentVersion], Field(min_length=1)]
    """What recipes may ask for; the first is the default."""
