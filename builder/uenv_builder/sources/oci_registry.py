"""Registries that speak the OCI distribution specification 1.1: where an image is served, logins, manifests, blobs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import requests
from requests.auth import AuthBase

from uenv_builder.core.image_reference import DOCKER_HUB, HUB_HOST, ImageReference, Place, RegistryAccess
from uenv_builder.model.errors import LockError, NetworkError, UenvError
from uenv_builder.sources.registry_auth import Login, ask_for_token, basic_header, find_login, read_challenges
from uenv_builder.system.download import Downloader, Shelf
from uenv_builder.system.events import Listener
from uenv_builder.system.transfer import GiveUpError, TryAgainError, asked_wait
from uenv_builder.system.urls import public

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_API = re.compile(r"(?P<root>https?://(?P<host>[^/]+))/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/[^/?]+")
_LONGEST_WAIT = 60.0  # seconds; who is asked to wait longer had better come back later
_TIMEOUTS = (15.0, 60.0)  # seconds to connect, and between two bytes
_SHOWN = 300  # characters of what a registry says about an error
_ERROR_LIMIT = 1 << 16  # bytes of an error that are read

Json = dict[str, Any]


class RefusedError(GiveUpError):
    """A registry's no; `rule` and `hint` are for whoever reads the error in the end."""

    def __init__(self, reason: str, rule: str, hint: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.hint = hint


class _RateLimitError(TryAgainError):
    pass


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index as it came: its sha256 (64 hex digits), size in bytes, media type, and what it says."""

    digest: str
    size: int
    media_type: str
    document: Json


class RegistryAuth(AuthBase):
    """Logs in where a registry asks for it (RFC 6750 and 7617, with docker's token service), and reads its errors.

    Serves several threads and any number of repositories; a login counts for one of them. Requests raise RefusedError
    where the registry will not serve, and TryAgainError where it may later.
    """

    def __init__(self, access: RegistryAccess) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._headers: dict[tuple[str, str], str] = {}

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Called by requests for each request of a session, not for those that follow a redirection."""
        if (called := _API.match(request.url or "")) is not None:
            if called["kind"] == "manifests":
                request.headers["Accept"] = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
            if (header := self._headers.get((called["root"], called["name"]))) is not None:
                request.headers["Authorization"] = header
        request.register_hook("response", self._judge)  # type: ignore[no-untyped-call]
        return request

    def _judge(self, response: requests.Response, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        called = _API.match(response.url)
        if called is not None and response.status_code == requests.codes.unauthorized:
            response = self._answer(response, called, kwargs)
        if response.is_redirect:
            self._check_redirection(response)
        elif called is not None and (failure := self._failure(response, called)) is not None:
            response.close()
            raise failure
        return response

    def _answer(self, response: requests.Response, called: re.Match[str], kwargs: Json) -> requests.Response:
        """What the registry says once it has been given what it asked for; the same as before if there is nothing."""
        header = self._authorise(response, called)
        if header is None:
            return response
        response.close()
        again = response.request.copy()
        again.headers["Authorization"] = header
        answer: requests.Response = response.connection.send(again, **kwargs)
        answer.history.append(response)
        answer.request = again
        return answer

    def _authorise(self, response: requests.Response, called: re.Match[str]) -> str | None:
        key, used = (called["root"], called["name"]), response.request.headers.get("Authorization")
        challenges = read_challenges(response.headers.get("WWW-Authenticate", ""))
        with self._lock:
            known = self._headers.get(key)
            if known is not None and known != used:
                return known  # another thread logged in meanwhile
            login = self._login(called)
            header = None
            if (bearer := challenges.get("bearer")) is not None:
                header = f"Bearer {self._fetch_token(bearer, login, called)}"
            elif "basic" in challenges and login.credentials and login.credentials.user:
                header = basic_header(login.credentials)
            if header is not None:
                self._headers[key] = header
            return header

    def _login(self, called: re.Match[str]) -> Login:
        return find_login(called["host"], called["name"], files=self._access.auth_files)

    def _fetch_token(self, challenge: Mapping[str, str], login: Login, called: re.Match[str]) -> str:
        """A token of docker's token service: distribution, docs/spec/auth/token.md and oauth.md."""
        realm = challenge.get("realm", "")
        if not self._access.allows(realm):
            raise GiveUpError(f"the registry sends logins to {public(realm)!r}, which is not safe")
        asked = {"scope": challenge.get("scope") or f"repository:{called['name']}:pull"}
        if service := challenge.get("service"):
            asked["service"] = service
        answer = ask_for_token(realm, asked, login.credentials)
        code = answer.status_code
        if code in {401, 403}:
            raise _unauthorised(answer, login, called["host"])
        if code == 429 or code >= 500:
            raise _busy(answer, called["host"])
        try:
            document = answer.json()
            token = document.get("token") or document["access_token"]
        except (ValueError, KeyError, AttributeError) as error:
            raise GiveUpError(f"{public(realm)} gave no token: HTTP {code}") from error
        return str(token)

    def _check_redirection(self, response: requests.Response) -> None:
        target = urljoin(response.url, response.headers.get("Location", ""))
        if response.url.startswith("https:") and not self._access.allows(target):
            response.close()
            raise GiveUpError(f"leads to {public(target)}, which is not https")

    def _failure(self, response: requests.Response, called: re.Match[str]) -> Exception | None:
        code, host = response.status_code, called["host"]
        if code in {401, 403}:
            return _unauthorised(response, self._login(called), host)
        if code == 404:
            return RefusedError(
                f"not found (HTTP 404){_said(response)}", "image-not-found",
                "check the name, the tag and the digest; what was deleted from the registry needs another pin",
            )  # fmt: skip
        if code == 429:
            return _busy(response, host)
        return None


class Registries(Downloader):
    """A Downloader that logs in to registries as `access` says; the other arguments are those of Downloader."""

    def __init__(
        self,
        access: RegistryAccess,
        shelf: Shelf,
        listener: Listener,
        *,
        offline: bool = False,
        attempts: int = 5,
        jobs: int = 4,
        delay: float = 1.0,
        timeouts: tuple[float, float] = _TIMEOUTS,
        mirrors: Sequence[str] = (),
    ) -> None:
        super().__init__(
            shelf, listener, offline=offline, attempts=attempts, jobs=jobs, delay=delay, timeouts=timeouts,
            mirrors=mirrors,
        )  # fmt: skip
        self.access = access
        self._auth = RegistryAuth(access)

    def read_manifest(self, image: ImageReference, reference: str) -> Manifest:
        """The manifest or index `reference` (a tag, or sha256:...) of the repository of `image`, its digest verified.

        Raises NetworkError, by its rule `image-not-found`, `registry-unauthorised`, `registry-rate-limit`, `offline` or
        `registry-unreachable`, and LockError, rule `hash-mismatch`, where the registry has another content.
        """
        content = self._read(image, "manifests", reference)
        document: Json = json.loads(content)
        return Manifest(hashlib.sha256(content).hexdigest(), len(content), _media_type(document), document)

    def read_config(self, image: ImageReference, digest: str) -> Json:
        """The config of an image, by its sha256 (64 hex digits), which is verified. Raises as `read_manifest`."""
        config: Json = json.loads(self._read(image, "blobs", f"sha256:{digest}"))
        return config

    def _read(self, image: ImageReference, kind: str, reference: str) -> bytes:
        """A JSON object, from the first place that serves it."""
        refusals: list[tuple[Place, RefusedError]] = []
        for place in self.access.places(image):
            try:
                content = self.get_bytes(place.url(kind, reference))
                _check_document(content, reference)
            except RefusedError as refusal:
                refusals.append((place, refusal))
            except NetworkError as error:
                if error.diagnostics[0].rule == "offline":
                    raise
                refusals.append((place, _as_refusal(error, place)))
            else:
                return content
        raise _refused(str(image), refusals)

    def _session(self) -> requests.Session:
        session = super()._session()
        session.auth = self._auth
        return session


def _refused(what: str, refusals: Sequence[tuple[Place, RefusedError]]) -> UenvError:
    """The error for an image that no place serves; what the registry itself says comes last and names the remedy."""
    last = refusals[-1][1]
    reasons = "".join(f"\n    {place}: {refusal}" for place, refusal in refusals)
    kind = LockError if last.rule == "hash-mismatch" else NetworkError
    return kind(f"{what} cannot be read:{reasons}", rule=last.rule, hint=last.hint)


def _unauthorised(response: requests.Response, login: Login, host: str) -> RefusedError:
    name = DOCKER_HUB if host == HUB_HOST else host
    return RefusedError(
        f"unauthorised (HTTP {response.status_code}), asked {login.searched}{_said(response)}",
        "registry-unauthorised",
        f"log in with `skopeo login {name}`, or check the name: many registries do not tell apart what is missing and "
        "what is private",
    )


def _busy(response: requests.Response, host: str) -> Exception:
    code, wait = response.status_code, asked_wait(response.headers.get("Retry-After"))
    if code != 429:
        return TryAgainError(f"HTTP {code} {response.reason}", wait)
    if wait is not None and wait > _LONGEST_WAIT:
        return _rate_limit(f"{_many(response)}; asks to come back in {wait:,.0f} s", host)
    return _RateLimitError(_many(response), wait)


def _many(response: requests.Response) -> str:
    return f"too many requests (HTTP 429){_said(response)}"


def _rate_limit(reason: str, host: str) -> RefusedError:
    name = DOCKER_HUB if host == HUB_HOST else host
    return RefusedError(
        reason, "registry-rate-limit",
        f"try again later, log in with `skopeo login {name}` (users may ask more often), or set a mirror",
    )  # fmt: skip


def _said(response: requests.Response) -> str:
    """What the registry itself says about the error, with a colon before it; empty where it says nothing."""
    try:
        errors = json.loads(response.raw.read(_ERROR_LIMIT, decode_content=True) or response.content)["errors"]
        text = "; ".join(str(error.get("message") or error["code"]) for error in errors)
    except Exception:  # noqa: BLE001  (whatever goes wrong here, the error itself is what matters)
        return ""
    text = "".join(sign if sign.isprintable() else "?" for sign in text[:_SHOWN])
    return f": {text}" if text else ""


def _check_document(content: bytes, reference: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if reference.startswith("sha256:") and reference != f"sha256:{found}":
        raise RefusedError(
            f"has sha256 {found}, expected {reference.removeprefix('sha256:')}", "hash-mismatch",
            "the registry, a mirror or a proxy changes what it serves: ask another one",
        )  # fmt: skip
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise RefusedError(
            "is not the JSON of an image", "registry-unreachable",
            "something between here and the registry answers in its place: check proxies, and the registry's name",
        )  # fmt: skip


def _as_refusal(error: NetworkError, place: Place) -> RefusedError:
    """The registry's own reason, which `Downloader` wraps in an error about files and mirrors."""
    cause = error.__cause__
    if isinstance(cause, RefusedError):
        return cause
    if cause is not None and isinstance(cause.__cause__, _RateLimitError):
        return _rate_limit(str(cause), place.host)
    return RefusedError(
        str(cause or error), "registry-unreachable",
        f"check the network, the proxies (https_proxy) and the name of the registry {place.host}, or set a mirror",
    )  # fmt: skip


def _media_type(document: Json) -> str:
    """The media type that a manifest names, else (it may leave that out) the one that its content shows."""
    if isinstance(named := document.get("mediaType"), str):
        return named
    if isinstance(document.get("manifests"), list):
        return INDEX_TYPES[0]
    if document.get("schemaVersion") == 1:
        return "application/vnd.docker.distribution.manifest.v1+json"
    return MANIFEST_TYPES[0]
