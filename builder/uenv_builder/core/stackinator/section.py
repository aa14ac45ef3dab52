"""A mapping of a YAML file, taken apart key by key; what nobody has taken is told at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from uenv_builder.core.yaml_tree import Path, Value, YamlTree
from uenv_builder.model.errors import Diagnostic, Position, RecipeError


@dataclass(slots=True)
class Section:
    """The mapping at `path` of `tree`. Texts are as they are written: `14` and `3.10` are versions here.

    Raises RecipeError at the place of a value that is of another kind.
    """

    tree: YamlTree
    path: Path
    unread: list[Diagnostic]
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def root(cls, tree: YamlTree, unread: list[Diagnostic]) -> Section:
        """The whole document."""
        return cls(tree, (), unread)

    @property
    def position(self) -> Position | None:
        """Where it begins: at its key."""
        return self.tree.key_position(self.path)

    def names(self) -> list[str]:
        """All keys, taken or not."""
        return list(self._value(self.path) or {})

    def has(self, key: str) -> bool:
        """Whether there is a value, other than null."""
        return self._value((*self.path, key)) is not None

    def section(self, key: str) -> Section:
        """The mapping at `key`; an empty one where there is none, or false."""
        value = self._take(key)
        if value not in (None, False) and not isinstance(value, dict):
            self.refuse(key, "a mapping is expected")
        return Section(self.tree, (*self.path, key), self.unread)

    def sections(self) -> Iterator[tuple[str, Section]]:
        """All keys with their mappings."""
        for key in self.names():
            yield key, self.section(key)

    def text(self, key: str, default: str | None = None) -> str | None:
        """The text at `key`."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, dict | list):
            self.refuse(key, "a text is expected")
        return self.tree.texts[*self.path, key]

    def required(self, key: str) -> str:
        """As `text`; raises RecipeError where there is none."""
        value = self.text(key)
        if value is None:
            raise RecipeError(
                f'the key "{key}" is missing', rule="missing-key", position=self.position, hint=f"add `{key}:`"
            )
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "true or false is expected")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of `choices`."""
        value = (self.text(key, default) or default).lower()
        if value not in choices:
            self.refuse(key, f'"{value}" is none of {", ".join(choices)}')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts at `key`, empty where there is none."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(key, "a list is expected")
        for number, item in enumerate(value):
            if isinstance(item, dict | list) or item is None:
                self.refuse(key, f"a text is expected as item {number + 1}")
        return tuple(self.tree.texts[*self.path, key, number] for number in range(len(value)))

    def items(self, key: str) -> list[Section]:
        """The list of mappings at `key`."""
        value = self._take(key)
        if value is not None and not isinstance(value, list):
            self.refuse(key, "a list is expected")
        for number, item in enumerate(value or ()):
            if not isinstance(item, dict):
                self.refuse(key, f"a mapping is expected as item {number + 1}")
        return [Section(self.tree, (*self.path, key, number), self.unread) for number in range(len(value or ()))]

    def pairs(self, key: str) -> list[tuple[str, str | None]]:
        """The list of mappings with one key each at `key`, as pairs."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(key, "a list is expected")
        found = []
        for number, item in enumerate(value):
            if not isinstance(item, dict) or any(isinstance(text, dict | list) for text in item.values()):
                self.refuse(key, f"`NAME: text` is expected as item {number + 1}")
            for name, text in item.items():
                found.append((name, None if text is None else self.tree.texts[*self.path, key, number, name]))
        return found

    def finish(self) -> None:
        """Tell what was not taken."""
        for key in self.names():
            if key not in self._taken:
                self.unread.append(
                    Diagnostic(
                        rule="import-unknown-key",
                        message=f'the key "{key}" is not one that Stackinator knows',
                        severity="warning",
                        position=self.tree.key_position((*self.path, key)),
                        hint="correct it, or leave it out",
                    )
                )

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise RecipeError at the value of `key`."""
        path = (*self.path, key)
        dotted = ".".join(map(str, path))
        raise RecipeError(
            f'"{dotted}": {reason}', rule="import-invalid", position=self.tree.position(path),
            hint="correct the recipe: Stackinator would refuse it, too",
        )  # fmt: skip

    def _take(self, key: str) -> Value:
        self._taken.add(key)
        return self._value((*self.path, key))

    def _value(self, path: Path) -> Value:
        value = self.tree.value
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int):
                value = value[part]
            else:
                return None
        return value
