"""Where, with what and how often the cases run, and what several of them do."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .payload import Payload, Pin, variant
from .processes import run
from .sides import Builder, ByHand, Compiler
from .wheels import bump
from .workspace import remove

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
        read(*(file for file in files if file.exists()))

    def folder(self, name: str) -> Path:
        """A folder for a variant of the recipe."""
        return self.place / "recipes" / name


def read(*files: Path) -> None:
    """Have files in the page cache."""
    run(["sh", "-c", 'cat "$@" > /dev/null', "sh", *files])


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def bumped(setting: Setting, changed: list[Pin], number: int) -> Payload:
    """A second environment: these wheels in new versions, read once so that they lie in the page cache."""
    payload = setting.payload
    names = {pin["name"] for pin in changed}
    kept = [pin for pin in payload.wheels if pin["name"] not in names]
    newer = [bump(payload, pin, number, setting.place) for pin in changed]
    wheels = sorted([*kept, *newer], key=lambda pin: str(pin["name"]))
    second_payload = variant(payload, setting.folder(f"second-{number}"), {"name": f"second-{number}"}, wheels)
    read(*map(payload.download, newer))
    return second_payload


def forget_second(setting: Setting, newer: Payload) -> None:
    """Remove the new wheels, their downloads and what uv and the store keep of them, so that the disk does not fill."""
    known = {pin["sha256"] for pin in setting.payload.wheels}
    new = [pin for pin in newer.wheels if pin["sha256"] not in known]
    remove(newer.recipe, *map(newer.download, new))
    setting.builder.collect()
    if setting.by_hand.cache.exists():
        setting.by_hand.forget([str(pin["name"]) for pin in new])
        setting.by_hand.warm(setting.payload)
