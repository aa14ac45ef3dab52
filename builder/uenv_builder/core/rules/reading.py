"""What rules read while they run: subjects and runtimes that note it, without a table by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, Self, TypeVar

from pydantic import BaseModel

from uenv_builder.core.rules.runtime import Runtime
from uenv_builder.core.rules.subject import Subject
from uenv_builder.model.lock import Lock, LockedBase
from uenv_builder.model.recipe import Pins

_Value = TypeVar("_Value")
Reading = tuple[Literal["component", "presence", "wheel", "package", "variable"], str]
"""What a rule looked at: the version of a component by the name of its pin, or whether it is there at all; the version
of a wheel or a package; a variable.
"""
Note = Callable[[Reading], None]
HOOKED = frozenset({"aws_ofi_nccl", "libfabric"})
OF_TORCH = {"cuda": "CUDA", "nccl": "NCCL", "cudnn": "cuDNN"}


class _NotedText(str):
    """A text that tells when it is looked at; handing it on, as from a lock into what a rule computes, is not looking.

    Comparing it with another text counts only where both are equal: who searches a list by name looks at one entry.
    """

    __slots__ = ("_tell",)
    _tell: Callable[[], None]

    @classmethod
    def of(cls, text: str, tell: Callable[[], None]) -> Self:
        made = cls(text)
        made._tell = tell
        return made

    def __getattribute__(self, name: str) -> object:
        if not name.startswith("_"):
            self._tell()
        return super().__getattribute__(name)

    def __bool__(self) -> bool:
        self._tell()
        return str.__len__(self) > 0

    def __eq__(self, other: object) -> bool:
        same = str.__eq__(self, other) is True
        if same:
            self._tell()
        return same

    __hash__ = str.__hash__

    def __format__(self, form: str) -> str:
        self._tell()
        return str.__format__(self, form)


class _NotedPins:
    """Pins that note which of them are read, set or not."""

    def __init__(self, pins: Pins, note: Note) -> None:
        self._pins, self._note = pins, note

    def __getattr__(self, name: str) -> object:
        if name in Pins.model_fields:
            self._note(("component", name))
        return getattr(self._pins, name)


class _NotedNames(frozenset[str]):
    """Names of variables that note for which of them it was asked whether they are there."""

    _note: Note

    @classmethod
    def of(cls, names: frozenset[str], note: Note) -> Self:
        made = cls(names)
        made._note = note
        return made

    def __contains__(self, name: object) -> bool:
        self._note(("variable", str(name)))
        return super().__contains__(name)


class _NotedMapping(Mapping[str, _Value]):
    """A mapping that notes which of its keys are asked for, there or not."""

    def __init__(self, values: Mapping[str, _Value], note: Callable[[str], None]) -> None:
        self._values, self._note = values, note

    def __getitem__(self, key: str) -> _Value:
        self._note(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class NotedRuntime(Runtime):
    """A runtime that notes which variables and versions are looked at, and whether NCCL is asked for."""

    _note: Note

    @classmethod
    def of(cls, runtime: Runtime, note: Note) -> Self:
        """`runtime`, telling `note` what is read of it."""
        env = _NotedMapping(runtime.env, lambda name: note(("variable", name)))
        versions = _NotedMapping(runtime.versions, lambda name: note(("component", name)))
        own = _NotedNames.of(frozenset(runtime.own), note)
        made = cls(**{**vars(runtime), "env": env, "versions": versions, "own": own})
        object.__setattr__(made, "_note", note)
        return made

    def __getattribute__(self, name: str) -> object:
        if name == "uses_nccl":
            object.__getattribute__(self, "_note")(("presence", "nccl"))
        return object.__getattribute__(self, name)


def noted_subject(subject: Subject, note: Note) -> Subject:
    """`subject` with a pin, a lock and hooks that note which versions are looked at."""
    recipe = subject.recipe.model_copy(update={"pins": _NotedPins(subject.recipe.pins, note)})
    hooks = {
        mode: stack.model_copy(update=_noted_fields(stack, note, {name: ("component", name) for name in HOOKED}))
        for mode, stack in subject.system.hooks.items()
    }
    lock = _noted_lock(subject.lock, note) if subject.lock else None
    return Subject(recipe, subject.system.model_copy(update={"hooks": hooks}), subject.uarch, lock)


def _noted_lock(lock: Lock, note: Note) -> Lock:
    python, accelerator = lock.python, lock.accelerator
    packages = tuple(
        deb.model_copy(update=_noted_fields(deb, note, dict.fromkeys(("name", "version"), ("package", deb.name))))
        for deb in lock.debs
    )
    wheels = tuple(
        one.model_copy(update=_noted_fields(one, note, dict.fromkeys(("name", "version", "file"), ("wheel", one.name))))
        for one in (python.wheels if python else ())
    )
    parts: dict[str, Reading] = {
        "torch": ("component", "pytorch"), **{name: ("component", name) for name in OF_TORCH},
    }  # fmt: skip
    version: dict[str, Reading] = {"version": ("component", "python")}
    return lock.model_copy(
        update={
            "userland": lock.userland and lock.userland.model_copy(update={"packages": packages}),
            "base": lock.base and _noted_base(lock.base, note),
            "python": python and python.model_copy(update={**_noted_fields(python, note, version), "wheels": wheels}),
            "accelerator": accelerator and accelerator.model_copy(update=_noted_fields(accelerator, note, parts)),
        }
    )


def _noted_base(base: LockedBase, note: Note) -> LockedBase:
    noted = {
        "packages": _NotedMapping(base.contents.packages, lambda name: note(("package", name))),
        "distributions": _NotedMapping(base.contents.distributions, lambda name: note(("wheel", name))),
    }
    return base.model_copy(update={"contents": base.contents.model_copy(update=noted)})


def _noted_fields(model: BaseModel, note: Note, readings: Mapping[str, Reading]) -> dict[str, str]:
    """The texts among the fields of `model` that `readings` names, as texts that note what it says."""
    texts = {name: getattr(model, name) for name in readings}
    return {
        name: _NotedText.of(text, partial(note, readings[name])) for name, text in texts.items() if text is not None
    }
