"""Pipelines as text, from targets, facts about runners, and templates: the same input gives the same bytes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from uenv_builder.core.ci.runners import github_labels, gitlab_nodes, load_runners
from uenv_builder.core.ci.targets import NODES, CiTarget
from uenv_builder.core.sbatch import Template

Forge = Literal["gitlab", "github"]
_LOGIN = (
    'if [ -n "${DOCKER_AUTH_CONFIG:-}" ]; then export REGISTRY_AUTH_FILE="$(mktemp)"; '
    """trap 'rm -f "$REGISTRY_AUTH_FILE"' EXIT; """
    'printf %s "$DOCKER_AUTH_CONFIG" > "$REGISTRY_AUTH_FILE"; fi'
)
"""Credentials come as a text, which is how both forges keep secrets; mktemp's file is for its owner alone, and goes
when the shell ends."""
_SLURM = " --launcher slurm"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRequest:
    """What a pipeline is written from.

    `recipes` are the folders of all recipes, `places` those that they were found below. `uenv` is the command as jobs
    call it, `setup` lines of shell that come before, `watch` further paths that a change of starts the workflow.
    `output` is where the file will lie, as the command that writes it again says.
    """

    forge: Forge
    places: Sequence[str]
    recipes: Sequence[str]
    targets: Sequence[CiTarget]
    uenv: str
    setup: Sequence[str] = ()
    watch: Sequence[str] = ()
    output: str | None = None


def render_pipeline(request: PipelineRequest, template: Template) -> str:
    """The pipeline of a repository, from ci-gitlab.yml.j2 or ci-github.yml.j2."""
    facts = load_runners()
    shared = {
        "regenerate": _command(request), "source": _source(request.forge), "uenv": request.uenv,
        "targets": request.targets, "test_nodes": NODES,
    }  # fmt: skip
    lines: dict[str, Sequence[str]] = {
        "setup": request.setup,
        "login": [_LOGIN],
        "check": _check(request),
        "promote": _promote(request),
    }
    if request.forge == "gitlab":
        again = _command(request, images=True).removeprefix("uenv")
        lines["changed"] = [
            f"{_changed(request)} --json > changed.json",
            f"{request.uenv}{again} --only changed.json --output images.yml",
        ]
        quoted = {name: [quote(line) for line in found] for name, found in lines.items()}
        return template.render(**shared, **quoted, runners=facts.gitlab)
    labels = {target.id: github_labels(target, facts.github) for target in request.targets}
    slurm = {name: _SLURM if len(found) > 1 else "" for name, found in labels.items()}
    return template.render(
        **shared, **lines, actions=facts.github.actions, plain=facts.github.hosted["x86_64"], labels=labels,
        slurm=slurm, changed=_changed(request), watched=_watched(request),
    )  # fmt: skip


def render_images(request: PipelineRequest, template: Template) -> str:
    """The pipeline that builds `request.targets`, which another one starts, from ci-gitlab-images.yml.j2."""
    facts = load_runners()
    return template.render(
        regenerate=_command(request, images=True), source=_source("gitlab"), uenv=request.uenv,
        targets=request.targets, test_nodes=NODES, runners=facts.gitlab,
        setup=[quote(line) for line in (_LOGIN, *request.setup)],
        nodes={target.id: gitlab_nodes(target, facts.gitlab) for target in request.targets},
    )  # fmt: skip


def quote(line: str) -> str:
    """`line` as an entry of a YAML list: plain where it means itself there, else in double quotes."""
    try:
        plain = yaml.safe_load(f"- {line}") == [line]
    except yaml.YAMLError:
        plain = False
    return line if plain else json.dumps(line, ensure_ascii=False)


def _command(request: PipelineRequest, *, images: bool = False) -> str:
    words = ["uenv", "ci", "generate", "--for", request.forge]
    words += [word for place in request.places for word in ("--recipes", place)]
    words += ["--command", request.uenv] if request.uenv != "uenv" else []
    words += [word for line in request.setup for word in ("--setup", line)]
    if images:
        return shlex.join(words)
    words += [word for path in request.watch for word in ("--watch", path)]
    return shlex.join([*words, *(["--output", request.output] if request.output else [])])


def _source(forge: Forge) -> str:
    facts = load_runners()
    return facts.github.source if forge == "github" else f"{facts.source}, read {facts.read}"


def _changed(request: PipelineRequest) -> str:
    places = " ".join(f"--recipes {place}" for place in request.places)
    return f'{request.uenv} ci changed {places} --base "$UENV_BASE" --registry "registry:$UENV_REGISTRY"'


def _check(request: PipelineRequest) -> list[str]:
    """Everything is looked at before the job fails, so that one run tells all."""
    recipes = " ".join(request.recipes)
    locks = dict.fromkeys((target.recipe, target.uarch) for target in request.targets)
    return [
        f"{request.uenv} check {recipes} --format sarif > reports/check.sarif || code=$?",
        f"{request.uenv} check {recipes} --format junit > reports/check.xml || code=$?",
        *(f"{request.uenv} lock {recipe} --uarch {uarch} --check || code=$?" for recipe, uarch in locks),
    ]


def _promote(request: PipelineRequest) -> list[str]:
    return [
        f'{request.uenv} promote "registry:$UENV_REGISTRY/{target.repository}:'
        f'$({request.uenv} plan {target.recipe} {target.label} --on-target --id)" --channel "$UENV_CHANNEL" || code=$?'
        for target in request.targets
    ]


def _watched(request: PipelineRequest) -> list[str]:
    """Globs in quotes: a star at the beginning of a word means something else in YAML."""
    paths = [*(f"{place}/**" for place in request.places), *request.watch]
    paths += [request.output] if request.output else []
    return [json.dumps(path) for path in dict.fromkeys(paths)]
