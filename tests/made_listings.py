"""What the two images of a build hold, in the same words."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path

import zstandard


def listing_of_squashfs(image: Path, folder: Path) -> dict[str, tuple]:
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", folder, image], check=True, stdout=subprocess.DEVNULL)
    found = {}
    for path in folder.rglob("*"):
        status, name = path.lstat(), str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("dir", status.st_mode & 0o7777)
        else:
            found[name] = (
                "file",
                status.st_mode & 0o7777,
                hashlib.sha256(path.read_bytes()).hexdigest(),
                int(status.st_mtime),
            )
    return found


def listing_of_oci(folder: Path) -> dict[str, tuple]:
    index = json.loads((folder / "index.json").read_text())
    blob = lambda digest: folder / "blobs/sha256" / digest.removeprefix("sha256:")  # noqa: E731
    layers = json.loads(blob(index["manifests"][0]["digest"]).read_text())["layers"]
    found = {}
    for layer in layers:
        with blob(layer["digest"]).open("rb") as packed:
            stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = member.name.rstrip("/")
                    if Path(name).name.startswith(".wh."):
                        remove_whited_out(found, Path(name))
                    elif member.issym():
                        found[name] = ("link", member.linkname)
                    elif member.isdir():
                        found[name] = ("dir", member.mode)
                    elif member.islnk():
                        found[name] = found[member.linkname]
                    else:
                        digest = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
                        found[name] = ("file", member.mode, digest, int(member.mtime))
    return found


def remove_whited_out(found: dict[str, tuple], whiteout: Path) -> None:
    """Take out what a whiteout of the next layer says: these come before all that the layer adds there."""
    folder, name = whiteout.parent, whiteout.name.removeprefix(".wh.")
    prefix = f"{folder}/" if name == ".wh..opq" else f"{folder / name}/"
    for path in [path for path in found if f"{path}/".startswith(prefix) and f"{path}/" != f"{folder}/"]:
        del found[path]
