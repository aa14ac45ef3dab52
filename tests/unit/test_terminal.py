"""Progress for people: timed lines in a log, bars on a terminal."""

import io
import re

from rich.console import Console

from uenv_builder.system.terminal import listener_for
from uenv_builder.system.terminal_bars import Bars
from uenv_builder.system.terminal_lines import Lines


def test_lines_are_timed_and_name_what_was_done():
    stream = io.StringIO()
    lines = Lines(stream)
    with lines.task("packing", 2_000_000) as task:
        task.advance(2_000_000)
    lines.note("a remark")
    shown = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[ +\d+\.\d s\] packing: 2\.0 MB, \d+\.\d s", shown[0])
    assert shown[1].endswith("s] a remark")
    assert "\x1b" not in stream.getvalue()


def test_lines_tell_rates_of_long_work(monkeypatch):
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr("uenv_builder.system.terminal_lines.time.monotonic", lambda: now[0])
    lines = Lines(stream)
    with lines.task("fetching", 40_000_000) as task:
        now[0] += 20
        task.advance(20_000_000)
    assert "fetching: 50 % 20.0 MB, 1.0 MB/s" in stream.getvalue()


def test_bars_show_sizes_only_where_they_are_known(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr("uenv_builder.system.terminal_bars.Console", lambda **_: console)
    bars = Bars()
    with bars.task("resolving"), bars.task("fetching", 3_000_000) as task:
        task.advance(1_500_000)
        bars._progress.refresh()
    bars.close()
    shown = stream.getvalue()
    assert "1.5/3.0 MB" in shown
    assert "? bytes" not in shown


def test_quiet_is_quiet(capsys):
    listener = listener_for(quiet=True, verbose=False)
    with listener.task("x", 3) as task:
        task.advance(3)
    listener.note("y")
    assert capsys.readouterr().err == ""


def test_a_log_gets_lines():
    assert isinstance(listener_for(quiet=False, verbose=False), Lines)
