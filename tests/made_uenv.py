"""The folder of a build whose image is a small uenv, without building: an image, a manifest and a report."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "unit"))
from made_squashfs import Blocks, folder, write

LABEL = "tools/1.0:v1@daint%gh200"
VIEW = {
    "description": "compilers",
    "env": {
        "version": 1,
        "values": {
            "list": {"PATH": [{"op": "prepend", "value": ["/user-environment/env/default/bin"]}]},
            "scalar": {"CUDA_HOME": "/user-environment/cuda"},
        },
    },
}
META = {
    "name": "tools", "description": "a few tools", "mount": "/user-environment", "default-view": "default",
    "views": {"default": VIEW},
}  # fmt: skip


def make_uenv(
    place: Path, *, meta=META, label=LABEL, outcomes=(("static", "passed", True),), content=b"#!/bin/sh\n",
    uarch="gh200",
):  # fmt: skip
    """Write it; `meta` None makes a container, `outcomes` None leaves the report out. Returns its folder."""
    place.mkdir(parents=True)
    blocks = Blocks(place / "blocks")
    tool = blocks.add(content)
    tool.mode = 0o755
    tree = {b"env": folder({b"default": folder({b"bin": folder({b"tool": tool})})})}
    if meta is not None:
        text = meta if isinstance(meta, str) else json.dumps(meta)
        recipe = folder({b"recipe.yaml": blocks.add(b"name: tools\n")})
        tree[b"meta"] = folder({b"env.json": blocks.add(text.encode()), b"recipe": recipe})
    image = place / "image.squashfs"
    write(folder(tree), image, blocks)
    (place / "blocks").unlink()
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    manifest = {
        "format": 1, "label": label, "name": "tools", "version": "1.0", "system": "daint", "uarch": uarch,
        "kind": "uenv" if meta is not None else "container", "mount": "/user-environment",
        "config": {"env": {"PATH": "/usr/bin"}, "workdir": "/", "cmd": ["/bin/sh"]},
        "plan": "p" * 64, "squashfs": {"file": "image.squashfs", "sha256": digest, "size": image.stat().st_size},
    }  # fmt: skip
    (place / "manifest.json").write_text(json.dumps(manifest))
    if outcomes is not None:
        write_report(place, digest, outcomes)
    return place


def write_report(place: Path, digest: str, outcomes) -> None:
    """A report on the image with `digest`: (check, outcome, whether it is required)."""
    results = [
        {"check": check, "outcome": outcome, "reason": "" if outcome == "passed" else f"{check} says why",
         "seconds": 0.1, "required": required, "measured": {}, "details": []}
        for check, outcome, required in outcomes
    ]  # fmt: skip
    report = {
        "image": digest, "label": LABEL, "plan": "p" * 64, "ran_on": "aarch64", "emulated": False,
        "started": "2026-11-24T00:00:00+00:00", "results": results, "level": "image",
    }  # fmt: skip
    (place / "report.json").write_text(json.dumps(report))
