"""What all tests share: the command, and one store for the whole session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from slurm_cluster import missing_programs, running_cluster
from uenv_command import Uenv

# A machine that is busy with something else is no reason for a test to fail.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_configure() -> None:
    """Let children feel an interrupt also where the tests run in the background, which makes shells ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    """One store for all tests that one process runs: $UENV_TEST_CACHE keeps it between runs."""
    kept = os.environ.get("UENV_TEST_CACHE")
    return Path(kept, os.environ.get("PYTEST_XDIST_WORKER", "")) if kept else tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm of two nodes for all tests; gives the variables that its clients need."""
    if missing := missing_programs():
        if os.environ.get("UENV_NO_INSTALL") != "1" and os.geteuid() == 0:
            pytest.fail(f"ci/setup.sh installs Slurm, and {missing} is missing")
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("slurmd keeps its processes apart as root only")
    with running_cluster(tmp_path_factory.mktemp("slurm")) as client:
        yield client


@pytest.fixture
def uenv(tmp_path, session_cache) -> Uenv:
    return Uenv(tmp_path, session_cache)


@pytest.fixture
def alone(tmp_path) -> Uenv:
    """The command with an empty store."""
    (tmp_path / "here").mkdir()
    return Uenv(tmp_path / "here", tmp_path / "empty-store")
