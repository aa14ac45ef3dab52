"""The facts that rules about versions read."""

from __future__ import annotations

from uenv_builder.core.facts import Fact, FactFile, load_facts


class Interfaces(Fact):
    """The numbers of the net-plugin interfaces that one version loads (NCCL) or exports (the plugin)."""

    version: str
    interfaces: tuple[int, ...]


class InterfaceFile(FactFile):
    """knowledge/compat/net_interfaces.yaml."""

    nccl: tuple[Interfaces, ...]
    aws_ofi_nccl: tuple[Interfaces, ...]


class TorchWheel(Fact):
    """One release of torch, as its aarch64 wheel on the Python package index is."""

    version: str
    gpu: bool
    cuda: str | None = None
    nccl: str | None = None


class TorchFile(FactFile):
    """knowledge/compat/torch_wheels.yaml."""

    torch: tuple[TorchWheel, ...]


class CudaDriver(Fact):
    """A driver version by that of CUDA: its first number for a family, its first two for a toolkit."""

    cuda: str
    driver: str


class DriverFile(FactFile):
    """knowledge/compat/cuda_drivers.yaml."""

    families: tuple[CudaDriver, ...]
    toolkits: tuple[CudaDriver, ...]


def net_interfaces() -> InterfaceFile:
    """What NCCL loads and what the plugin exports."""
    found: InterfaceFile = load_facts("net_interfaces", InterfaceFile)
    return found


def torch_wheels() -> TorchFile:
    """What torch's aarch64 wheels are."""
    found: TorchFile = load_facts("torch_wheels", TorchFile)
    return found


def cuda_drivers() -> DriverFile:
    """Which driver CUDA asks for."""
    found: DriverFile = load_facts("cuda_drivers", DriverFile)
    return found
