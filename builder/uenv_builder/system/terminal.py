"""How progress is shown: bars on a terminal, plain timed lines in a log, nothing to those who want quiet."""

from __future__ import annotations

import sys

from uenv_builder.system.events import Listener, Silent
from uenv_builder.system.terminal_lines import Lines


def listener_for(*, quiet: bool, verbose: bool) -> Listener:
    """Bars on a terminal, timed lines elsewhere, nothing when `quiet`."""
    if quiet:
        return Silent()
    if verbose or not sys.stderr.isatty():
        return Lines(verbose=verbose)
    from uenv_builder.system.terminal_bars import Bars  # what draws is of no use to a log, and slow to import

    return Bars()
