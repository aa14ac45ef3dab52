"""How this machine reaches Debian's archive: its mirrors, the keyring that vouches for them, and the way there."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from uenv_builder.model.errors import MissingToolError, NetworkError, UsageError
from uenv_builder.system.process import run

_SETTING_HINT = (
    "name the folders or URLs that hold Debian's dists and pool in the environment's UENV_DEBIAN_MIRRORS "
    "(separated by blanks), or as debian-mirrors in uenv-builder's config.toml"
)
# The name that Debian 12 and older use comes first: newer releases of the package keep it as a link.
_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_TIMEOUTS = (10.0, 30.0)  # seconds to connect, and between two bytes
_TRANSPORT = re.compile(r"Acquire::(https?::|Retries |ForceIPv[46] )", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianMirrors:
    """The mirrors of one machine. They are never part of a lock: what comes from them is held to a hash.

    `roots` are URLs (http, https or file, without a trailing slash) below which `dists` and `pool` lie, in order of
    preference. `keyring` holds the OpenPGP keys of which one has to sign each Release file.
    """

    roots: tuple[str, ...]
    keyring: Path
    _found: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of_machine(cls, *, configured: Sequence[str] = (), keyring: Path | None = None) -> DebianMirrors:
        """The mirrors that a user chose, else those of this machine's apt; the keyring is Debian's own by default.

        `configured` (URLs or folders) comes first, then the environment's UENV_DEBIAN_MIRRORS. Without either, apt's
        sources count, Debian's archives before others. Raises UsageError for an address that cannot be one, and
        NetworkError where there is no mirror at all. Whether the keyring exists is seen when it is needed.
        """
        chosen = [*configured, *os.environ.get("UENV_DEBIAN_MIRRORS", "").split()]
        roots = _distinct(_to_root(text) for text in chosen) or _roots_of_apt()
        if not roots:
            raise NetworkError("this machine has no Debian mirror configured", rule="no-mirror", hint=_SETTING_HINT)
        default = next((path for path in _KEYRINGS if path.is_file()), _KEYRINGS[0])
        return cls(roots=roots, keyring=keyring.expanduser().absolute() if keyring else default)

    def find_suite(self, suite: str) -> str:
        """The first root that has `suite`, such as trixie-security; asked once. NetworkError if there is none."""
        if suite in self._found:
            return self._found[suite]
        tried = []
        with _open_session() as session:
            for root in self.roots:
                reason = _why_missing(session, f"{root}/dists/{suite}/InRelease")
                if reason is None:
                    self._found[suite] = root
                    return root
                tried.append(f"\n    {_without_password(root)}: {reason}")
        raise NetworkError(
            f'no Debian mirror has the suite "{suite}"; tried:{"".join(tried)}',
            rule="unknown-suite", hint=f"check the suite's name and its pockets; for another mirror, {_SETTING_HINT}",
        )  # fmt: skip

    def urls(self, path: str, *, suite: str | None = None) -> tuple[str, ...]:
        """Where the archive's file `path` (pool/...) may lie: one URL for each root, that of `suite` first if known."""
        first = self._found.get(suite) if suite else None
        roots = self.roots if first is None else (first, *(root for root in self.roots if root != first))
        return tuple(f"{root}/{quote(path, safe='/+~:')}" for root in roots)


def read_transport_settings() -> tuple[str, ...]:
    """How this machine's apt reaches servers, as lines of apt.conf(5): proxies, TLS, retries, files with passwords.

    Nothing else of the machine's configuration is in them. Raises MissingToolError where there is no apt.
    """
    dump = run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]).stdout
    lines = [line for line in dump.splitlines() if _TRANSPORT.match(line) and not line.endswith(' "";')]
    shown = run(["apt-config", "shell", "FILE", "Dir::Etc::netrc/f", "FOLDER", "Dir::Etc::netrcparts/d"]).stdout
    places = dict(word.split("=", 1) for word in shlex.split(shown))
    for key, option in (("FILE", "netrc"), ("FOLDER", "netrcparts")):
        # What is only root's to read makes apt fail for other users, although it may not even be about this server.
        if os.access(places.get(key, ""), os.R_OK):
            lines.append(f'Dir::Etc::{option} "{places[key]}";')
    return tuple(lines)


def _to_root(text: str) -> str:
    if re.search(r"\s", text) and "://" in text:
        raise UsageError(f"a mirror's URL holds blanks: {text!r}", rule="mirror-url", hint=_SETTING_HINT)
    if "://" not in text and not text.startswith("file:"):
        return Path(text).expanduser().absolute().as_uri()
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).as_uri()
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"not the URL of a Debian mirror: {_without_password(text)}", rule="mirror-url",
                         hint=_SETTING_HINT)  # fmt: skip
    return text.rstrip("/")


def _roots_of_apt() -> tuple[str, ...]:
    """Of the machine's own sources; the origin is known only where apt has fetched its lists before."""
    listing = ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(REPO_URI)"]
    try:
        fetched, all_known = run(listing).stdout, run([*listing, "--no-release-info"]).stdout
    except MissingToolError:
        return ()
    debian = [line for line in fetched.splitlines() if line.startswith("Debian\t")]
    addresses = [line.partition("\t")[2] for line in (*debian, *all_known.splitlines())]
    # cdrom:, mirror+file: and the like are apt's own methods, which nothing else can read from.
    return _distinct(_to_root(text) for text in addresses if re.match(r"(https?|file):", text))


def _distinct(roots: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(roots))


def _open_session() -> requests.Session:
    session = requests.Session()
    again = Retry(total=2, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session


def _why_missing(session: requests.Session, url: str) -> str | None:
    if url.startswith("file:"):
        return None if Path(unquote(urlsplit(url).path)).is_file() else "no such file"
    try:
        with session.get(url, stream=True, timeout=_TIMEOUTS) as answer:
            return None if answer.status_code == requests.codes.ok else f"HTTP {answer.status_code}"
    except requests.RequestException as error:
        return _without_password(str(error))


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", text)
