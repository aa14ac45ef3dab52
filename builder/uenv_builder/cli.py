"""The command line: flags in, calls into `app`, exit codes out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from uenv_builder import __version__
from uenv_builder.app import (
    building,
    checking,
    doctor,
    executing,
    inspecting,
    new,
    rendering,
    site_command,
    storing,
    testing,
)
from uenv_builder.app import lock as locking
from uenv_builder.app.preparing import Prepared, prepare, select
from uenv_builder.app.recipes import find_recipe, load_recipe
from uenv_builder.commands import check as checks
from uenv_builder.commands import explain as explains
from uenv_builder.commands.shared import (
    DebugOption,
    ImageArgument,
    JobsOption,
    JsonOption,
    LabelArgument,
    OfflineOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    Run,
    SystemOption,
    UarchOption,
    VerboseOption,
    complain,
    verb,
)
from uenv_builder.core.digest import Document
from uenv_builder.model.errors import UenvError

app = typer.Typer(
    name="uenv",
    help="Build, lock and prove user environments for HPC and machine learning.",
    epilog="Verbs that are not listed here (image, repo, start, run, status ...) go to the site's own uenv command. "
    "Exit codes: 0 ok, 1 internal, 2 usage, 3 recipe invalid, 4 incompatible, 5 lock stale or hash mismatch, "
    "6 build failed, 7 a check failed, 8 inconclusive, 9 registry or network, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache_app = typer.Typer(help="The store of downloads and layers.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


def _prepared(
    run: Run, recipe: str, label: str | None, *, uarch: str | None, system: str | None, locked: bool
) -> Prepared:
    loaded = load_recipe(find_recipe(recipe, run.session.settings.recipe_path))
    selection = select(loaded, label=label, uarch=uarch, system=system)
    for finding in checking.check_recipe(loaded):
        run.session.listener.note(str(finding))
    lock = locking.require_lock(run.session, loaded, selection.uarch, locked=locked)
    return prepare(loaded, selection, lock)


@app.command(
    epilog="Examples: uenv build recipes/python-mpi/1.0; uenv build pytorch pytorch/2.14:v1@daint%gh200 --locked"
)
@verb
def build(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    output: OutputOption = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    locked: Annotated[bool, typer.Option("--locked", help="Fail when the lock is missing or stale.")] = False,
    offline: OfflineOption = False,
    no_test: Annotated[
        bool, typer.Option("--no-test", help="Do not run the checks; the image counts as untested.")
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001  (read by verb)
) -> int:
    """Lock where needed, build the squashfs and OCI images, write EDF and sbatch files, and test the image."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose, offline=offline, jobs=jobs) as run:
        prepared = _prepared(run, recipe, label, uarch=uarch, system=system, locked=locked)
        result = building.build(run.session, prepared, output=output, test=not no_test)
        run.show(result.document(), result.summary())
        return result.exit_code


app.command("check", epilog=checks.EPILOG)(verb(checks.check))


@app.command(
    epilog="Examples: uenv lock recipes/pytorch/2.14; uenv lock pytorch --upgrade numpy; uenv lock pytorch --check"
)
@verb
def lock(
    recipe: RecipeArgument,
    *,
    uarch: UarchOption = None,
    system: SystemOption = None,
    check_only: Annotated[bool, typer.Option("--check", help="Only say whether the locks fit; write nothing.")] = False,
    upgrade: Annotated[
        list[str] | None, typer.Option("--upgrade", help="Let this package move; may be repeated.")
    ] = None,
    upgrade_all: Annotated[bool, typer.Option("--upgrade-all", help="Let every package move.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Resolve a recipe to exact versions, sizes and hashes, for each of its node types (or the chosen one)."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        loaded = load_recipe(find_recipe(recipe, run.session.settings.recipe_path))
        chosen = select(loaded, uarch=uarch, system=system).uarch.name if uarch or system else None
        names = [chosen] if chosen else list(dict.fromkeys(target.uarch for target in loaded.recipe.targets))
        results: list[Document] = []
        for name in names:
            node_type = select(loaded, uarch=name).uarch
            if check_only:
                lock = locking.require_fresh(loaded, node_type)
            else:
                what = locking.Upgrade(everything=upgrade_all, names=frozenset(upgrade or ()))
                lock = locking.write_lock(run.session, loaded, node_type, upgrade=what)
            results.append(locking.describe(loaded, node_type, lock))
        lines = [
            f"{result['lock']}: {result['packages']} Debian packages, {result['wheels']} wheels, "
            f"{result['megabytes']} MB to download"
            for result in results
        ]
        run.show({"locks": results}, lines)


@app.command(epilog="Example: uenv plan recipes/pytorch/2.14 --json")
@verb
def plan(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    uarch: UarchOption = None,
    system: SystemOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Show the steps that a build takes, their ids, and which results the store already has."""
    with Run(as_json=as_json, quiet=True) as run:
        prepared = _prepared(run, recipe, label, uarch=uarch, system=system, locked=True)
        document = building.describe_plan(run.session, prepared)
        if as_json:
            run.show(document)
            return
        table = Table("step", "kind", "id", "stored", box=None)
        for step in document["steps"]:
            table.add_row(step["name"], step["kind"], step["id"][:16], "yes" if step["stored"] else "")
        run.console.print(table)
        run.console.print(f"plan {document['id']}", markup=False)


@app.command(epilog="Example: uenv render recipes/pytorch/2.14 --output environments/pytorch")
@verb
def render(
    recipe: RecipeArgument,
    label: LabelArgument = None,
    *,
    output: OutputOption = None,
    uarch: UarchOption = None,
    system: SystemOption = None,
    image: Annotated[str | None, typer.Option("--image", help="Where the image will lie, for the EDF.")] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write what users select: EDF files and the sbatch script; or print them, without --output."""
    with Run(as_json=as_json, quiet=True) as run:
        prepared = _prepared(run, recipe, label, uarch=uarch, system=system, locked=True)
        texts = rendering.render_user_files(prepared, image=image)
        if output:
            rendering.write_user_files(texts, output)
        shown = [f"{output / name}" for name in texts] if output else [
            f"# {name}\n{text}" for name, text in texts.items()
        ]  # fmt: skip
        run.show({"files": texts}, shown)


@app.command("test", epilog="Example: uenv test build/python-mpi-1.0-x86_64")
@verb
def check_image(
    image: ImageArgument,
    *,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Run the checks of a build inside its image again, and write the report beside it."""
    with Run(as_json=as_json, quiet=quiet, verbose=verbose) as run:
        report = testing.check_again(run.session, image)
        run.show(testing.report_document(report), testing.summary_lines(report))
        return testing.exit_code_of(report)


@app.command(
    "exec",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    epilog="Example: uenv exec build/python-mpi-1.0-x86_64 -- python3 -c 'import numpy; print(numpy.__version__)'",
)
@verb
def execute(
    image: ImageArgument,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND ...]", help="Default: a shell.")] = None,
    *,
    bind: Annotated[
        list[str] | None, typer.Option("--bind", help="SOURCE[:TARGET[:ro]] of this machine to show inside.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME[=VALUE]", help="A variable to set inside, over the image's; NAME alone: as here."
        ),
    ] = None,
    network: Annotated[bool, typer.Option("--network", help="Give it this machine's network.")] = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> int:
    """Run a command inside an image, with the image's own environment and a throw-away writable layer."""
    words = list(command or [])
    # Options end at IMAGE, so that the command's own reach it; the usual -- after it is only a mark.
    argv = words[1:] if words[:1] == ["--"] else words
    return executing.execute(image, argv, binds=bind or [], network=network, variables=variable or [])


@app.command(epilog="Example: uenv inspect build/pytorch-2.14-gh200 --json")
@verb
def inspect(image: ImageArgument, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Show what a build holds: versions, environment, layers, digests, and the result of its checks."""
    with Run(as_json=as_json, quiet=True) as run:
        document = inspecting.describe_build(image)
        run.show(document, inspecting.lines(document))


app.command("explain", epilog=explains.EPILOG)(verb(explains.explain))


@app.command("doctor", epilog="Example: uenv doctor")
@verb
def examine(*, as_json: JsonOption = False, debug: DebugOption = False) -> int:  # noqa: ARG001
    """Say what is missing on this machine, and the command that installs it."""
    with Run(as_json=as_json, quiet=True) as run:
        findings = doctor.examine(run.session)
        marks = {True: "ok     ", False: "missing"}
        lines = [
            f"{marks[finding.ok]} {finding.subject} (for {finding.need}): {finding.detail}"
            + (f"\n        -> {finding.remedy}" if finding.remedy else "")
            for finding in findings
        ]
        run.show({"findings": doctor.as_documents(findings)}, lines)
        return 0 if all(finding.ok for finding in findings) else 6


@app.command("new", epilog="Example: uenv new recipes/mine/1.0")
@verb
def start_recipe(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write recipe.yaml.")],
    *,
    system: Annotated[str, typer.Option("--system", help="The system that it is for.")] = "generic-x86_64",
    uarch: Annotated[str | None, typer.Option("--uarch", help="The node type; default: the system's first.")] = None,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Write a commented starter recipe."""
    path = new.write_starter(folder, system=system, uarch=uarch)
    sys.stdout.write(f"{path}\n")


@cache_app.command("info", epilog="Example: uenv cache info")
@verb
def cache_info(*, as_json: JsonOption = False, debug: DebugOption = False) -> None:  # noqa: ARG001
    """Show where the store is and how much it holds."""
    with Run(as_json=as_json, quiet=True) as run:
        document = storing.describe(run.session.store)
        run.show(document, storing.lines(document))


@cache_app.command("verify", epilog="Example: uenv cache verify")
@verb
def cache_verify(*, as_json: JsonOption = False, debug: DebugOption = False) -> int:  # noqa: ARG001
    """Read everything in the store, and drop what is damaged (exit code 5)."""
    with Run(as_json=as_json) as run:
        document = storing.verify(run.session)
        run.show(document, storing.damage_lines(document))
        return 5 if document["damaged"] else 0


@cache_app.command("gc", epilog="Example: uenv cache gc --max-size 50G --older-than 30")
@verb
def cache_gc(
    *,
    max_size: Annotated[str | None, typer.Option("--max-size", help="Keep at most this much, such as 50G.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Drop what was not used for so many days.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,  # noqa: ARG001
) -> None:
    """Remove leftovers, then the results and downloads that were used least recently; never what a build uses now."""
    with Run(as_json=as_json, quiet=True) as run:
        document = storing.collect(run.session.store, max_size=max_size, older_than_days=older_than)
        run.show(document, [f"removed {document['removed']} entries, {document['freed_bytes'] / 1e6:.1f} MB"])


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"uenv-builder {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def _verbs() -> list[str]:
    groups = [group.name for group in app.registered_groups]
    commands = [
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    ]
    return sorted(name for name in [*commands, *groups] if isinstance(name, str))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; verbs that are not ours become the site's own uenv."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((word for word in given if not word.startswith("-")), None)
    if asked is not None and asked not in _verbs():
        try:
            site_command.pass_on(asked, given, own=Path(sys.argv[0]), known=_verbs())
        except UenvError as error:
            complain(error.diagnostics, as_json=False)
            sys.exit(error.exit_code)
    app(args=given, prog_name="uenv")


if __name__ == "__main__":
    main()
