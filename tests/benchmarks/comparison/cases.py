"""What both sides do in turns: one function a case, which returns what goes into the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from uenv_builder.app.recipes import load_recipe

from .buildah import Buildah, Installer
from .contents import Content, oci_content, oci_layer_bytes, require_same, squashfs_content, tar_content
from .payload import Payload, choose_changed, variant, with_variable, without_bytecode, write_recipe
from .processes import Peaks, measure, run
from .results import add_run
from .sides import CORES, Builder, ByHand, Compiler, squashfs_options, tar_zstd
from .wheels import bump, make_wheels
from .workspace import free_bytes, mounted, remove

Case = dict[str, Any]


@dataclass
class Setting:
    """Where and how often: `runs` of the fast sides, `slow_runs` of buildah's, sizes of `growth` in bytes."""

    place: Path
    payload: Payload
    builder: Builder
    runs: int
    slow_runs: int
    growth: tuple[int, ...]
    compiler: Compiler = field(init=False)
    by_hand: ByHand = field(init=False)

    def __post_init__(self) -> None:
        self.compiler = Compiler(self.payload, self.place)
        self.by_hand = ByHand(self.place, self.compiler)

    def warm_downloads(self) -> None:
        """Read all that is downloaded once."""
        files = [self.payload.download(pin) for pin in self.payload.all_pins()]
        run(["sh", "-c", 'for file; do [ ! -e "$file" ] || cat "$file"; done > /dev/null', "sh", *files])

    def folder(self, name: str) -> Path:
        """A folder for a variant of the recipe."""
        return self.place / "recipes" / name


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cold(setting: Setting) -> Case:
    """An empty store but for the downloads: both images are made."""
    case: Case = {"contents": {}}
    payload, builder, by_hand = setting.payload, setting.builder, setting.by_hand
    plain = without_bytecode(payload, setting.folder("plain"))
    buildah = Buildah(setting.place, payload, setting.compiler) if setting.slow_runs else None
    for number in range(1, setting.runs + 1):
        say(f"cold: round {number} of {setting.runs}")
        by_hand.warm(payload)
        for chosen, suffix in ((payload, ""), (plain, "-plain")):
            builder.forget()
            setting.warm_downloads()
            add_run(case, f"ours{suffix}", number, measure(lambda chosen=chosen: builder.build(chosen)))
            ours = _contents(case, f"ours{suffix}", builder.image, lambda: oci_content(builder.layout))
            builder.forget()
            add_run(case, f"by-hand{suffix}", number, by_hand.build(payload, compiled=not suffix))
            theirs = _contents(case, f"by-hand{suffix}", by_hand.image, lambda: tar_content(by_hand.layer))
            require_same(ours, theirs, f"cold, by-hand{suffix}")
            remove(by_hand.image, by_hand.layer)
            if not suffix:
                reference = ours
                add_run(case, "parts", number, by_hand.parts(payload))
            by_hand.clear()
        if buildah and number <= setting.slow_runs:
            _buildah_round(case, setting, buildah, number, reference)
    return case


def _contents(case: Case, side: str, image: Path, layers: Callable[[], Content]) -> Content:
    """What the squashfs holds; in the first round its layers are held against it, and it goes into the results."""
    found = squashfs_content(image)
    if side not in case["contents"]:
        require_same(found, layers(), f"{side}, squashfs and layers")
        case["contents"][side] = found.document()
    return found


def _buildah_round(case: Case, setting: Setting, buildah: Buildah, number: int, reference: Content) -> None:
    installers: tuple[Installer, ...] = ("pip", "uv")
    remove(setting.by_hand.cache)
    for installer in installers:
        say(f"cold: buildah with {installer}")
        try:
            steps = buildah.build(setting.payload, installer, setting.by_hand)
            if number == 1:
                require_same(reference, oci_content(buildah.layout), f"cold, buildah with {installer}")
            remove(buildah.layout)
            for tool in ("enroot", "stackinator"):
                whole = {**steps, "mksquashfs": buildah.squashfs(tool)}
                found = squashfs_content(buildah.image)
                require_same(reference, found, f"cold, buildah with {installer}, {tool}")
                case["contents"][f"{installer}-{tool}"] = found.document()
                case.setdefault("values", {})[f"{installer}-{tool}-image"] = buildah.image.stat().st_size
                add_run(case, f"{installer}-{tool}", number, whole)
        finally:
            buildah.remove()


def second(setting: Setting) -> Case:
    """Another environment, of which about a tenth is new, after one that was built."""
    case: Case = {"contents": {}}
    payload, builder, by_hand = setting.payload, setting.builder, setting.by_hand
    changed = choose_changed(payload.wheels)
    case["values"] = {
        "wheels": len(payload.wheels), "changed-wheels": len(changed),
        "changed-share": sum(int(pin["size"]) for pin in changed) / sum(int(pin["size"]) for pin in payload.wheels),
        "changed": ", ".join(str(pin["name"]) for pin in changed),
    }  # fmt: skip
    builder.forget()
    builder.build(payload)
    by_hand.warm(payload)
    for number in range(1, setting.runs + 1):
        say(f"second: round {number} of {setting.runs}")
        newer = _bumped(setting, changed, number)
        add_run(case, "ours", number, measure(lambda newer=newer: builder.build(newer)))
        ours = _contents(case, "ours", builder.image, lambda: oci_content(builder.layout))
        add_run(case, "by-hand", number, by_hand.build(newer))
        theirs = _contents(case, "by-hand", by_hand.image, lambda: tar_content(by_hand.layer))
        require_same(ours, theirs, "second")
        by_hand.clear()
        builder.build(payload)
        _forget_second(setting, newer)
    return case


def _bumped(setting: Setting, changed: list[dict], number: int) -> Payload:
    payload = setting.payload
    names = {pin["name"] for pin in changed}
    kept = [pin for pin in payload.wheels if pin["name"] not in names]
    newer = [bump(payload, pin, number, setting.place) for pin in changed]
    wheels = sorted([*kept, *newer], key=lambda pin: str(pin["name"]))
    second_payload = variant(payload, setting.folder(f"second-{number}"), {"name": f"second-{number}"}, wheels)
    run(["cat", *map(payload.download, newer)])
    return second_payload


def _forget_second(setting: Setting, newer: Payload) -> None:
    """Remove the new wheels, their downloads and what uv and the store keep of them, so that the disk does not fill."""
    known = {pin["sha256"] for pin in setting.payload.wheels}
    new = [pin for pin in newer.wheels if pin["sha256"] not in known]
    remove(newer.recipe, *map(newer.download, new))
    setting.builder.collect()
    setting.by_hand.forget([str(pin["name"]) for pin in new])
    setting.by_hand.warm(setting.payload)


def variable(setting: Setting) -> Case:
    """One variable has another value; and what a copy of the image takes, with sync and without."""
    case: Case = {"contents": {}}
    payload, builder, by_hand = setting.payload, setting.builder, setting.by_hand
    copy = setting.place / "copy.squashfs"
    builder.forget()
    builder.build(payload)
    by_hand.warm(payload)
    for number in range(1, setting.runs + 1):
        say(f"variable: round {number} of {setting.runs}")
        for side, tail in (("", []), ("-sync", ["sync"])):
            value = 2 * number + bool(tail)
            changed = with_variable(payload, setting.folder("variable"), value)
            _warm(builder.image)
            add_run(
                case,
                f"ours{side}",
                number,
                measure(lambda changed=changed, tail=tail: _then(builder.build, changed, tail)),
            )
            builder.collect()
            _warm(builder.image)
            add_run(
                case,
                f"cp{side}",
                number,
                measure(lambda tail=tail: _then(lambda _: run(["cp", builder.image, copy]), None, tail)),
            )
            remove(copy)
        ours = _contents(case, "ours", builder.image, lambda: oci_content(builder.layout))
        add_run(case, "by-hand", number, by_hand.build(payload))
        theirs = _contents(case, "by-hand", by_hand.image, lambda: tar_content(by_hand.layer))
        require_same(ours, theirs, "variable")
        by_hand.change_variable(number)
        add_run(case, "by-hand-pack", number, by_hand.pack(payload))
        by_hand.clear()
    return case


def _then(work: Callable[[Any], None], argument: Any, tail: list[str]) -> None:
    work(argument)
    if tail:
        run(tail)


def _warm(file: Path) -> None:
    run(["cat", file])


def unchanged(setting: Setting) -> Case:
    """The same build once more."""
    case: Case = {}
    setting.builder.build(setting.payload)
    setting.builder.build(setting.payload)
    for number in range(1, setting.runs + 1):
        add_run(case, "ours", number, measure(lambda: setting.builder.build(setting.payload)))
    return case


def size(setting: Setting) -> Case:
    """Our image against what mksquashfs, and tar with zstd, make of the tree that is in it."""
    payload, builder = setting.payload, setting.builder
    other, layer = setting.place / "other.squashfs", setting.place / "other.tar.zst"
    builder.build(payload)
    with mounted(builder.image, setting.place / "mounted") as tree:
        run(["mksquashfs", tree, other, *squashfs_options(payload)])
        run(tar_zstd(tree, layer, payload.level))
    require_same(squashfs_content(builder.image), squashfs_content(other), "size")
    sizes = {
        "image": builder.image.stat().st_size, "mksquashfs": other.stat().st_size,
        "oci": oci_layer_bytes(builder.layout), "tar-zstd": layer.stat().st_size,
    }  # fmt: skip
    remove(other, layer)
    ratios = {"image-ratio": sizes["image"] / sizes["mksquashfs"], "oci-ratio": sizes["oci"] / sizes["tar-zstd"]}
    return {"values": {**sizes, **ratios}}


def peaks(setting: Setting) -> Case:
    """Memory and disk of a build, looked at twenty times a second; its time does not count."""
    payload, builder = setting.payload, setting.builder
    builds: dict[str, Any] = {}
    builder.forget()
    builds["cold"] = _peak(builder, payload, builder.watch(payload))
    newer = _bumped(setting, choose_changed(payload.wheels), 99)
    builds["second environment"] = _peak(builder, newer, builder.watch(newer))
    builder.build(payload)
    changed = with_variable(payload, setting.folder("variable"), 98)
    builds["variable changed"] = _peak(builder, changed, builder.watch(changed))
    builds["nothing changed"] = _peak(builder, changed, builder.watch(changed))
    _forget_second(setting, newer)
    cold_build = builds["cold"]
    values = {
        "cold-memory": cold_build["memory"] / 1e6,
        "cold-disk-ratio": (cold_build["disk"] - cold_build["image"]) / cold_build["image"],
    }
    return {"builds": builds, "values": values}


def _peak(builder: Builder, payload: Payload, found: Peaks) -> dict[str, int]:
    content = squashfs_content(builder.image)
    image = builder.image.stat().st_size
    return {
        "payload": content.bytes,
        "image": image,
        "memory": found.memory,
        "process": found.process,
        "disk": found.disk,
    }


def growth(setting: Setting) -> Case:
    """Cold builds of larger and larger payloads, out of wheels that are made for it."""
    builds: dict[str, Any] = {}
    builder = setting.builder
    builder.forget()
    remove(setting.by_hand.cache)
    for total in sorted(setting.growth):
        needed = round(2.2 * total)
        if free_bytes(setting.place) < needed:
            say(f"growth: {total / 1e9:g} GB left out: it needs {needed / 1e9:.0f} GB of free disk")
            continue
        say(f"growth: {total / 1e9:g} GB, making the wheels")
        with _grown(setting, total) as payload:
            say(f"growth: {total / 1e9:g} GB, building")
            builds[f"{total / 1e9:g} GB"] = _peak(builder, payload, builder.watch(payload))
        builder.forget()
    return {"builds": builds}


@contextmanager
def _grown(setting: Setting, total: int) -> Iterator[Payload]:
    base = setting.payload
    pins = make_wheels(base, total, setting.place, jobs=CORES)
    loaded = load_recipe(base.recipe / "recipe.yaml").recipe
    target = next(target for target in loaded.targets if target.uarch == base.uarch)
    recipe = {
        "name": "growth", "version": "1.0", "description": "payload of a chosen size", "maintainers": ["nobody"],
        "targets": [{"system": target.system, "uarch": target.uarch}],
        "base": yaml.safe_load(loaded.base.model_dump_json(exclude_none=True)),
        "pins": {"python": base.python}, "python": {"requirements": [str(pin["name"]) for pin in pins]},
    }  # fmt: skip
    lock = {name: value for name, value in base.lock.items() if name != "accelerator"}
    payload = write_recipe(base, setting.folder("growth"), recipe, lock, pins)
    try:
        yield payload
    finally:
        remove(payload.recipe, *map(payload.download, pins))


CASES: dict[str, Callable[[Setting], Case]] = {
    "cold": cold,
    "second": second,
    "variable": variable,
    "unchanged": unchanged,
    "size": size,
    "peaks": peaks,
    "growth": growth,
}
