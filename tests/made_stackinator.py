"""Small recipes of Stackinator, in the three versions of its format, made for tests."""

from __future__ import annotations

from pathlib import Path

V2 = {
    "config.yaml": """\
name: tools
store: /user-environment
description: a few tools
default-view: default
version: 2
spack:
  repo: https://example.org/spack.git
  commit: v1.1.1
  packages:
    repo: https://example.org/spack-packages.git
    commit: 0123456789abcdef0123456789abcdef01234567
""",
    "compilers.yaml": """\
gcc:
  version: "14.2"
llvm:
  version: "21.1.4"
  spec: +clang ~gold targets=aarch64
""",
    "environments.yaml": """\
tools-env:
  compiler: [gcc, llvm]
  unify: when_possible
  duplicates:
    strategy: full
  network:
    mpi: cray-mpich@9.0 +cuda
    specs: ['libfabric@2.2 fabrics=cxi']
  specs:
  - zlib-ng
  - python@3.10
  - hdf5 +mpi
  variants: [+mpi, cuda_arch=90a]
  views:
    default:
      link: roots
      exclude: [gcc-runtime]
      uenv:
        add_compilers: true
        prefix_paths:
          LD_LIBRARY_PATH: [lib, lib64]
        env_vars:
          set:
          - CUDA_HOME: $@view_path@
          - PYTHONPATH: null
          - DATA: ${@HOME@}/data
          prepend_path:
          - PATH: $@mount@/tools/bin
          - PATH: /opt/site/bin
    develop:
""",
    "modules.yaml": """\
modules:
  default:
    arch_folder: false
    roots:
      tcl: /user-environment/modules
    tcl:
      all:
        autoload: none
      hash_length: 0
      exclude_implicits: true
      projections:
        all: '{name}/{version}'
""",
    "packages.yaml": """\
packages:
  hdf5:
    require: ['@1.14:']
""",
    "repo/packages/mine/package.py": "class Mine:\n    pass\n",
    "extra/reframe.yaml": "tools-env:\n  features: [mpi]\n",
}
V1 = {
    "config.yaml": """\
name: old
description: from before Spack 1.0
modules: false
spack:
  repo: https://example.org/spack.git
  commit: releases/v0.23
""",
    "compilers.yaml": """\
bootstrap:
  spec: gcc@12.3
gcc:
  specs: [gcc@13.2]
llvm:
  requires: gcc@13
  specs: [nvhpc@24.5]
""",
    "environments.yaml": """\
gnu:
  compiler:
  - toolchain: gcc
    spec: gcc
  - {toolchain: llvm, spec: nvhpc}
  mpi: {spec: cray-mpich@8.1, gpu: cuda}
  unify: true
  packages: [perl, m4]
  specs: [fftw]
""",
}


def write_recipe(folder: Path, files: dict[str, str], **changed: str | None) -> Path:
    """Write it; `changed` files are by name without suffix, None leaves one out."""
    named = {f"{name}.yaml": text for name, text in changed.items()}
    for name, text in {**files, **named}.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder
