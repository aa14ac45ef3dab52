"""The folder of a build as `uenv test --level` reads it, without building: a tiny image, a manifest and a lock."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from uenv_builder.core.lock_file import dump_lock
from uenv_builder.model.lock import Lock

sys.path.insert(0, str(Path(__file__).parent / "unit"))
from made_squashfs import folder as directory
from made_squashfs import write

LOCK = {
    "lock-format": 1,
    "recipe": {"name": "made", "version": "1", "digest": "0" * 64},
    "target": {"uarch": "gh200", "debian": "arm64"},
    "epoch": 0,
    "userland": {"releases": [], "packages": []},
    "python": {"version": "3.13", "platform": "linux_aarch64", "wheels": []},
}
ACCELERATOR = {"torch": "2.14.1", "variant": "cuda", "cuda": "13.0", "nccl": "2.30.7"}


def make_build(
    place: Path, *, network: str, system: str = "clariden", benchmarks=("all_reduce_perf", "sendrecv_perf"), torch=True,
    label: str = "made/1:v1",
) -> Path:  # fmt: skip
    """Write it; returns its folder."""
    (place / "edf").mkdir(parents=True)
    programs = directory({name.encode(): directory() for name in benchmarks})
    named = directory({label.replace("/", "-").encode(): directory()})
    root = directory({b"opt": named, b"usr": directory({b"local": directory({b"bin": programs})})})
    image = place / "image.squashfs"
    write(root, image)
    lock = {**LOCK, "accelerator": ACCELERATOR if torch else None}
    (place / "lock.yaml").write_text(dump_lock(Lock.model_validate_json(json.dumps(lock))))
    (place / "edf/made.toml").write_text(
        'image = "/elsewhere.squashfs"\nmounts = ["/capstor:/capstor"]\n[env]\nOWN = "1"\n'
    )
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    manifest = {
        "format": 1, "label": label, "name": "made", "version": "1", "system": system, "uarch": "gh200",
        "network": network, "plan": "p" * 64, "views": [], "checks": {},
        "config": {"env": {"PATH": "/usr/local/bin:/usr/bin"}, "workdir": "/", "entrypoint": [], "cmd": ["sh"]},
        "squashfs": {"file": "image.squashfs", "sha256": digest, "size": image.stat().st_size},
    }  # fmt: skip
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place
