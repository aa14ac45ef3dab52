"""Where the parts of a pipeline run: runners by system and node type (knowledge/compat/ci_runners.yaml)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from uenv_builder.core.ci.targets import CiTarget
from uenv_builder.core.facts import FactFile, load_facts
from uenv_builder.core.systems import load_uarchs

Text = Annotated[str, Field(min_length=2)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Cluster(_Frozen):
    """A cluster that has runners, and their node type as the runners' names have it."""

    system: Text
    uarch: Text


class GitlabRunners(_Frozen):
    """The templates that CSCS's runners of GitLab are used by.

    `include` is the URL of the file that has them, `light` the one without Slurm, `image` what it runs in, `nodes` the
    name of those of the `clusters`. `stand_ins` are the clusters whose nodes run what was built for a node type, by
    that type's name.
    """

    include: Text
    light: Text
    image: Text
    nodes: Text
    clusters: tuple[Cluster, ...]
    stand_ins: dict[str, Cluster]


class GithubRunners(_Frozen):
    """GitHub's runners: `hosted` by machine, as `uname -m` prints it; `actions` by what they are for, with versions."""

    source: Text
    hosted: dict[str, str]
    actions: dict[str, str]


class Runners(FactFile):
    """The whole file."""

    gitlab: GitlabRunners
    github: GithubRunners


def load_runners() -> Runners:
    """What the builder knows of runners."""
    runners: Runners = load_facts("ci_runners", Runners)
    return runners


def gitlab_nodes(target: CiTarget, facts: GitlabRunners) -> str:
    """The template of the runner with nodes for `target`: its own cluster's, else a stand-in's.

    A system that is not listed gets the name that its runner would have: sites have more clusters than are documented.
    """
    own = Cluster(system=target.system, uarch=target.uarch)
    generic = target.system.startswith("generic-")
    cluster = facts.stand_ins.get(target.uarch, own) if generic and own not in facts.clusters else own
    return facts.nodes.format(system=cluster.system, uarch=cluster.uarch)


def github_labels(target: CiTarget, facts: GithubRunners) -> list[str]:
    """The labels of the runner for `target`: one of GitHub's for the generic systems that it has, else the site's own.

    A site's runner is a machine that submits to Slurm, with the system's name as its label.
    """
    machine = load_uarchs()[target.uarch].machine
    plain = target.system == f"generic-{machine}" and machine in facts.hosted
    return [facts.hosted[machine]] if plain else ["self-hosted", target.system]
