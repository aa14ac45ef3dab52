"""What uv says when it finds no wheels to take, turned into findings that name the packages and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from pypi_simple import DistributionPackage

from uenv_builder.model.errors import Diagnostic, IncompatibleError, NetworkError
from uenv_builder.sources.python_index import PythonIndex
from uenv_builder.system.process import Completed, failure

_MISSING = re.compile(
    r"(?P<subject>\S+) (?:(?P<unknown>(?:was|were) not found in the )|ha(?:s|ve) no (?:usable wheels|wheels with))"
)
_NAME = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\[[^\]]*\])?(?P<versions>.*)")
_YANKED = re.compile(r"`(?P<name>[^`=]+)==(?P<version>[^`]+)` is yanked(?: \(reason: \"?(?P<reason>.*?)\"?\))?$")
_NO_SOLUTION = re.compile(r"No solution found when resolving dependencies[^\n]*\n")
_UNREACHABLE = re.compile(
    r"failed to fetch|request failed|error sending request|could not connect|timed? ?out|dns error|HTTP status"
    r"|network connectivity is disabled|could not be queried due to",
    re.IGNORECASE,
)
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What wheels are wanted for: `words` name it to people, `ranks` has the accepted tags, the best with rank 0."""

    python: str
    words: str
    ranks: Mapping[Tag, int]


class UnresolvableError(IncompatibleError):
    """Requirements that nothing satisfies; `names` has the packages that are unknown or have no wheel."""

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, findings: Sequence[Diagnostic], names: Iterable[str]) -> UnresolvableError:
        """The error with all `findings` (at least one)."""
        error = cls(findings[0].message)
        error.diagnostics = tuple(findings)
        error.names = tuple(names)
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingPackage:
    """A package that uv could not take: no index knows it, or its `versions` (a specifier, or empty) have no wheel."""

    name: str
    versions: str
    kind: Literal["unknown-package", "no-wheel"]
    required_by: tuple[str, ...]

    def finding(self, index: PythonIndex, target: Target) -> Diagnostic:
        """The finding about it; `index` is asked which files there are."""
        dependants = f" (required by {', '.join(self.required_by)})" if self.required_by else ""
        if self.kind == "unknown-package":
            return Diagnostic(
                rule=self.kind, message=f'the Python package index has no package "{self.name}"{dependants}',
                hint="check its name, or add the index that has it (python-extra-indexes in the configuration)",
            )  # fmt: skip
        try:
            files = index.list_files(self.name)
        except NetworkError:
            files = ()
        message = f"{self.name}{self.versions}{dependants} has no wheel for {target.words}"
        if existing := _describe(self._matching(files)):
            message += f"; the index has {existing}"
        versions = list(islice(_versions_with_wheel(files, target), _SHOWN))
        hint = (
            f"build a wheel of {self.name} for the target and serve it from an index of your own "
            "(python-extra-indexes), or do without the package"
        )
        if versions:
            hint = f"versions of {self.name} with such a wheel: {', '.join(versions)}"
        return Diagnostic(rule=self.kind, message=message, hint=hint)

    def _matching(self, files: Sequence[DistributionPackage]) -> list[DistributionPackage]:
        try:
            specifier = SpecifierSet(self.versions, prereleases=True)
        except InvalidSpecifier:
            return list(files)
        return [file for file in files if (version := _version(file)) and version in specifier]


def find_missing(output: str) -> dict[str, MissingPackage]:
    """The packages that uv's explanation says are unknown or have no usable wheel, by normalised name."""
    text = _explanation(output)
    found: dict[str, MissingPackage] = {}
    for match in _MISSING.finditer(text):
        subject = _NAME.fullmatch(match["subject"])
        if not subject:
            continue
        name = str(canonicalize_name(subject["name"]))
        dependants = re.findall(rf"([\w.-]*\w)\S* depends? on {re.escape(subject['name'])}(?![\w-])", text)
        kind: Literal["unknown-package", "no-wheel"] = "unknown-package" if match["unknown"] else "no-wheel"
        missing = MissingPackage(
            name=name, versions=subject["versions"], kind=kind, required_by=tuple(dict.fromkeys(dependants))
        )
        found.setdefault(name, missing)
    return found


def find_yanked(output: str) -> list[Diagnostic]:
    """A finding for every version that was taken although its publisher withdrew it (PEP 592)."""
    return [
        Diagnostic(
            rule="wheel-yanked",
            message=f"{match['name']} {match['version']} was withdrawn (yanked) from the Python package index"
            + (f": {match['reason']}" if match["reason"] else ""),
            hint=f"require another version, or choose one with `uenv lock --upgrade {match['name']}`",
        )
        for line in output.splitlines()
        if (match := _YANKED.search(line.strip()))
    ]


def notes_of(output: str) -> Iterator[str]:
    """uv's warnings that are worth a remark; that it runs with another Python than the target's is none."""
    for line in output.splitlines():
        text = line.removeprefix("warning:").strip()
        if text != line.strip() and not text.startswith("The requested Python version"):
            yield f"uv: {text}"


def explain(done: Completed) -> Diagnostic:
    """The finding for a resolution that failed; raises NetworkError or BuildError where it was not the requirements."""
    if not _NO_SOLUTION.search(done.stderr) or "could not be queried due to" in done.stderr:
        if _UNREACHABLE.search(done.stderr):
            reason = " ".join(done.stderr.replace("cause:", "").removeprefix("error:").split())
            raise NetworkError(
                f"the Python package index cannot be asked: {reason}", rule="python-index",
                hint="check the network, or set python-index in the configuration or UENV_PYTHON_INDEX",
            )  # fmt: skip
        raise failure(done, what="resolving Python packages with uv")
    return Diagnostic(
        rule="unsatisfiable",
        message=f"no versions satisfy all Python requirements: {_explanation(done.stderr)}",
        hint="change one of the requirements that it names",
    )


def _explanation(output: str) -> str:
    """uv's reasons on one line, without its frame (all that is not ASCII), warnings, markers and hints of its own."""
    text = _NO_SOLUTION.split(output, maxsplit=1)[-1]
    text = re.split(r"^\s*hint:", text, maxsplit=1, flags=re.MULTILINE)[0]
    text = re.sub(r"^\s*cause:|[^\x00-\x7f]", " ", text, flags=re.MULTILINE)
    text = re.sub(r"\{[^{}]*\}", "", text)
    return " ".join(text.split())


def _version(file: DistributionPackage) -> Version | None:
    try:
        return Version(file.version or "")
    except InvalidVersion:
        return None


def _tags(file: DistributionPackage) -> frozenset[Tag]:
    try:
        return frozenset(parse_wheel_filename(file.filename)[3])
    except InvalidWheelFilename:
        return frozenset()


def _describe(files: Sequence[DistributionPackage]) -> str:
    """Which pythons and platforms the wheels among `files` are for, and whether there is a source archive."""
    tags = {tag for file in files for tag in _tags(file)}
    parts = []
    if tags:
        pythons, platforms = {tag.interpreter for tag in tags}, {tag.platform for tag in tags}
        parts.append(f"wheels for {_list(pythons)} on {_list(platforms)}")
    if any(file.package_type == "sdist" for file in files):
        parts.append("a source archive")
    return " and ".join(parts)


def _list(words: Iterable[str]) -> str:
    ordered = sorted(words)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")


def _versions_with_wheel(files: Sequence[DistributionPackage], target: Target) -> Iterator[str]:
    """The versions, newest first, of which a wheel fits the target."""
    fitting: set[Version] = set()
    for file in files:
        version = _version(file)
        if not version or version.is_prerelease or file.is_yanked or not target.ranks.keys() & _tags(file):
            continue
        try:
            if f"{target.python}.0" in SpecifierSet(file.requires_python or ""):
                fitting.add(version)
        except InvalidSpecifier:
            continue
    yield from map(str, sorted(fitting, reverse=True))
