"""The Spack part of a recipe: which Spack and which packages, with what they are compiled, and the views on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from uenv_builder.model.section import AbsolutePath, Name, Section, View

GitCommit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
GitRef = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/+-]*$", max_length=200)]
Place = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=400)]
SpecText = Annotated[str, Field(pattern=r"^[^\x00-\x1f]*[^\s\x00-\x1f][^\x00-\x1f]*$", max_length=2000)]
SpackName = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_-]*$", max_length=120)]
CompilerName = Literal["gcc", "llvm", "nvhpc", "llvm-amdgpu", "intel-oneapi-compilers"]
Settings = dict[str, Any]
"""Of one package, as Spack's packages.yaml has them: what Spack's own schema checks is not repeated here."""
SYSTEM = "system"
"""The version of a compiler that the machine has, and nobody builds."""
BUILTIN = "builtin"
"""The name of the repository that spack-packages is."""


class SpackCheckout(Section):
    """Spack itself, by a commit of its repository."""

    git: Place
    """URL of the repository."""
    commit: GitCommit | None = None
    """Its whole id; this or `ref`."""
    ref: GitRef | None = None
    """A branch or tag; the lock holds the commit that it was."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.commit is None) == (self.ref is None):
            raise PydanticCustomError("one_commit", "name either a commit or a ref")
        return self


class SpackRepository(Section):
    """Package files of Spack: a commit of a repository, or a folder."""

    git: Place | None = None
    """URL of the repository; this or `folder`."""
    commit: GitCommit | None = None
    """Its whole id; this or `ref`."""
    ref: GitRef | None = None
    """A branch or tag; the lock holds the commit that it was."""
    folder: Place | None = None
    """A folder of the recipe, or an absolute path; the lock holds a hash of its files."""
    path: Place | None = None
    """Where repo.yaml lies below it; by default, where its spack-repo-index.yaml says, else at its root."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.git is None) == (self.folder is None):
            raise PydanticCustomError("one_place", "name either a git repository or a folder")
        commits = [self.commit, self.ref].count(None)
        if self.git is not None and commits != 1:
            raise PydanticCustomError("one_commit", "name either a commit or a ref")
        if self.folder is not None and commits != 2:
            raise PydanticCustomError("folder_commit", "a folder has neither commit nor ref")
        return self


class SpackCompiler(Section):
    """A compiler: one that Spack builds, or the machine's own."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Such as 14.2.0; or `system`, for gcc alone."""
    spec: str = ""
    """Variants and more to build it with; by default `+bootstrap` for gcc, `~mpi~blas~lapack` for nvhpc, `+clang ~gold`
    for llvm."""


class SpackNetwork(Section):
    """The MPI of an environment, and the specs that belong to it."""

    mpi: SpecText | None = None
    """Spec of an MPI, such as `cray-mpich@9.1 +cuda`; without it, nothing is added."""
    specs: list[SpecText] | None = None
    """Specs that go with it; without this list, those that the system has for this MPI."""


class SpackView(View):
    """A folder of links to what an environment installs, `MOUNT/env/NAME`, and what selecting it does to variables."""

    link: Literal["roots", "all", "run"] = "roots"
    """What is linked: the environment's specs, with all that they need, or with what they need when they run."""
    select: list[SpecText] = []
    """Only what matches one of these specs."""
    exclude: list[SpecText] = []
    """Not what matches one of these specs."""
    projections: dict[str, str] = {}
    """Folders below the view by spec (or `all`), as Spack's views have them."""
    add_compilers: bool = True
    """Whether the environment's compilers come into the view's PATH."""
    prefix_paths: dict[str, list[str]] = {}
    """By search path, folders of the view to put before what it holds: `LD_LIBRARY_PATH: [lib, lib64]`."""


class SpackEnvironment(Section):
    """Specs that are solved together, with the compilers for them."""

    compilers: Annotated[list[CompilerName], Field(min_length=1)]
    """Of those below `spack: compilers`; the first is preferred."""
    specs: list[SpecText] = []
    """What is asked for; the lock has what that means."""
    unify: Literal[True, False, "when_possible"] = True
    """Whether a package may be there in one version only."""
    duplicates: Literal["minimal", "full", "none"] = "minimal"
    """Which packages may be there twice as tools of a build, as Spack's `concretizer: duplicates` says."""
    variants: list[SpecText] = []
    """Variants for all packages that have them: what a package cannot do is passed over without a word."""
    prefer: list[SpecText] | None = None
    """Specs to prefer for all packages; by default, the first compiler."""
    network: SpackNetwork = SpackNetwork()
    """Its MPI."""
    packages: dict[SpackName, Settings] = {}
    """Settings of packages in this environment, over those of the whole recipe."""
    system_packages: list[SpackName] = []
    """Packages to take from the machine instead of building them; the system's externals have to name each."""
    views: dict[Name, SpackView] = {}
    """Views on what it installs, by a name that no other environment uses."""
    deprecated: bool = False
    """Whether versions that their package calls deprecated may be taken."""


class SpackExternal(Section):
    """A package that lies on the machine, and is not built."""

    spec: SpecText
    """What it is, such as `slurm@25.05.4`."""
    prefix: AbsolutePath
    """Where it lies, such as /usr."""
    extra_attributes: dict[str, Any] = {}
    """More of it; the paths of a compiler, for example."""


class SpackBuildCache(Section):
    """Binaries that somebody built before."""

    url: Place
    """`file:///path`, `https://...`, or `oci://registry/name`."""
    signed: bool = True
    """Whether only signed binaries are taken."""
    push: bool = False
    """Whether what is built here is put there."""


class SpackSection(Section):
    """What Spack installs into the image, below the mount point."""

    checkout: SpackCheckout | None = None
    """Spack itself; without this, the one that SPACK_ROOT names."""
    repositories: dict[SpackName, SpackRepository]
    """Package files by the name of their repository, the first before the others; `builtin` is spack-packages."""
    compilers: dict[CompilerName, SpackCompiler]
    """Compilers by name; gcc has to be there."""
    environments: Annotated[dict[Name, SpackEnvironment], Field(min_length=1)]
    """What to install, by name."""
    packages: dict[SpackName, Settings] = {}
    """Settings of packages, as Spack's packages.yaml has them, over those of the system."""
    externals: dict[SpackName, list[SpackExternal]] = {}
    """Packages of the machine by name, instead of those that the system lists under the same name."""
    build_caches: dict[SpackName, SpackBuildCache] = {}
    """Where to look for binaries; only a build whose network is open reaches one that is no folder."""
    mirrors: list[Place] = []
    """Source mirrors by URL, asked before those of the settings and of `--mirror`."""
    modules: Settings | None = None
    """Module files for what is installed, as Spack's modules.yaml has them below `modules:`; a view of this name has
    users find them. Without it there are none."""
    cleanup: Literal["none", "runtime", "build"] = "none"
    """What goes after the installation: nothing; what neither runs nor builds anything (`build`); or all that is only
    needed to build (`runtime`)."""
