"""What a folder holds, as JSON: run as a program, also inside of a mount namespace."""

import hashlib
import json
import stat
import sys
from pathlib import Path

KINDS = {stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFREG: "file"}


def list_tree(top: str) -> dict[str, list]:
    """By path: kind, mode, time, link's target or content's size and sha256, and the first path of the same file."""
    found: dict[str, list] = {}
    first: dict[int, str] = {}

    def scan(folder: Path, prefix: str) -> None:
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            name, at = prefix + path.name, path.lstat()
            kind = KINDS[stat.S_IFMT(at.st_mode)]
            what = str(path.readlink()) if kind == "symlink" else ""
            if kind == "file":
                with path.open("rb") as file:
                    what = f"{at.st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"
            same = first.setdefault(at.st_ino, name) if kind == "file" else name
            found[name] = [kind, stat.S_IMODE(at.st_mode), int(at.st_mtime), what, same]
            if kind == "dir":
                scan(path, f"{name}/")

    scan(Path(top), "")
    return found


if __name__ == "__main__":
    json.dump(list_tree(sys.argv[1]), sys.stdout)
