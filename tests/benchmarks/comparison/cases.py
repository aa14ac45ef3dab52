"""What both sides do in turns: one function a case, which returns what goes into the results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .buildah import Buildah, Installer
from .contents import Content, oci_content, require_same, squashfs_content, tar_content
from .needs import growth, peaks, size
from .payload import choose_changed, with_variable, without_bytecode
from .processes import measure, run
from .results import add_run
from .setting import Case, Setting, bumped, forget_second, read, say
from .workspace import remove


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
        newer = bumped(setting, changed, number)
        add_run(case, "ours", number, measure(lambda newer=newer: builder.build(newer)))
        ours = _contents(case, "ours", builder.image, lambda: oci_content(builder.layout))
        add_run(case, "by-hand", number, by_hand.build(newer))
        theirs = _contents(case, "by-hand", by_hand.image, lambda: tar_content(by_hand.layer))
        require_same(ours, theirs, "second")
        by_hand.clear()
        builder.build(payload)
        forget_second(setting, newer)
    return case


def variable(setting: Setting) -> Case:
    """One variable has another value; and what a copy of the image takes, with sync and without.

    By hand, the tree is made again in the rounds of the slow ones, and kept for the others.
    """
    case: Case = {"contents": {}}
    payload, builder, by_hand = setting.payload, setting.builder, setting.by_hand
    builder.forget()
    builder.build(payload)
    by_hand.warm(payload)
    for number in range(1, setting.runs + 1):
        say(f"variable: round {number} of {setting.runs}")
        _variable_ours(case, setting, number)
        ours = _contents(case, "ours", builder.image, lambda: oci_content(builder.layout))
        if number <= max(1, setting.slow_runs):
            add_run(case, "by-hand", number, by_hand.build(payload))
            theirs = _contents(case, "by-hand", by_hand.image, lambda: tar_content(by_hand.layer))
            require_same(ours, theirs, "variable")
        by_hand.change_variable(number)
        add_run(case, "by-hand-pack", number, by_hand.pack(payload))
        remove(by_hand.image, by_hand.layer)
    by_hand.clear()
    return case


def _variable_ours(case: Case, setting: Setting, number: int) -> None:
    """A build with another value, and a copy of the image that it left; each alone, and followed by sync."""
    builder, copy = setting.builder, setting.place / "copy.squashfs"
    tails: dict[str, list[str]] = {"": [], "-sync": ["sync"]}
    for side, tail in tails.items():
        changed = with_variable(setting.payload, setting.folder("variable"), 2 * number + bool(tail))
        read(builder.image)
        add_run(case, f"ours{side}", number, measure(partial(_then, tail, builder.build, changed)))
        builder.collect()
        read(builder.image)
        add_run(case, f"cp{side}", number, measure(partial(_then, tail, run, ["cp", builder.image, copy])))
        remove(copy)


def _then(tail: list[str], work: Callable[[Any], None], argument: object) -> None:
    work(argument)
    if tail:
        run(tail)


def unchanged(setting: Setting) -> Case:
    """The same build once more."""
    case: Case = {}
    setting.builder.build(setting.payload)
    setting.builder.build(setting.payload)
    for number in range(1, setting.runs + 1):
        add_run(case, "ours", number, measure(lambda: setting.builder.build(setting.payload)))
    return case


CASES: dict[str, Callable[[Setting], Case]] = {
    "cold": cold,
    "second": second,
    "variable": variable,
    "unchanged": unchanged,
    "size": size,
    "peaks": peaks,
    "growth": growth,
}
