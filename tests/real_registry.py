"""Debian's docker-registry on loopback."""

import json
import re
import subprocess
import time
from contextlib import contextmanager


@contextmanager
def docker_registry(folder, *, htpasswd=None):
    """Debian's docker-registry on a free port of loopback, and its address; ended by its process id."""
    folder.mkdir()
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "http": {"addr": "127.0.0.1:0", "secret": "x"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    command = ["docker-registry", "serve", folder / "config.yml"]
    # Its log goes to a file: a pipe that nobody reads would be full one day, and the registry would wait.
    log = folder / "log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield _address(log, process)
        finally:
            process.terminate()


def _address(log, process):
    for _ in range(400):
        if found := re.search(r"listening on ([0-9.:]+)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.025)
    raise AssertionError(log.read_text())
