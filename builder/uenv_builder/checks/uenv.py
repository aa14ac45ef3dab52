"""The views of a uenv, applied as the uenv command does it on the machine's own files: what they lead to is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from uenv_builder.checks.interface import CheckContext, CheckKind, WantedCheck
from uenv_builder.checks.parameters import read_seconds
from uenv_builder.core.uenv_meta import PLACE, apply_views, read_env_json
from uenv_builder.model.errors import BuildError
from uenv_builder.model.report import CheckResult

_SECONDS = 300
_START = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""The environment of a session before a view."""
_FOLDERS = ("PATH", "LD_LIBRARY_PATH")
_SCRIPT = r"""
mount=$1; root=$2; shift 2
for folder; do [ -d "$folder" ] || echo "$folder: is not in the image"; done
for program in "$root"/bin/* "$root"/lib/*.so; do
    [ -e "$program" ] || { [ -h "$program" ] && echo "$program: leads nowhere"; continue; }
    ldd "$program" 2>/dev/null | sed -n "s|^[[:space:]]*\(.*\) => not found.*|$program: needs \1, which is not found|p"
done
"""
"""Prints a line for each fault; libraries are searched as in a session with the view."""
_SHOWN = 20


def run_views(ctx: CheckContext, wanted: Sequence[WantedCheck]) -> list[CheckResult]:
    """One result for all views of the image."""
    (check,) = wanted
    if ctx.mount is None:
        return [CheckResult(check=check.name, outcome="skipped", reason="the image is no uenv")]
    done = ctx.image.run_inside(["cat", f"{ctx.mount}/{PLACE}"], env=_START)
    if done.returncode != 0:
        return [CheckResult(check=check.name, outcome="failed", reason=f"the image has no {PLACE}")]
    try:
        meta = read_env_json(done.stdout)
    except BuildError as error:
        return [CheckResult(check=check.name, outcome="failed", reason=error.diagnostics[0].message)]
    faults = []
    for view in meta.views:
        environment = apply_views(meta, [view], _START)
        faults += [f"view {view}: {line}" for line in _faults(ctx, check, view, environment)]
    if not faults:
        return [CheckResult(check=check.name, outcome="passed", measured={"views": len(meta.views)})]
    return [
        CheckResult(
            check=check.name, outcome="failed", reason=faults[0], details=tuple(faults[:_SHOWN]),
        )
    ]  # fmt: skip


def _faults(ctx: CheckContext, check: WantedCheck, view: str, environment: Mapping[str, str]) -> list[str]:
    folders = [
        folder for name in _FOLDERS for folder in environment.get(name, "").split(":")
        if folder.startswith(f"{ctx.mount}/")
    ]  # fmt: skip
    words = ["sh", "-c", _SCRIPT, "sh", ctx.mount or "", f"{ctx.mount}/env/{view}", *folders]
    done = ctx.image.run_inside(words, env=environment, timeout=read_seconds(check, _SECONDS))
    failed = [f"could not be looked at: {done.stderr.strip()}"] if done.returncode else []
    return [*failed, *done.stdout.splitlines()]


UENV_CHECKS = {
    "uenv-views": CheckKind(
        proves="each view of a uenv, mounted on the machine's own files, leads to folders that are there, and to "
        "programs and libraries that find what they need",
        family=run_views, parameters={"timeout": "seconds for each view"},
    ),
}  # fmt: skip
"""By name."""
