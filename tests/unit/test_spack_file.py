import pytest
import yaml
from golden_files import check_golden

from uenv_builder.core.spack_file import SpackRequest, asked_digest, render_spack_file, spack_document
from uenv_builder.core.systems import load_system
from uenv_builder.model.errors import IncompatibleError
from uenv_builder.model.spack import SpackExternal, SpackSection
from uenv_builder.model.system import SystemSpack

GCC = SpackExternal(
    spec="gcc@12.2.0 languages:='c,c++'", prefix="/usr",
    extra_attributes={"compilers": {"c": "/usr/bin/gcc", "cxx": "/usr/bin/g++"}},
)  # fmt: skip
REPOSITORIES = {
    "recipe": {"folder": "repo"},
    "builtin": {
        "git": "https://github.com/spack/spack-packages.git",
        "commit": "5ece166daa3065a1b212fb93fe587fcb138e9004",
    },
}
SMALL = {
    "repositories": REPOSITORIES,
    "compilers": {"gcc": {"version": "system"}},
    "environments": {"tools": {"compilers": ["gcc"], "specs": ["bzip2@1.0.8", "lz4"], "views": {"tools": {}}}},
}
PYTORCH = {
    "repositories": REPOSITORIES,
    "compilers": {"gcc": {"version": "14.2.0"}, "llvm": {"version": "21.1.4"}},
    "environments": {
        "pytorch-env": {
            "compilers": ["gcc", "llvm"],
            "network": {"mpi": "cray-mpich@9.0.0 +cuda"},
            "specs": ["nccl", "aws-ofi-nccl@1.18.0-dev", "py-torch@2.9.1 +cudnn +nccl"],
            "variants": ["+mpi", "+cuda", "cuda_arch=90a"],
            "packages": {"cuda": {"require": "@12.9"}},
            "system_packages": ["slurm"],
            "views": {"default": {"link": "all", "exclude": ["gcc-runtime"], "projections": {"all": "{name}"}}},
        },
        "tools": {"compilers": ["gcc"], "specs": ["squashfs"], "unify": "when_possible", "duplicates": "full"},
    },
    "build_caches": {"site": {"url": "oci://registry.example/cache"}, "mine": {"url": "file:///c", "signed": False}},
}


def request(section, *, system=None, version=(1, 3), target="neoverse_v2"):
    return SpackRequest(
        section=SpackSection.model_validate(section), mount="/user-environment", target=target, version=version,
        repositories={name: f"/uenv/repos/{name}" for name in section["repositories"]},
        system=system or SystemSpack(), gcc=GCC,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("small", request(SMALL, target="x86_64")),
        ("small-without-groups", request(SMALL, target="x86_64", version=(1, 1))),
        ("pytorch-on-daint", request(PYTORCH, system=load_system("daint").spack)),
    ],
)
def test_the_file_is_rendered_from_data(name, made):
    text = render_spack_file(made)
    assert yaml.safe_load(text) == spack_document(made)
    check_golden(f"spack/{name}.yaml", text)


def test_nothing_of_the_machine_joins_in():
    document = spack_document(request(SMALL))["spack"]
    assert document["include:"] == []
    assert document["bootstrap"] == {"enable": False}
    assert document["concretizer"]["reuse"] is False
    assert document["config"]["install_tree"] == {"root": "/user-environment"}
    assert document["packages"]["gcc"]["externals"][0]["spec"] == GCC.spec
    assert set(document["mirrors:"]) == {"uenv-sources", "uenv-binaries"}


def test_a_recipes_externals_take_the_place_of_the_systems():
    system = SystemSpack(externals={"slurm": [SpackExternal(spec="slurm@24", prefix="/usr")]})
    section = SMALL | {"externals": {"slurm": [{"spec": "slurm@25", "prefix": "/opt/slurm"}]}}
    packages = spack_document(request(section, system=system))["spack"]["packages"]
    assert packages["slurm"]["externals"] == [{"spec": "slurm@25", "prefix": "/opt/slurm"}]


def test_an_old_spack_has_one_environment_and_the_systems_compiler():
    with pytest.raises(IncompatibleError, match="no groups of specs, which are needed to build gcc first"):
        spack_document(request(PYTORCH, version=(1, 1)))
    two = SMALL | {"environments": SMALL["environments"] | {"more": {"compilers": ["gcc"], "specs": ["zstd"]}}}
    with pytest.raises(IncompatibleError, match="for several environments"):
        spack_document(request(two, version=(1, 1)))
    assert len(spack_document(request(two))["spack"]["specs"]) == 2


def test_a_package_of_the_machine_has_to_be_described():
    with pytest.raises(IncompatibleError, match="takes slurm from the machine, and nothing says where that is"):
        spack_document(request(PYTORCH))


def test_views_and_mirrors_change_nothing_that_the_solver_sees():
    first = request(SMALL)
    environment = SMALL["environments"]["tools"]
    other = SMALL | {"environments": {"tools": environment | {"views": {"other": {"link": "all"}}}}}
    assert asked_digest(request(other)) == asked_digest(first)
    other = SMALL | {"environments": {"tools": environment | {"specs": ["bzip2@1.0.8", "lz4", "zstd"]}}}
    assert asked_digest(request(other)) != asked_digest(first)
