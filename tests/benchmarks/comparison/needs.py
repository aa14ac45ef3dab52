"""Cases that are not about time: sizes of images, and what a build needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from uenv_builder.app.recipes import load_recipe

from .contents import oci_layer_bytes, require_same, squashfs_content
from .payload import Payload, Pin, choose_changed, with_variable, write_recipe
from .processes import Peaks, run
from .setting import Case, Setting, bumped, forget_second, say
from .sides import CORES, Builder, squashfs_options, tar_zstd
from .wheels import WHEEL_BYTES, make_wheels
from .workspace import free_bytes, mounted, remove


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
    newer = bumped(setting, choose_changed(payload.wheels), 99)
    builds["second environment"] = _peak(builder, newer, builder.watch(newer))
    builder.build(payload)
    changed = with_variable(payload, setting.folder("variable"), 98)
    builds["variable changed"] = _peak(builder, changed, builder.watch(changed))
    builds["nothing changed"] = _peak(builder, changed, builder.watch(changed))
    forget_second(setting, newer)
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
    sizes = [total for total in sorted(setting.growth) if free_bytes(setting.place) > 2.2 * total]
    if left_out := sorted({*setting.growth} - {*sizes}):
        needed = f"the largest needs {2.2 * left_out[-1] / 1e9:.0f} GB of free disk"
        say(f"growth: left out {', '.join(f'{total / 1e9:g} GB' for total in left_out)}: {needed}")
    if not sizes:
        return {"builds": builds}
    say("growth: making wheels")
    size_of_one = min(WHEEL_BYTES, sizes[0])
    pins = make_wheels(setting.payload, sizes[-1] // size_of_one, size_of_one, setting.place, jobs=CORES)
    for total in sizes:
        name = f"{total / 1e9:g} GB"
        say(f"growth: {name}")
        payload = _grown(setting, pins[: total // size_of_one])
        builds[name] = _peak(builder, payload, builder.watch(payload))
        builder.forget()
        remove(payload.recipe)
    remove(*map(setting.payload.download, pins))
    return {"builds": builds}


def _grown(setting: Setting, pins: Sequence[Pin]) -> Payload:
    base = setting.payload
    loaded = load_recipe(base.recipe / "recipe.yaml").recipe
    target = next(target for target in loaded.targets if target.uarch == base.uarch)
    recipe = {
        "name": "growth", "version": "1.0", "description": "payload of a chosen size", "maintainers": ["nobody"],
        "targets": [{"system": target.system, "uarch": target.uarch}],
        "base": yaml.safe_load(loaded.base.model_dump_json(exclude_none=True)),
        "pins": {"python": base.python}, "python": {"requirements": [str(pin["name"]) for pin in pins]},
    }  # fmt: skip
    lock = {name: value for name, value in base.lock.items() if name != "accelerator"}
    return write_recipe(base, setting.folder("growth"), recipe, lock, pins)
