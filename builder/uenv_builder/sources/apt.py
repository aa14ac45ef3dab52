"""Resolving Debian packages for any architecture and suite with apt-get, by its own rules and without root.

apt works in a folder of its own with an empty status file, so neither the packages nor the configuration of this
machine play a part. It verifies the Release files' signatures, and by their hashes the package lists that are read
here.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property, lru_cache
from pathlib import Path
from urllib.parse import unquote

from debian.deb822 import Deb822, Packages
from debian.debian_support import NativeVersion

from uenv_builder.model.errors import BuildError, Diagnostic, IncompatibleError, LockError, NetworkError, UsageError
from uenv_builder.model.lock import LockedDeb, LockedRelease
from uenv_builder.sources.debian_mirrors import DebianMirrors, read_transport_settings
from uenv_builder.system.events import Listener
from uenv_builder.system.process import Completed, find_program, run

_NAME_FIELD = re.compile(rb"^Package: *(\S+)", re.MULTILINE)
_VERSION_FIELD = re.compile(rb"^Version: *(\S+)", re.MULTILINE)
_PROVIDES_FIELD = re.compile(rb"^Provides: *(.+)$", re.MULTILINE)
_ESSENTIAL_FIELD = re.compile(rb"^Essential: *yes *$", re.MULTILINE)
_DOWNLOAD_LINE = re.compile(r"'(?P<url>[^']+)' (?P<name>[^_ ]+)_(?P<version>[^_ ]+)_[^_ ]+\.deb \d+ ")
_FOLDERS = (
    "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d",
    "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt",
)  # fmt: skip
_CONFIGURATION = """\
Dir "{folder}";
Dir::State::status "{folder}/status";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::Assume-Yes "true";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Solver "internal";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
"""
"""apt.conf(5). Sandbox::User: else apt, started by root, becomes a user who cannot enter the folder."""
_SIGNATURE_TROUBLE = re.compile(
    r"NO_PUBKEY|BADSIG|ERRSIG|EXP(KEY)?SIG|REVKEYSIG|not signed|signature|NOSPLIT|Clearsigned file|GPG error"
)
_OUT_OF_TIME = re.compile(r"is expired \(|is not valid yet")
_HALF_WRITTEN = re.compile(r"Hash Sum mismatch|unexpected size|Mirror sync in progress")
_NO_VERIFIER = re.compile(r"required for verification, but neither seems installed")
_NO_COMPONENT = re.compile(r"repository '(?P<where>.+?)' does(?:n't| not) have the (?P<what>component '.+?')")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserlandRequest:
    """What to resolve: `packages` ("name" or "name=version") and all that they depend on, from `suites` together.

    `essential` adds every package that Debian marks as essential, `recommends` what the packages recommend.
    `architecture` is Debian's name of it, such as arm64.
    """

    suites: tuple[str, ...]
    components: tuple[str, ...]
    architecture: str
    packages: tuple[str, ...]
    essential: bool
    recommends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedUserland:
    """The Release files that were read, in the request's order, and the packages, sorted by name."""

    releases: tuple[LockedRelease, ...]
    packages: tuple[LockedDeb, ...]


class UnknownPackagesError(IncompatibleError):
    """Packages that no suite has for the architecture: `names` maps each to the names that are close to it."""

    rule = "unknown-package"
    names: Mapping[str, Sequence[str]] = {}

    @classmethod
    def of(cls, names: Mapping[str, Sequence[str]], where: str) -> UnknownPackagesError:
        """The error for `names`, which are missing in `where` (suites and architecture); one finding for each."""
        error = cls("unknown packages")
        error.names = names
        error.diagnostics = tuple(
            Diagnostic(rule=cls.rule, message=f'{where} has no package "{name}"', hint=_did_you_mean(close))
            for name, close in names.items()
        )
        return error


def resolve_userland(
    request: UserlandRequest,
    mirrors: DebianMirrors,
    *,
    workspace: Path,
    listener: Listener,
    keep: Mapping[str, str] | None = None,
) -> ResolvedUserland:
    """Let apt choose versions for `request`; equal package lists give equal results.

    Package lists are put into `workspace` and are used again by later calls with the same one (one call at a time).
    `keep` holds versions by name that an older lock chose: they stay, unless the request names another version; names
    that are not needed any more do not matter. Raises UnknownPackagesError for names that do not exist (all of them
    together), IncompatibleError for versions that are gone or cannot work together, NetworkError for mirrors that
    cannot be read or whose signature is not right, BuildError for a missing keyring and MissingToolError without apt.
    """
    state = _State.open(request, mirrors, workspace, listener)
    lists = _read_lists(state)
    where = f"Debian {request.suites[0]} for {request.architecture}"
    _require_known(request, lists, where)
    kept = {name: version for name, version in (keep or {}).items() if version in lists.versions(name)}
    gone = {name: version for name, version in (keep or {}).items() if name not in kept}
    chosen = {word.partition("=")[0] for word in request.packages if "=" in word}
    _write_preferences(state, {name: version for name, version in kept.items() if name not in chosen})
    essential = [name for name in lists.essential() if name not in chosen] if request.essential else []
    packages = _select(state, lists, [*request.packages, *essential], request, gone)
    _require_kept({deb.name for deb in packages} - chosen, gone, lists)
    return ResolvedUserland(releases=state.releases(), packages=packages)


@dataclass(frozen=True, slots=True)
class _State:
    """A folder in which apt has fetched and verified the lists of `suites` for one architecture."""

    folder: Path
    suites: tuple[str, ...]

    @classmethod
    def open(cls, request: UserlandRequest, mirrors: DebianMirrors, workspace: Path, listener: Listener) -> _State:
        find_program("apt-get")
        _require_keyring(mirrors.keyring)
        sources = "\n".join(
            f"Types: deb\nURIs: {mirrors.find_suite(suite)}\nSuites: {suite}\n"
            f"Components: {' '.join(request.components)}\nSigned-By: {mirrors.keyring}\n"
            for suite in request.suites
        )
        name = hashlib.sha256(f"{request.architecture}\n{sources}".encode()).hexdigest()[:16]
        state = cls(workspace.absolute() / f"apt-{name}", request.suites)
        complete = state.folder / "complete"
        if not complete.exists():
            title = f"reading the package lists of {', '.join(request.suites)} for {request.architecture}"
            with listener.task(title):
                state._prepare(sources, request.architecture)
                state._update()
            complete.touch()
        return state

    def _prepare(self, sources: str, architecture: str) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in _FOLDERS:
            (self.folder / folder).mkdir(parents=True)
        (self.folder / "status").touch()
        configuration = _CONFIGURATION.format(folder=self.folder, architecture=architecture)
        text = configuration + "".join(f"{line}\n" for line in read_transport_settings())
        (self.folder / "apt.conf").touch(mode=0o600)  # a proxy's address may hold a password
        (self.folder / "apt.conf").write_text(text, encoding="utf-8")
        (self.folder / "etc/apt/sources.list.d/userland.sources").write_text(sources, encoding="utf-8")

    def _update(self) -> None:
        done = self.run("update")
        # A component that a suite does not have is no failure for apt.
        missing = [match for line in done.stderr.splitlines() if (match := _NO_COMPONENT.search(line))]
        if missing:
            raise IncompatibleError.collect(
                Diagnostic(
                    rule="unknown-component",
                    message=f"the Debian archive {match['where']} has no {match['what']}",
                    hint="check base.debian.components",
                )
                for match in missing
            )
        if done.returncode != 0:
            raise _update_failure(done)

    def run(self, *arguments: str) -> Completed:
        """`apt-get` in this folder; of the environment, only proxies and the places of programs and files count."""
        passed = {"PATH", "HOME", "TMPDIR"}
        env = {key: text for key, text in os.environ.items() if key in passed or key.lower().endswith("_proxy")}
        env |= {"LC_ALL": "C.UTF-8", "APT_CONFIG": str(self.folder / "apt.conf")}
        return run(["apt-get", "--quiet", *arguments], env=env, check=False, what="apt-get")

    def lists(self) -> list[tuple[str, Path]]:
        """The package lists with their suites, in the order of the request."""
        listing = self.run("indextargets", "--format", "$(RELEASE)\t$(FILENAME)", "Created-By: Packages")
        found = [line.split("\t", 1) for line in listing.stdout.splitlines()]
        return sorted(((suite, Path(path)) for suite, path in found), key=lambda pair: self.suites.index(pair[0]))

    def releases(self) -> tuple[LockedRelease, ...]:
        """What the suites' Release files say of themselves."""
        return tuple(self._read_release(suite) for suite in self.suites)

    def _read_release(self, suite: str) -> LockedRelease:
        # apt names the file after its URL.
        (path,) = (self.folder / "var/lib/apt/lists").glob(f"*_dists_{suite}_InRelease")
        content = path.read_bytes()
        _, payload, _ = Deb822.split_gpg_and_payload(iter(content.splitlines()))
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]+): *(.+)$", b"\n".join(payload).decode(), re.MULTILINE))
        names = {fields[key] for key in ("Suite", "Codename") if key in fields}
        # apt only warns of a mirror that passes an old suite, rightly signed, off as another.
        if names and suite not in names:
            raise NetworkError(f"the mirror's suite {suite} calls itself {' and '.join(sorted(names))}",
                               rule="release-signature", hint="use another mirror")  # fmt: skip
        if "Date" not in fields:
            raise NetworkError(f"the Release file of {suite} has no Date", rule="release-signature")
        date = parsedate_to_datetime(fields["Date"]).astimezone(UTC)
        return LockedRelease(
            suite=suite, date=date.strftime("%Y-%m-%dT%H:%M:%SZ"), sha256=hashlib.sha256(content).hexdigest()
        )


def _require_keyring(keyring: Path) -> None:
    if not keyring.is_file():
        raise BuildError(f"the keyring that verifies Debian's signatures is missing: {keyring}", rule="missing-keyring",
                         hint="apt-get install debian-archive-keyring")  # fmt: skip
    if re.search(r"[\s,]", str(keyring)):
        raise UsageError(f"apt takes no keyring with blanks or commas in its path: {keyring}", rule="keyring-path",
                         hint="copy the keyring to another folder")  # fmt: skip


def _update_failure(done: Completed) -> NetworkError | BuildError:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("E: ", "W: "))]
    reason = "".join(f"\n    {line[3:].strip()}" for line in dict.fromkeys(lines)) or f"\n    {done.stderr.strip()}"
    if _NO_VERIFIER.search(reason):
        return BuildError(f"apt has no program to verify signatures with:{reason}", rule="missing-tool",
                          hint="install it: apt-get install gpgv")  # fmt: skip
    if _OUT_OF_TIME.search(reason):
        return NetworkError(f"a Release file is not valid now:{reason}", rule="release-signature",
                            hint="use a mirror that is up to date, and check this machine's clock")  # fmt: skip
    if _HALF_WRITTEN.search(reason):
        return NetworkError(f"the mirror does not fit its own Release file:{reason}", rule="release-hash",
                            hint="it may be under way to a new state: try again in some minutes")  # fmt: skip
    if _SIGNATURE_TROUBLE.search(reason):
        return NetworkError(
            f"a Release file is not signed by a key of the keyring:{reason}",
            rule="release-signature",
            hint="renew debian-archive-keyring, or set debian-keyring for a mirror that signs by itself",
        )
    return NetworkError(f"the package lists could not be fetched:{reason}")


class _PackageLists:
    """Every package of the suites, by name: the suite and the paragraph that describes it, in the suites' order."""

    def __init__(self, paragraphs: dict[str, list[tuple[str, bytes]]]) -> None:
        self._paragraphs = paragraphs

    @classmethod
    def read(cls, state: _State) -> _PackageLists:
        paragraphs: dict[str, list[tuple[str, bytes]]] = {}
        for suite, path in state.lists():
            for paragraph in path.read_bytes().split(b"\n\n"):
                if name := _NAME_FIELD.search(paragraph):
                    paragraphs.setdefault(name[1].decode(), []).append((suite, paragraph))
        return cls(paragraphs)

    def versions(self, name: str) -> list[str]:
        """All versions of a package, newest first."""
        found = [_VERSION_FIELD.search(paragraph) for _, paragraph in self._paragraphs.get(name, [])]
        return sorted({match[1].decode() for match in found if match}, key=NativeVersion, reverse=True)

    def essential(self) -> list[str]:
        """The names of the packages that are marked as essential; apt's pattern ?essential would count apt itself."""
        return sorted(
            name
            for name, found in self._paragraphs.items()
            if any(_ESSENTIAL_FIELD.search(paragraph) for _, paragraph in found)
        )

    @cached_property
    def provided(self) -> set[str]:
        """The names that packages provide beside their own."""
        texts = (
            match[1].decode()
            for found in self._paragraphs.values()
            for _, paragraph in found
            if (match := _PROVIDES_FIELD.search(paragraph))
        )
        return {part.split()[0].partition(":")[0] for text in texts for part in text.split(",") if part.strip()}

    def is_known(self, name: str) -> bool:
        """Whether the name is that of a package, or provided by one."""
        return name in self._paragraphs or name in self.provided

    def close_to(self, name: str) -> list[str]:
        """Up to three names that look like `name`, the closest first."""
        return difflib.get_close_matches(name, sorted(self._paragraphs), n=3, cutoff=0.75)

    def find(self, name: str, version: str, url: str) -> LockedDeb:
        """The package that apt would download from `url`, from the first suite that has it."""
        for suite, paragraph in self._paragraphs.get(name, []):
            fields = next(iter(Packages.iter_paragraphs(paragraph, use_apt_pkg=False)))
            if fields["Version"] == version and unquote(url).endswith(f"/{fields['Filename']}"):
                if "SHA256" not in fields:
                    raise LockError(f"{suite} has no SHA256 for {name} {version}", rule="release-hash")
                return LockedDeb(
                    name=name, version=version, architecture=fields["Architecture"], suite=suite,
                    path=fields["Filename"], size=int(fields["Size"]), sha256=fields["SHA256"],
                )  # fmt: skip
        raise LockError(f"apt chose {name} {version}, which the package lists do not have", rule="release-hash")


@lru_cache(maxsize=2)
def _read_lists(state: _State) -> _PackageLists:
    # A complete workspace does not change, and reading it takes longer than resolving.
    return _PackageLists.read(state)


def _require_known(request: UserlandRequest, lists: _PackageLists, where: str) -> None:
    words = [word.partition("=") for word in request.packages]
    if unknown := [name for name, _, _ in words if not lists.is_known(name)]:
        raise UnknownPackagesError.of({name: lists.close_to(name) for name in dict.fromkeys(unknown)}, where)
    findings = [
        Diagnostic(
            rule="unknown-version", message=f"{where} has no {name} {version}", hint=f"it has {', '.join(there)}"
        )
        for name, _, version in words
        if version and (there := lists.versions(name)) and version not in there
    ]
    if findings:
        raise IncompatibleError.collect(findings)


def _did_you_mean(close: Sequence[str]) -> str | None:
    return f"did you mean {' or '.join(close)}?" if close else None


def _write_preferences(state: _State, versions: Mapping[str, str]) -> None:
    """apt_preferences(5): from 1001 on, a version is taken even if it is older than others."""
    text = "\n".join(
        f"Package: {name}\nPin: version {version}\nPin-Priority: 1001\n" for name, version in sorted(versions.items())
    )
    (state.folder / "etc/apt/preferences").write_text(text, encoding="utf-8")


def _select(
    state: _State, lists: _PackageLists, words: Sequence[str], request: UserlandRequest, gone: Mapping[str, str]
) -> tuple[LockedDeb, ...]:
    if not words:
        return ()
    recommends = f"APT::Install-Recommends={'true' if request.recommends else 'false'}"
    done = state.run("install", "--print-uris", "--option", recommends, *dict.fromkeys(words))
    if done.returncode != 0:
        explanation = _explanation(done)
        _require_kept(set(re.findall(r"[a-z0-9][a-z0-9+.-]+", explanation)), gone, lists)
        raise IncompatibleError(
            f"the Debian packages cannot be installed together:{explanation}",
            hint="drop or change a version, or let a locked package move: `uenv lock RECIPE --upgrade NAME`",
        )
    found = [match for line in done.stdout.splitlines() if (match := _DOWNLOAD_LINE.match(line))]
    debs = [lists.find(match["name"], unquote(match["version"]), match["url"]) for match in found]
    return tuple(sorted(debs, key=lambda deb: deb.name))


def _explanation(done: Completed) -> str:
    """apt's own reasons: the list of unmet dependencies if there is one, and its errors."""
    _, _, unmet = done.stdout.partition("The following packages have unmet dependencies:\n")
    errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
    return "".join(f"\n    {line.strip()}" for line in (*unmet.splitlines(), *errors) if line.strip())


def _require_kept(needed: set[str], gone: Mapping[str, str], lists: _PackageLists) -> None:
    findings = [
        Diagnostic(
            rule="version-gone",
            message=f"{name} {gone[name]}, which the lock holds, is gone from the mirrors",
            hint=f"they have {', '.join(lists.versions(name)) or 'none'}; renew it alone with "
            f"`uenv lock RECIPE --upgrade {name}`",
        )
        for name in sorted(needed & gone.keys())
    ]
    if findings:
        raise IncompatibleError.collect(findings)
