"""Requests to a registry that is written to: logged in, patient, each answer read as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, TypeVar

import requests

from uenv_builder.core.image_reference import ImageReference, Place, RegistryAccess
from uenv_builder.model.errors import NetworkError
from uenv_builder.system.download import backoff
from uenv_builder.system.events import Listener, Task
from uenv_builder.system.registry_login import RateLimitError, RefusedError, RegistryAuth, rate_limit, said
from uenv_builder.system.transfer import TRY_AGAIN, GiveUpError, TryAgainError, asked_wait, translated
from uenv_builder.system.urls import public

Result = TypeVar("Result")

_LIMIT = 64 << 20  # bytes of an answer that are read
_CHUNK = 1 << 16
_FOR_GOOD = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}


class Body(Protocol):
    """What a request sends: of a known size, read anew each time that it is sent."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answered; names in `headers` are looked up in any case. `url` is where it came from."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str


class RegistryClient:
    """Asks registries as `access` says, from any number of threads.

    `attempts` is how often something is tried without any progress; waits between them begin at `delay` seconds and
    double, where the registry does not say how long with Retry-After. `timeouts` are those for connecting and for each
    wait for bytes, in seconds. `jobs` is how many blobs are sent at once.
    """

    def __init__(
        self, access: RegistryAccess, listener: Listener, *, offline: bool = False, attempts: int = 5, jobs: int = 4,
        delay: float = 1.0, timeouts: tuple[float, float] = (15.0, 60.0),
    ) -> None:  # fmt: skip
        self.access = access
        self.jobs = jobs
        self._listener = listener
        self._offline = offline
        self._attempts = attempts
        self._delay = delay
        self._timeouts = timeouts
        self._auth = RegistryAuth(access, absence_is_an_answer=True)
        self._stopped = threading.Event()
        self._local = threading.local()

    def place(self, image: ImageReference) -> Place:
        """Where the repository of `image` is written to: at its registry itself, never at a mirror."""
        return self.access.places(image)[-1]

    def stop(self) -> None:
        """End all that this client does in any thread with KeyboardInterrupt; for good."""
        self._stopped.set()

    def check_stopped(self) -> None:
        """Raise KeyboardInterrupt once `stop` was called."""
        if self._stopped.is_set():
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """A remark for whoever listens."""
        self._listener.note(text)

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Tell whoever listens of work under way, `total` bytes of it."""
        return self._listener.task(title, total)

    def ask(
        self, method: str, url: str, expect: set[int], *, what: str, headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Answer:  # fmt: skip
        """The answer, whose status is one of `expect`; asked again as long as that may help.

        Raises NetworkError with the rule `registry-unauthorised`, `registry-rate-limit`, `registry-refused`,
        `registry-unreachable` or `offline`; `what` begins its message.
        """
        return self.patiently(what, url, lambda: self.ask_once(method, url, expect, headers=headers, body=body))

    def ask_once(
        self, method: str, url: str, expect: set[int], *, headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Answer:  # fmt: skip
        """As `ask`, once: raises TryAgainError for what may pass, GiveUpError for what will not."""
        if self._offline:
            raise RefusedError("is needed, and --offline forbids it", "offline", "run without --offline")
        with translated(), self._send(method, url, headers, body) as response:
            code = response.status_code
            if code in expect:
                return Answer(code, response.headers, _read(response), response.url)
            reason = f"HTTP {code} {response.reason}{said(response)}"
        if code in TRY_AGAIN or (code >= HTTPStatus.INTERNAL_SERVER_ERROR and code not in _FOR_GOOD):
            raise TryAgainError(reason, asked_wait(response.headers.get("Retry-After")))
        raise RefusedError(
            reason, "registry-refused", "ask those who run the registry what it takes, with what it said"
        )  # fmt: skip

    def patiently(
        self, what: str, url: str, work: Callable[[], Result], reached: Callable[[], int] = lambda: 0
    ) -> Result:
        """The result of `work`, tried again as long as it may help; `reached` says how far it has come."""
        failures = 0
        while True:
            self.check_stopped()
            before = reached()
            try:
                return work()
            except RefusedError as error:
                raise NetworkError(f"{what}: {error}", rule=error.rule, hint=error.hint) from error
            except GiveUpError as error:
                raise _unreachable(what, str(error)) from error
            except TryAgainError as error:
                failures = 1 if reached() > before else failures + 1
                if failures >= self._attempts:
                    raise _exhausted(what, url, error, failures) from error
                wait = backoff(failures, error.wait, self._delay)
                self.note(f"{what}: {error}; trying {public(url).partition('?')[0]} again in {wait:.1f} s")
            if self._stopped.wait(wait):
                raise KeyboardInterrupt

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | Body | None
    ) -> requests.Response:
        # A session is not for several threads at once.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = self._auth
        session: requests.Session = self._local.session
        # The digest is that of the bytes as they are stored: nothing may be unpacked on the way.
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        return session.request(method, url, headers=sent, data=body, stream=True, timeout=self._timeouts)


def _read(response: requests.Response) -> bytes:
    parts, count = [], 0
    while part := response.raw.read(_CHUNK, decode_content=False):
        parts.append(part)
        count += len(part)
        if count > _LIMIT:
            raise GiveUpError(f"answered with more than {_LIMIT >> 20} MiB")
    return b"".join(parts)


def _exhausted(what: str, url: str, error: TryAgainError, failures: int) -> NetworkError:
    times = f"({failures} attempt{'s' if failures > 1 else ''})"
    if isinstance(error, RateLimitError):
        limit = rate_limit(f"{error} {times}", public(url).split("/")[2])
        return NetworkError(f"{what}: {limit}", rule=limit.rule, hint=limit.hint)
    return _unreachable(what, f"{error} {times}")


def _unreachable(what: str, reason: str) -> NetworkError:
    return NetworkError(
        f"{what}: {reason}", rule="registry-unreachable",
        hint="check the network, the proxies (https_proxy) and the registry's name, and run the command again: "
        "what has arrived is not sent again",
    )  # fmt: skip
