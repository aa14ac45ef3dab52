"""Logins at registries: credentials from the files that podman, skopeo and docker keep, and what registries ask for.

The files and their precedence are those of containers-auth.json(5), then docker's config.json; nothing is written, and
no message quotes what they hold.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import parse_http_list

import requests
from requests.auth import HTTPBasicAuth

from uenv_builder.core.image_reference import DOCKER_HUB, HUB_HOST
from uenv_builder.model.errors import MissingToolError, UsageError
from uenv_builder.system.process import run

_HUB_KEY = "index.docker.io"
_HUB_URL = "https://index.docker.io/v1/"
"""What docker calls Docker Hub in its own file, and what it asks its helpers for."""
_HUB_NAMES = {DOCKER_HUB, HUB_HOST, _HUB_KEY}
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS = 60.0
_TIMEOUTS = (15.0, 60.0)  # seconds to connect, and between two bytes
_NO_CREDENTIALS = "credentials not found"
"""How a helper says that it has none: docker-credential-helpers, credentials/error.go."""
_TOKEN_USER = "<token>"  # noqa: S105  (what helpers put in the user's place when the secret is an identity token)


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password, or an identity token in their place (empty otherwise); `source` is the file they are from."""

    user: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """What was found for one repository, and the files that were looked at, in their order."""

    credentials: Credentials | None
    files: tuple[Path, ...]

    @property
    def searched(self) -> str:
        """What was looked at, for a message."""
        if self.credentials:
            return f"as {self.credentials.user or 'the owner of a token'}, from {self.credentials.source}"
        return f"without credentials: none in {', '.join(map(str, self.files)) or 'any file'}"


def auth_files() -> tuple[Path, ...]:
    """Where this user's credentials may lie, the first to look at first; whether the files exist is not asked.

    $REGISTRY_AUTH_FILE, where it is set, is the only one.
    """
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        return (Path(named),)
    home = Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    docker = Path(os.environ.get("DOCKER_CONFIG") or home / ".docker")
    return (
        Path(runtime, "containers/auth.json"),
        configuration / "containers/auth.json",
        docker / "config.json",
    )


def find_login(registry: str, repository: str, *, files: Sequence[Path] | None = None) -> Login:
    """The credentials for `repository` of `registry` (a host with an optional port), in the first file that has some.

    Within a file a helper program of that registry is asked first, then the one for all registries, then the entry
    with the longest name that `registry/repository` begins with. Raises UsageError, rule `registry-auth`, for a file
    that cannot be read, and for a helper that is missing or fails.
    """
    looked_at = tuple(auth_files() if files is None else files)
    for path in looked_at:
        if (document := _read(path)) is not None and (found := _find(path, document, registry, repository)) is not None:
            return Login(found, looked_at)
    return Login(None, looked_at)


def read_challenges(header: str) -> dict[str, dict[str, str]]:
    """The challenges of a WWW-Authenticate header by their scheme in lower case (RFC 9110, section 11.6.1)."""
    challenges: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for item in parse_http_list(header):
        begin = re.match(r"([A-Za-z0-9-]+)(?:\s+|$)(?!=)", item)
        if begin is not None:
            current = challenges.setdefault(begin[1].lower(), {})
        name, _, value = (item[begin.end() :] if begin else item).partition("=")
        if name:
            current[name.strip().lower()] = value.strip().strip('"')
    return challenges


def ask_for_token(realm: str, asked: Mapping[str, str], credentials: Credentials | None) -> requests.Response:
    """The answer of a token service to `asked` (scope, service): distribution, docs/spec/auth/token.md and oauth.md."""
    if credentials is not None and credentials.identity_token:
        form = {**asked, "grant_type": "refresh_token", "client_id": "uenv-builder",
                "refresh_token": credentials.identity_token}  # fmt: skip
        return requests.post(realm, data=form, timeout=_TIMEOUTS)
    # Given as auth, not as a header: requests lets netrc(5) win over a header.
    login = HTTPBasicAuth(credentials.user.encode(), credentials.password.encode()) if credentials else None
    # Several scopes in one challenge are divided by blanks, and asked for one by one.
    query = [(name, part) for name, text in asked.items() for part in (text.split() if name == "scope" else [text])]
    return requests.get(realm, params=query, auth=login, timeout=_TIMEOUTS)


def basic_header(credentials: Credentials) -> str:
    """The Authorization header with user and password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{credentials.user}:{credentials.password}'.encode()).decode()}"


def _read(path: Path) -> Mapping[str, object] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise _bad(path, "it is not valid JSON") from error
    if not isinstance(document, dict):
        raise _bad(path, "it holds no JSON object")
    return document


def _find(path: Path, document: Mapping[str, object], registry: str, repository: str) -> Credentials | None:
    helpers = _table(path, document, "credHelpers")
    for key in _host_keys(registry):
        if helper := helpers.get(key):
            return _ask_helper(path, helper, _server(key))
    if store := document.get("credsStore"):
        found = _ask_helper(path, store, _server(registry))
        if found is not None:
            return found
    auths = _table(path, document, "auths")
    for key in _keys(auths, registry, repository):
        if (found := _decode(path, key, auths[key])) is not None:
            return found
    return None


def _table(path: Path, document: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = document.get(name) or {}
    if not isinstance(table, dict):
        raise _bad(path, f"its {name} is no JSON object")
    return table


def _host_keys(registry: str) -> tuple[str, ...]:
    return (*sorted(_HUB_NAMES), _HUB_URL) if registry in _HUB_NAMES else (registry,)


def _server(registry: str) -> str:
    return _HUB_URL if registry in _HUB_NAMES else registry


def _keys(auths: Mapping[str, object], registry: str, repository: str) -> Iterator[str]:
    """The keys of `auths` that cover the repository, the longest first, those of docker's older forms last."""
    host = _HUB_KEY if registry in _HUB_NAMES else registry
    parts = repository.split("/")
    covering = [f"{host}/{'/'.join(parts[:count])}".rstrip("/") for count in range(len(parts), -1, -1)]
    by_name: dict[str, list[str]] = {}
    for key in auths:
        by_name.setdefault(_normal(key), []).append(key)
    for name in covering:
        yield from sorted(by_name.get(name, ()), key=lambda key: "://" in key)


def _normal(key: str) -> str:
    """A key as host and path; one with a scheme is docker's, and means the whole host whatever its path."""
    scheme = re.match(r"https?://", key)
    host, slash, path = (key[scheme.end() :] if scheme else key).rstrip("/").partition("/")
    host = _HUB_KEY if host in _HUB_NAMES else host
    return host if scheme else f"{host}{slash}{path}"


def _decode(path: Path, key: str, entry: object) -> Credentials | None:
    if not isinstance(entry, dict):
        raise _bad(path, f"its entry for {key} is no JSON object")
    token, encoded = entry.get("identitytoken") or "", entry.get("auth") or ""
    if not encoded and not token:
        return None  # docker leaves an empty entry where a helper has the credentials
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise _bad(path, f"its entry for {key} is not user:password in base64") from error
    if encoded and not colon:
        raise _bad(path, f"its entry for {key} is not user:password in base64")
    return Credentials(user, password.strip("\0"), str(token), str(path))


def _ask_helper(path: Path, helper: object, server: str) -> Credentials | None:
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise _bad(path, f"{helper!r} is no name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = run([program, "get"], input=server, check=False, timeout=_HELPER_SECONDS, what=program)
    except MissingToolError as error:
        raise UsageError(
            f"{path} names the credential helper {helper}, and {program} is not on PATH", rule="registry-auth",
            hint=f"install {program}, or name a file with credentials in REGISTRY_AUTH_FILE",
        ) from error  # fmt: skip
    if done.returncode != 0:
        if _NO_CREDENTIALS in done.stdout + done.stderr:
            return None
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise _bad(path, f"its helper {program} failed for {server}: {reason[0] if reason else 'it said nothing'}")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, TypeError, KeyError) as error:
        raise _bad(path, f"its helper {program} answered with no credentials for {server}") from error
    source = f"{program}, which {path} names"
    return Credentials("", "", secret, source) if user == _TOKEN_USER else Credentials(user, secret, "", source)


def _bad(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path}: {reason}", rule="registry-auth",
                      hint="mend the file, or write it anew with `skopeo login REGISTRY`")  # fmt: skip
