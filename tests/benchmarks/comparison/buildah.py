"""The same image as container engines make it: buildah, an installer, an OCI layout, and a squashfs out of that."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pip

from .payload import Payload
from .processes import Cost, measure, output_of, run
from .sides import ByHand, Compiler, name_wheels, packages_folder, unpack_debs, uv_install
from .workspace import remove

Installer = Literal["pip", "uv"]
SQUASHFS: dict[str, list[object]] = {
    "enroot": ["-comp", "lzo", "-noD"],
    "stackinator": ["-comp", "zstd", "-Xcompression-level", "3"],
}
"""The options by which enroot and stackinator make theirs."""


class Buildah:
    """A container from scratch, out of a tar of the userland, with the wheels put into it.

    The tar is made beforehand. pip runs in the container where that is for this machine's architecture; for another
    one it would run emulated there, so it runs on the host and writes into the mounted container, as uv always does.
    Byte code is left out by both, and made by the compiler of the other sides.
    """

    def __init__(self, place: Path, payload: Payload, compiler: Compiler) -> None:
        self._place, self._compiler = place, compiler
        self._tar = place / "userland.tar"
        self._buildah: list[object] = ["buildah", "--root", place / "containers", "--runroot", place / "run"]
        self.image, self.layout = place / "buildah.squashfs", place / "buildah-oci"
        self._container, self._mount = "", Path()
        unpack_debs(payload.debs, place / "userland")
        run(["tar", "-C", place / "userland", "-cf", self._tar, "."])
        remove(place / "userland")

    def build(self, payload: Payload, installer: Installer, by_hand: ByHand) -> dict[str, Cost]:
        """The container, with its image as an OCI layout; the cost of each step. End with `remove`.

        uv takes the cache of the pipeline by hand, which is there only as long as it is needed: it is large.
        """
        wheels = name_wheels(payload, self._place / "wheels")
        if installer == "uv":
            by_hand.warm(payload)
        steps = {
            "userland": measure(self._begin),
            installer: measure(lambda: self._install(payload, installer, wheels, by_hand.cache)),
        }
        remove(by_hand.cache)
        steps["compileall"] = measure(lambda: self._compiler.compile(self._mount))
        return {**steps, "commit": measure(self._commit)}

    def _begin(self) -> None:
        self._container = output_of([*self._buildah, "from", "--quiet", "scratch"]).strip()
        run([*self._buildah, "add", "--quiet", self._container, self._tar, "/"])
        self._mount = Path(output_of([*self._buildah, "mount", self._container]).strip())

    def _install(self, payload: Payload, installer: Installer, wheels: Sequence[Path], cache: Path) -> None:
        target = self._mount / packages_folder(payload)
        if installer == "uv":
            uv_install(payload, wheels, target, cache)
        elif payload.is_native:
            run(self._pip_inside(payload, wheels))
        else:
            # A temporary folder on the same file system: pip then renames what it has unpacked, and need not copy it.
            temporary = self._mount / "tmp"
            temporary.mkdir(exist_ok=True)
            run([*pip_outside(payload), "--target", target, *wheels], env={"TMPDIR": str(temporary)})

    def _pip_inside(self, payload: Payload, wheels: Sequence[Path]) -> list[object]:
        mounts = ["--volume", f"{wheels[0].parent}:/wheels:ro", "--volume", f"{Path(pip.__file__).parent}:/pip/pip:ro"]
        isolation = ["--isolation", "chroot", "--network", "host", "--env", "PYTHONPATH=/pip"]
        names = [f"/wheels/{wheel.name}" for wheel in wheels]
        command = [f"python{payload.python}", "-m", "pip", "install", *_PIP, "--break-system-packages", *names]
        return [*self._buildah, "run", *isolation, *mounts, self._container, "--", *command]

    def _commit(self) -> None:
        run([*self._buildah, "config", "--env", "COMPARISON=1", self._container])
        run([*self._buildah, "commit", "--quiet", self._container, f"oci:{self.layout}:latest"])

    def squashfs(self, tool: str) -> Cost:
        """The image as `tool` makes it, straight from the mounted container."""
        remove(self.image)
        command = ["mksquashfs", self._mount, self.image, *SQUASHFS[tool], "-all-root", "-no-progress"]
        return measure(lambda: run(command))

    def remove(self) -> None:
        """The container, its layout and its squashfs."""
        remove(self.layout, self.image)
        if self._container:
            run([*self._buildah, "umount", self._container])
            run([*self._buildah, "rm", self._container])
            self._container = ""


_PIP = (
    "--quiet",
    "--isolated",
    "--disable-pip-version-check",
    "--no-cache-dir",
    "--no-deps",
    "--no-index",
    "--no-compile",
)


def pip_outside(payload: Payload) -> list[object]:
    """pip on this machine, installing for the image's platform and Python."""
    tags = {
        tag for pin in payload.wheels for tag in str(pin["file"]).removesuffix(".whl").rpartition("-")[2].split(".")
    }
    platforms = [word for tag in sorted(tags - {"any"}) for word in ("--platform", tag)]
    target = ["--only-binary=:all:", "--ignore-requires-python", "--implementation", "cp"]
    return [sys.executable, "-m", "pip", "install", *_PIP, *target, "--python-version", payload.python, *platforms]
