"""Requests to registries that speak the OCI distribution specification 1.1: logins, redirections, what they refuse."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import requests
from requests.auth import AuthBase

from uenv_builder.core.image_reference import DOCKER_HUB, HUB_HOST, RegistryAccess
from uenv_builder.system.registry_auth import Login, ask_for_token, basic_header, find_login, read_challenges
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
_API = re.compile(r"(?P<root>https?://(?P<host>[^/]+))/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers|tags)/[^/?]+")
_LONGEST_WAIT = 60.0  # seconds; who is asked to wait longer had better come back later
_SHOWN = 300  # characters of what a registry says about an error
_ERROR_LIMIT = 1 << 16  # bytes of an error that are read

Json = dict[str, Any]


class RefusedError(GiveUpError):
    """A registry's no; `rule` and `hint` are for whoever reads the error in the end."""

    def __init__(self, reason: str, rule: str, hint: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.hint = hint


class RateLimitError(TryAgainError):
    """A registry that was asked too often, and says so."""


class RegistryAuth(AuthBase):
    """Logs in where a registry asks for it (RFC 6750 and 7617, with docker's token service), and reads its errors.

    Serves several threads and any number of repositories; a login counts for one of them. Requests raise RefusedError
    where the registry will not serve, and TryAgainError where it may later. `absence_is_an_answer` is for those who ask
    whether something is there: a 404 then comes back as it is.
    """

    def __init__(self, access: RegistryAccess, *, absence_is_an_answer: bool = False) -> None:
        self._access = access
        self._absence_is_an_answer = absence_is_an_answer
        self._lock = threading.Lock()
        self._headers: dict[tuple[str, str], str] = {}

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Called by requests for each request of a session, not for those that follow a redirection."""
        if (called := _API.match(request.url or "")) is not None:
            if called["kind"] == "manifests" and request.method in {"GET", "HEAD"}:
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
        if code == 404 and not self._absence_is_an_answer:
            return RefusedError(
                f"not found (HTTP 404){said(response)}", "image-not-found",
                "check the name, the tag and the digest; what was deleted from the registry needs another pin",
            )  # fmt: skip
        if code == 429:
            return _busy(response, host)
        return None


def _unauthorised(response: requests.Response, login: Login, host: str) -> RefusedError:
    name = DOCKER_HUB if host == HUB_HOST else host
    return RefusedError(
        f"unauthorised (HTTP {response.status_code}), asked {login.searched}{said(response)}",
        "registry-unauthorised",
        f"log in with `skopeo login {name}`, or check the name: many registries do not tell apart what is missing and "
        "what is private",
    )


def _busy(response: requests.Response, host: str) -> Exception:
    code, wait = response.status_code, asked_wait(response.headers.get("Retry-After"))
    if code != 429:
        return TryAgainError(f"HTTP {code} {response.reason}", wait)
    if wait is not None and wait > _LONGEST_WAIT:
        return rate_limit(f"{_many(response)}; asks to come back in {wait:,.0f} s", host)
    return RateLimitError(_many(response), wait)


def _many(response: requests.Response) -> str:
    return f"too many requests (HTTP 429){said(response)}"


def rate_limit(reason: str, host: str) -> RefusedError:
    """The error for a registry that was asked too often, and will not serve for long."""
    name = DOCKER_HUB if host == HUB_HOST else host
    return RefusedError(
        reason, "registry-rate-limit",
        f"try again later, log in with `skopeo login {name}` (users may ask more often), or set a mirror",
    )  # fmt: skip


def said(response: requests.Response) -> str:
    """What the registry itself says about the error, with a colon before it; empty where it says nothing."""
    try:
        errors = json.loads(response.raw.read(_ERROR_LIMIT, decode_content=True) or response.content)["errors"]
        text = "; ".join(str(error.get("message") or error["code"]) for error in errors)
    except Exception:  # noqa: BLE001  (whatever goes wrong here, the error itself is what matters)
        return ""
    text = "".join(sign if sign.isprintable() else "?" for sign in text[:_SHOWN])
    return f": {text}" if text else ""
