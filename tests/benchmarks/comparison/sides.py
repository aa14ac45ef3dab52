"""Who makes the image: this builder as a whole process, the best pipeline by hand, and the parts of the work alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uv

from .payload import Payload, link_or_copy
from .processes import Cost, Peaks, measure, run, run_together, watch
from .workspace import remove

CORES = len(os.sched_getaffinity(0))
_INFLATE = Path(__file__).with_name("inflate.py")


class Builder:
    """`uenv build` with a store of its own in `place`, of which the downloads stay."""

    def __init__(self, place: Path) -> None:
        self.store, self.output, self._temporary = place / "store", place / "ours", place / "ours-tmp"
        self._temporary.mkdir()

    @property
    def downloads(self) -> Path:
        """Of the store."""
        return self.store / "downloads"

    @property
    def image(self) -> Path:
        """The squashfs that the last build left."""
        return self.output / "image.squashfs"

    @property
    def layout(self) -> Path:
        """The OCI layout that the last build left."""
        return self.output / "oci"

    def command(self, payload: Payload) -> list[str]:
        """The whole process that is timed."""
        options = [
            "--uarch",
            payload.uarch,
            "--locked",
            "--offline",
            "--no-test",
            "--quiet",
            "--output",
            str(self.output),
        ]
        return [sys.executable, "-m", "uenv_builder.cli", "build", str(payload.recipe), *options]

    def _environment(self) -> dict[str, str]:
        package = Path(__file__).parents[3] / "builder"
        return {"UENV_CACHE": str(self.store), "TMPDIR": str(self._temporary), "PYTHONPATH": str(package)}

    def build(self, payload: Payload) -> None:
        """Build it; what the store has is not made again."""
        run(self.command(payload), env=self._environment())

    def watch(self, payload: Payload) -> Peaks:
        """Build it, and see what that needs."""
        folders = [self.store, self.output, self._temporary, self.output.parent / f".{self.output.name}.lock"]
        return watch(self.command(payload), folders, env=self._environment())

    def forget(self) -> None:
        """Make the store cold again: all but the downloads goes, and so does the last build."""
        remove(self.output, *(path for path in self.store.iterdir() if path != self.downloads))

    def collect(self) -> None:
        """Remove from the store what neither the last build nor a lock refers to."""
        run([sys.executable, "-m", "uenv_builder.cli", "cache", "gc", "--max-size", "0"], env=self._environment())


class Compiler:
    """The image's own Python, from the same packages that the builder takes it from, as `compileall` in all cores."""

    def __init__(self, payload: Payload, place: Path) -> None:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        tree = place / "interpreter"
        for pin in payload.lock["userland"]["compilers"][machine]:
            run(["dpkg-deb", "-x", payload.download(pin), tree])
        loader = next(path for path in tree.glob("usr/lib*/ld-linux-*") if path.exists())
        libraries = f"{tree}/usr/lib/{os.uname().machine}-linux-gnu:{tree}/usr/lib"
        environment = ["env", "-u", "PYTHONPATH", f"PYTHONHOME={tree}/usr"]
        self._command = [
            *environment,
            loader,
            "--library-path",
            libraries,
            tree / f"usr/bin/python{payload.python}",
            "-S",
            "-s",
        ]
        self._lists = place / "sources-"

    def commands(self, tree: Path) -> list[list[object]]:
        """One process a core; each gets as many bytes of sources as the others."""
        lists: list[list[str]] = [[] for _ in range(CORES)]
        sources = [(path.stat().st_size, str(path)) for path in modules(tree)]
        for number, (_, path) in enumerate(sorted(sources, reverse=True)):
            lists[number % CORES].append(path)
        commands = []
        for number, paths in enumerate(lists):
            file = Path(f"{self._lists}{number}")
            file.write_text("\n".join(paths))
            options = ["-q", "-q", "-f", "-i", file, "-s", tree, "-p", "/", "--invalidation-mode", "unchecked-hash"]
            # compileall ends with 1 where a source is not valid; the files are counted afterwards
            commands.append(["sh", "-c", '"$@" || [ $? -eq 1 ]', "sh", *self._command, "-m", "compileall", *options])
        return commands

    def compile(self, tree: Path) -> None:
        """Every source below `tree`."""
        run_together(self.commands(tree))


def modules(tree: Path) -> Iterator[Path]:
    """The sources that Python finds as modules: the same ones that the builder compiles."""
    for folder in [*tree.glob("usr/lib/python3*"), *tree.glob("usr/local/lib/python3*")]:
        yield from (path for path in folder.rglob("*.py") if path.is_file() and not path.is_symlink())


def unpack_debs(debs: Sequence[Path], tree: Path) -> None:
    """All packages into one tree: the first, base-files, by itself, the others in all cores."""
    tree.mkdir(parents=True)
    run(["dpkg-deb", "-x", debs[0], tree])
    script = 'printf "%s\\0" "${@:3}" | xargs -0 -P "$1" -I {} dpkg-deb -x {} "$2"'
    run(["bash", "-c", script, "bash", CORES, tree, *debs[1:]])


def name_wheels(payload: Payload, folder: Path) -> list[Path]:
    """The wheels under their own names, for installers."""
    remove(folder)
    folder.mkdir()
    for pin in payload.wheels:
        link_or_copy(payload.download(pin), folder / str(pin["file"]))
    return sorted(folder.iterdir())


def packages_folder(payload: Payload) -> str:
    """Where the image's Python looks for packages."""
    return f"usr/local/lib/python{payload.python}/dist-packages"


def uv_install(payload: Payload, wheels: Sequence[Path], target: Path, cache: Path) -> None:
    """With a cache in which all wheels lie unpacked; hard links where that is possible, else copies."""
    architecture = payload.lock["python"]["platform"].partition("-")[0]
    options = ["--quiet", "--no-config", "--offline", "--no-deps", "--no-index", "--no-python-downloads",
               "--python", sys.executable, "--cache-dir", cache, "--link-mode", "hardlink",
               "--python-platform", f"{architecture}-manylinux_2_39", "--python-version", payload.python]  # fmt: skip
    run([uv.find_uv_bin(), "pip", "install", *options, "--target", target, *wheels])


def squashfs_options(payload: Payload) -> list[object]:
    """Those of mksquashfs for an image like ours."""
    return [
        "-comp",
        "zstd",
        "-Xcompression-level",
        payload.level,
        "-b",
        payload.block_size,
        "-no-xattrs",
        "-no-progress",
    ]


def tar_zstd(tree: Path, output: Path, level: int) -> list[object]:
    """The command that packs a tree as an OCI layer is packed, in all cores."""
    script = 'set -o pipefail; tar -C "$1" -cf - . | zstd -q -f -T"$2" -"$3" -o "$4"'
    return ["bash", "-c", script, "bash", tree, CORES, level, output]


class ByHand:
    """dpkg-deb, uv, compileall, mksquashfs, tar and zstd: the shortest way to the same that is known."""

    def __init__(self, place: Path, compiler: Compiler) -> None:
        self._place, self._compiler = place, compiler
        self.tree, self.cache = place / "tree", place / "uv-cache"
        self.image, self.layer = place / "by-hand.squashfs", place / "by-hand.tar.zst"
        self._sources = place / "sources"

    def warm(self, payload: Payload) -> None:
        """Have uv unpack all wheels into its cache."""
        wheels = name_wheels(payload, self._place / "wheels")
        uv_install(payload, wheels, self._place / "warming", self.cache)
        remove(self._place / "warming")

    def forget(self, names: Sequence[str]) -> None:
        """Have uv's cache lose these packages."""
        run([uv.find_uv_bin(), "cache", "clean", "--quiet", "--no-config", "--cache-dir", self.cache, *names])

    def build(self, payload: Payload, *, compiled: bool = True) -> dict[str, Cost]:
        """Tree, squashfs and compressed tar, from the packages; the cost of each step."""
        wheels = name_wheels(payload, self._place / "wheels")
        remove(self.tree, self.image, self.layer)
        packages = self.tree / packages_folder(payload)
        costs = {
            "unpack packages": measure(lambda: unpack_debs(payload.debs, self.tree)),
            "uv": measure(lambda: uv_install(payload, wheels, packages, self.cache)),
        }
        if compiled:
            costs["compileall"] = measure(lambda: self._compiler.compile(self.tree))
        return {**costs, **self.pack(payload)}

    def pack(self, payload: Payload) -> dict[str, Cost]:
        """Squashfs and compressed tar of the tree as it is."""
        remove(self.image, self.layer)
        squashfs = ["mksquashfs", self.tree, self.image, *squashfs_options(payload), "-all-root"]
        return {
            "mksquashfs": measure(lambda: run(squashfs)),
            "tar, zstd": measure(lambda: run(tar_zstd(self.tree, self.layer, payload.level))),
        }

    def change_variable(self, value: int) -> None:
        """As an image gets one: in /etc/environment."""
        (self.tree / "etc").mkdir(exist_ok=True)
        (self.tree / "etc/environment").write_text(f"COMPARISON={value}\n")

    def parts(self, payload: Payload) -> Cost:
        """Inflate all, compile all and compress all, at the same time: what no way of doing all three can be below."""
        remove(self._sources)
        self._copy_sources()
        output = self._place / "parts.tar.zst"
        commands = [
            *self._inflating(payload),
            *self._compiler.commands(self._sources),
            tar_zstd(self.tree, output, payload.level),
        ]
        cost = measure(lambda: run_together(commands))
        remove(self._sources, output)
        return cost

    def _copy_sources(self) -> None:
        for path in modules(self.tree):
            place = self._sources / path.relative_to(self.tree)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)

    def _inflating(self, payload: Payload) -> list[list[object]]:
        files = sorted([*payload.debs, *map(payload.download, payload.wheels)], key=lambda path: -path.stat().st_size)
        return [[sys.executable, _INFLATE, *files[number::CORES]] for number in range(CORES)]

    def clear(self) -> None:
        """Remove what was made, but not what uv keeps."""
        remove(self.tree, self.image, self.layer)
