"""Text as XML can hold it."""

from __future__ import annotations

import re

# What XML 1.0 cannot hold, not even escaped (section 2.2).
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """`text` with U+FFFD in place of every character that XML 1.0 cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)
