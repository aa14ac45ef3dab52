"""The Python package index of this machine: which one it is, and where it serves a locked wheel today."""

from __future__ import annotations

import configparser
import os
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from packaging.metadata import parse_email
from packaging.utils import canonicalize_name
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DigestMismatchError,
    DistributionPackage,
    Link,
    NoDigestsError,
    NoMetadataError,
    NoSuchProjectError,
    ProjectPage,
    PyPISimple,
    UnsupportedContentTypeError,
    UnsupportedRepoVersionError,
)
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from uenv_builder.model.errors import LockError, NetworkError, UsageError
from uenv_builder.model.lock import LockedWheel
from uenv_builder.system.files import sha256_of

_URL_VARIABLES = ("UENV_PYTHON_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_TIMEOUT = (15.0, 60.0)  # seconds to connect, and between two bytes
_UNREADABLE = (UnsupportedContentTypeError, UnsupportedRepoVersionError, UnicodeDecodeError)


@dataclass(frozen=True, kw_only=True)
class PythonIndex:
    """A simple repository API (PEP 503 or 691), or a folder of wheels as a file: URL, and further ones beside it.

    `url` is None for the default of the clients themselves. The `extra` ones are asked first: a package that one of
    them has is taken from there.
    """

    url: str | None = None
    extra: tuple[str, ...] = ()
    _pages: dict[tuple[str, str], tuple[DistributionPackage, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of_machine(cls, *, configured: str | None = None, extra: Sequence[str] = ()) -> PythonIndex:
        """The index that is `configured`, else that of the environment, of uv's files, of pip's, else the default.

        The variables are UENV_PYTHON_INDEX, UV_DEFAULT_INDEX, UV_INDEX_URL and PIP_INDEX_URL. A configuration file
        that cannot be read is a UsageError that names it.
        """
        variables = (os.environ.get(name, "").strip() for name in _URL_VARIABLES)
        url = configured or next(filter(None, variables), None) or _read_uv_files() or _read_pip_files()
        return cls(url=_as_url(url) if url else None, extra=tuple(_as_url(text) for text in extra))

    @property
    def locations(self) -> tuple[str, ...]:
        """The URLs in the order in which they are asked; the last is the index itself."""
        return (*self.extra, self.url or PYPI_SIMPLE_ENDPOINT)

    def uv_settings(self) -> tuple[dict[str, str], list[str]]:
        """What makes uv use these indexes: variables (URLs may hold passwords, arguments are public) and arguments."""
        folders = [folder for url in self.locations if (folder := flat_folder(url))]
        arguments = [argument for folder in folders for argument in ("--find-links", str(folder))]
        variables = {}
        if extra := [url for url in self.extra if not flat_folder(url)]:
            variables["UV_INDEX"] = " ".join(extra)
        if self.url and flat_folder(self.url):
            # uv knows no way to drop the default index alone; without further ones there is no index left to ask.
            arguments += [] if extra else ["--no-index"]
            variables |= {"UV_DEFAULT_INDEX": extra[-1]} if extra else {}
        elif self.url:
            variables["UV_DEFAULT_INDEX"] = self.url
        return variables, arguments

    def list_files(self, name: str) -> tuple[DistributionPackage, ...]:
        """All files of the project `name` on the indexes; none where no index knows it. NetworkError: cannot tell."""
        return tuple(file for location in self.locations for file in self._files(location, name))

    def find_urls(self, wheel: LockedWheel) -> tuple[str, ...]:
        """Where the indexes serve `wheel` today, at least one URL.

        Raises LockError where the project or the file is gone, was withdrawn, or has another hash; NetworkError where
        an index cannot be asked.
        """
        same_name = [file for file in self.list_files(wheel.name) if file.filename == wheel.file]
        same = [file for file in same_name if _sha256(file) in {None, wheel.sha256}]
        usable = [file for file in same if not file.is_yanked]
        if usable:
            return tuple(dict.fromkeys(file.url for file in usable))
        hint = f"choose another version with `uenv lock --upgrade {wheel.name}`"
        if same:
            reason = f": {same[0].yanked_reason}" if same[0].yanked_reason else ""
            raise LockError(
                f"{wheel.name} {wheel.version} was withdrawn (yanked) from the Python package index{reason}",
                rule="wheel-yanked", hint=f"{hint}; if the recipe pins this version, pin another one",
            )  # fmt: skip
        if same_name:
            raise LockError(
                f"{wheel.file} on the Python package index has the sha256 {_sha256(same_name[0])}, but {wheel.sha256} "
                "is locked: the file was replaced",
                rule="wheel-replaced", hint=hint,
            )  # fmt: skip
        raise LockError(
            f"{wheel.name} {wheel.version} is gone: the Python package index has no file {wheel.file}",
            rule="wheel-gone", hint=hint,
        )  # fmt: skip

    def read_requirements(self, wheel: LockedWheel) -> tuple[str, ...] | None:
        """What the wheel's own metadata says that it requires (PEP 508); None where no index offers it (PEP 658)."""
        for file in self.list_files(wheel.name):
            if file.filename != wheel.file or not file.has_metadata:
                continue
            try:
                text = self._client(file.url).get_package_metadata_bytes(file, timeout=_TIMEOUT)
            except (requests.RequestException, NoMetadataError, NoDigestsError, DigestMismatchError):
                continue
            return tuple(parse_email(text)[0].get("requires_dist", []))
        return None

    def measure(self, url: str) -> int:
        """The size in bytes of the file at `url`, for indexes that do not tell; NetworkError where it cannot be had."""
        if folder := _local_path(url):
            return folder.stat().st_size
        try:
            answer = self._session.head(url, timeout=_TIMEOUT, allow_redirects=True)
            answer.raise_for_status()
            return int(answer.headers["Content-Length"])
        except (requests.RequestException, KeyError, ValueError) as error:
            raise _unreachable(url, error) from error

    def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        self._session.close()

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        retry = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        return session

    def _client(self, endpoint: str) -> PyPISimple:
        return PyPISimple(endpoint, session=self._session)

    def _files(self, location: str, name: str) -> tuple[DistributionPackage, ...]:
        key = (location, name)
        if key not in self._pages:
            folder = _local_path(location)
            self._pages[key] = tuple(_read_folder(folder, name) if folder else self._ask(location, name))
        return self._pages[key]

    def _ask(self, location: str, name: str) -> list[DistributionPackage]:
        try:
            page = self._client(location).get_project_page(name, timeout=_TIMEOUT)
        except NoSuchProjectError:
            return []
        except (requests.RequestException, *_UNREADABLE) as error:
            raise _unreachable(location, error) from error
        for file in page.packages:
            file.url = _with_login(file.url, location)
        return page.packages


def flat_folder(url: str) -> Path | None:
    """The folder of a file: URL whose wheels lie side by side, in place of a folder for each project."""
    folder = _local_path(url)
    return folder if folder and any(folder.glob("*.whl")) else None


def without_login(url: str) -> str:
    """`url` as it may be shown: without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _local_path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _as_url(text: str) -> str:
    if "://" in text:
        return text
    if text.startswith("file:"):
        return Path(unquote(text.removeprefix("file:"))).absolute().as_uri()
    return Path(text).expanduser().absolute().as_uri()


def _read_folder(folder: Path, name: str) -> list[DistributionPackage]:
    """The files of the project in a folder of wheels, or in one that is laid out as a server would show it."""
    page = folder / name / "index.html"
    if page.is_file():
        html = page.read_text(encoding="utf-8")
        return ProjectPage.from_html(name, html, base_url=f"{page.parent.as_uri()}/").packages
    link = partial(DistributionPackage.from_link, project_hint=name)
    paths = sorted([*folder.glob("*.whl"), *(folder / name).glob("*.whl")])
    files = [link(Link(text=path.name, url=path.as_uri(), attrs={})) for path in paths]
    return [file for file in files if file.project and canonicalize_name(file.project) == name]


def _sha256(file: DistributionPackage) -> str | None:
    """The hash as the index tells it, or that of a file on this machine."""
    path = _local_path(file.url)
    if "sha256" in file.digests or not path or not path.is_file():
        return file.digests.get("sha256")
    return sha256_of(path)


def _with_login(url: str, location: str) -> str:
    """The index's user and password also serve its files, where they lie on the same host."""
    file, index = urlsplit(url), urlsplit(location)
    login, _, host = index.netloc.rpartition("@")
    if not login or file.netloc != host or file.scheme != index.scheme:
        return url
    return urlunsplit(file._replace(netloc=f"{login}@{host}"))


def _unreachable(url: str, error: Exception) -> NetworkError:
    reason = str(error).replace(url, without_login(url))
    return NetworkError(
        f"the Python package index {without_login(url)} cannot be asked: {reason}",
        rule="python-index", hint="check the network, or set python-index in the configuration or UENV_PYTHON_INDEX",
    )  # fmt: skip


def _read_uv_files() -> str | None:
    """The default index of uv's own configuration: the file of UV_CONFIG_FILE, else those of user and machine."""
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [configuration / "uv/uv.toml", Path("/etc/xdg/uv/uv.toml"), Path("/etc/uv/uv.toml")]
    if named := os.environ.get("UV_CONFIG_FILE"):
        files = [Path(named)]
    for file in filter(Path.is_file, files):
        try:
            settings = tomllib.loads(file.read_text(encoding="utf-8"))
            marked = [table["url"] for table in settings.get("index", []) if table.get("default")]
            found = [*marked, settings.get("index-url"), settings.get("pip", {}).get("index-url")]
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise _bad_file(file, error) from error
        if url := next(filter(None, found), None):
            return str(url)
    return None


def _read_pip_files() -> str | None:
    """`index-url` of pip's configuration: its files from the machine's to the one of PIP_CONFIG_FILE, the last wins.

    Where they lie, and that the null device switches them all off, is in the chapter "Configuration" of pip's manual.
    """
    named = os.environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return None
    home = Path.home()
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    site = [Path(folder) / "pip/pip.conf" for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)]
    user = [home / ".pip/pip.conf", configuration / "pip/pip.conf"]
    url = None
    for file in [*site, Path("/etc/pip.conf"), *user, Path(sys.prefix) / "pip.conf", *([Path(named)] if named else [])]:
        if not file.is_file():
            continue
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise _bad_file(file, error) from error
        for section in ("global", "install"):
            url = parser.get(section, "index-url", fallback=parser.get(section, "index_url", fallback=url))
    return url


def _bad_file(file: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{file} cannot be read, and it may name the Python package index: {error}",
        rule="python-index", hint="mend it, or set python-index in the configuration of uenv-builder",
    )  # fmt: skip
