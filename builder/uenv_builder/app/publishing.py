"""What is published: a build whose image is the one that it names, its label, and what its checks have proved."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from uenv_builder.app import outputs
from uenv_builder.app.outputs import BuiltImage, open_sound_build
from uenv_builder.core.digest import Document
from uenv_builder.core.label import Label
from uenv_builder.model.errors import CheckError, InconclusiveError, UsageError
from uenv_builder.model.report import Report
from uenv_builder.system.report_files import read_report

_HINT = 'run `uenv test {0}` where the image can run, or publish it with --untested "REASON"'
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is known of an image when it is published; it goes along with it.

    `outcome` is the report's, or `untested` where there is none. `untested` is the reason for which an image was
    published whose required checks did not all pass, and `open` are the names of those that did not.
    """

    outcome: str
    untested: str | None = None
    open: tuple[str, ...] = ()
    started: str | None = None
    ran_on: str | None = None
    emulated: bool | None = None

    def document(self) -> Document:
        """For files, and for --json."""
        return {**asdict(self), "open": list(self.open)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A build that may be published. Its image was just hashed: `build.digest` is the sha256 of `build.image`."""

    build: BuiltImage
    label: Label
    proof: Proof
    move: bool = False
    """Whether a label that names another image is moved to this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a build went: `destination` as it was asked for, a document for --json, and lines for people."""

    destination: str
    document: Document
    lines: tuple[str, ...] = field(default=())


def prepare_publication(path: Path, *, label: str | None, untested: str | None, move: bool) -> Publication:
    """The build at `path`, read and hashed, with its proof.

    Parts that `label` leaves out are those of the build's own label. Raises UsageError for what is no build, LockError
    where the image is another one, CheckError or InconclusiveError as `prove` does.
    """
    build = open_sound_build(path)
    return Publication(
        build=build, label=_completed(label, build), proof=prove(build, untested=untested), move=move
    )  # fmt: skip


def prove(build: BuiltImage, *, untested: str | None = None) -> Proof:
    """What the build's report proves of its image. Raises CheckError where a required check failed, and
    InconclusiveError where one did not come to a verdict, or there is no report on this image: `untested` is the reason
    to publish those all the same. What failed is never published.
    """
    if untested is not None and not 3 <= len(untested.strip()) <= _MAX_REASON:
        raise UsageError(
            f"--untested: {untested!r} is no reason", hint="say in a few words why the image is published untested"
        )
    report = report_on(build)
    if report is None:
        if untested is None:
            raise InconclusiveError(
                f"{build.folder}: there is no report on this image: it was not tested",
                rule="publish-untested", hint=_HINT.format(build.folder),
            )  # fmt: skip
        return Proof(outcome="untested", untested=untested)
    unproved = [result for result in report.results if result.required and result.outcome != "passed"]
    _refuse_failed(build, report)
    if unproved and untested is None:
        reasons = "; ".join(f"{result.check} is {result.outcome}: {result.reason}" for result in unproved)
        raise InconclusiveError(
            f"{build.folder}: required checks did not run: {reasons}", rule="publish-untested",
            hint=_HINT.format(build.folder),
        )  # fmt: skip
    return Proof(
        outcome=report.outcome, untested=untested if unproved else None,
        open=tuple(result.check for result in unproved),
        started=report.started, ran_on=report.ran_on, emulated=report.emulated,
    )  # fmt: skip


def report_on(build: BuiltImage) -> Report | None:
    """The report in the build's folder, if it is about the image that is there, under the plan that made it."""
    path = build.folder / outputs.REPORT
    if not path.is_file():
        return None
    try:
        report = read_report(path)
    except (ValueError, KeyError, TypeError) as error:
        raise InconclusiveError(
            f"{path}: is damaged: {error}", rule="publish-untested", hint=f"run `uenv test {build.folder}`"
        ) from error
    return report if report.image == build.digest else None


def _refuse_failed(build: BuiltImage, report: Report) -> None:
    failed = [result for result in report.results if result.required and result.outcome == "failed"]
    if failed:
        reasons = "; ".join(f"{result.check}: {result.reason}" for result in failed)
        raise CheckError(
            f"{build.folder}: required checks failed: {reasons}", rule="publish-failed",
            hint="repair the recipe and build again; a check that shall not decide gets `required: false` there",
        )  # fmt: skip


def _completed(label: str | None, build: BuiltImage) -> Label:
    own = Label.parse(build.manifest["label"])
    if label is None:
        return own
    asked = Label.parse(label)
    return Label(
        namespace=asked.namespace,
        name=asked.name or own.name,
        version=asked.version or own.version,
        tag=asked.tag or own.tag,
        system=asked.system or own.system,
        uarch=asked.uarch or own.uarch,
    )
