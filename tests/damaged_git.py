"""Git repositories that are not what they were."""

from __future__ import annotations

from pathlib import Path


def damage_objects(repository: Path) -> None:
    """Turn bits of every object that the bare repository holds, loose or packed."""
    objects = [path for path in repository.glob("objects/*/*") if path.suffix == ".pack" or len(path.name) == 38]
    for path in objects:
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    assert objects
