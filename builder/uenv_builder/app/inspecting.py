"""What a build holds, from its manifest and report alone: nothing is mounted and nothing is run."""

from __future__ import annotations

import json
from pathlib import Path

from uenv_builder.app import outputs
from uenv_builder.app.outputs import open_build
from uenv_builder.core.digest import Document


def describe_build(path: Path) -> Document:
    """The manifest, with the report's outcome and the checks' verdicts; a report on another image counts as none."""
    build = open_build(path)
    document: Document = dict(build.manifest)
    report = build.folder / outputs.REPORT
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None
    if found and found["image"] == build.digest:
        document["outcome"] = found["outcome"]
        document["results"] = found["results"]
    else:
        document["outcome"] = "untested"
    return document


def lines(document: Document) -> list[str]:
    """The same for people."""
    manifest = json.loads(json.dumps(document))
    accelerator = manifest["accelerator"] or {}
    stack = "  ".join(f"{key} {value}" for key, value in accelerator.items() if value)
    squashfs = manifest["squashfs"]
    shown = [
        f"{manifest['label']}: {manifest['description']}",
        f"checks    {manifest['outcome']}",
        f"squashfs  sha256:{squashfs['sha256']}  {squashfs['size'] / 1e6:.1f} MB",
    ]
    if oci := manifest.get("oci"):
        shown.append(f"OCI       {oci['digest']}  {oci['size'] / 1e6:.1f} MB in {oci['layers']} layers")
    shown += [
        f"plan      {manifest['plan']}",
        f"network   {manifest['network']}",
        f"packages  {len(manifest['packages'])} of Debian, {len(manifest['wheels'])} wheels",
    ]
    if stack:
        shown.append(f"stack     {stack}")
    shown.append("wheels    " + ", ".join(f"{name} {version}" for name, version in manifest["wheels"]))
    shown.append("environment")
    shown += [f"  {name}={value}" for name, value in manifest["config"]["env"].items()]
    return shown
