"""What a URL is and how it may be shown, without what is needed to open one."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def is_local(url: str) -> bool:
    """Whether this is a file URL, which needs no network."""
    return url.lower().startswith("file:")


def public(url: str) -> str:
    """The URL without user and password; of what is no valid URL rather too little than a part of the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # reading it checks where the host ends: a password with a slash makes that wrong
    except ValueError:
        return url.rpartition("@")[2]
    if not parts.netloc and not is_local(url):
        return url.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
