"""Runs the shell lines of generated pipelines as their runners do, with the machine's own bash, git and Slurm."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

EMPTY_SHELL = ["bash", "--noprofile", "--norc"]


@dataclass(frozen=True)
class Ended:
    code: int
    said: str


@dataclass(frozen=True)
class GitlabJob:
    """A job of GitLab with what it extends; templates of other files are names in `runners`."""

    name: str
    runners: tuple[str, ...]
    variables: Mapping[str, str]
    lines: tuple[str, ...]
    document: Mapping

    @property
    def nodes(self) -> int | None:
        """How many it gets of Slurm; None for one that runs without."""
        on_nodes = any(runner.startswith(".baremetal-runner-") for runner in self.runners)
        return int(self.variables["SLURM_JOB_NUM_NODES"]) if on_nodes else None


def gitlab_jobs(text: str) -> dict[str, GitlabJob]:
    """The jobs of a pipeline that run something, by name, in its order."""
    pipeline = yaml.safe_load(text)
    keywords = {"include", "stages", "variables"}
    names = [name for name in pipeline if name not in keywords and not name.startswith(".")]
    return {name: _gitlab_job(name, pipeline) for name in names if "script" in pipeline[name]}


def _gitlab_job(name: str, pipeline: Mapping) -> GitlabJob:
    extended, runners = _resolve(pipeline[name], pipeline)
    variables = {**pipeline.get("variables", {}), **extended.get("variables", {})}
    lines = (*extended.get("before_script", ()), *extended["script"])
    return GitlabJob(name, runners, variables, lines, extended)


def _resolve(job: Mapping, pipeline: Mapping) -> tuple[dict, tuple[str, ...]]:
    """GitLab merges mappings key by key, the later over the earlier, the job's own last."""
    names = job.get("extends", [])
    found: dict = {}
    runners: tuple[str, ...] = ()
    for name in [names] if isinstance(names, str) else names:
        if name in pipeline:
            below, more = _resolve(pipeline[name], pipeline)
            runners += more
        else:
            below, runners = {}, (*runners, name)
        found = _merge(found, below)
    return _merge(found, {key: value for key, value in job.items() if key != "extends"}), runners


def _merge(weaker: dict, stronger: Mapping) -> dict:
    merged = dict(weaker)
    for key, value in stronger.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def expand(text: str, env: Mapping[str, str]) -> str:
    """Variables in the values of variables, as GitLab replaces them before a job starts."""
    return re.sub(r"\$(\w+)", lambda match: env.get(match[1], match[0]), text)


def run_gitlab_job(job: GitlabJob, folder: Path, env: Mapping[str, str]) -> Ended:
    """Run it in `folder`: here, or as a batch job of Slurm on as many nodes as it asks for."""
    variables = {name: expand(str(value), env) for name, value in job.variables.items()}
    # What a pipeline is started with counts more than what its file says.
    job_env = {**os.environ, **{name: value for name, value in variables.items() if name not in env}, **env}
    script = folder / ".job.sh"
    script.write_text("#!/bin/bash\nset -eo pipefail\n" + "\n".join(job.lines) + "\n")
    if job.nodes is None:
        return _run([*EMPTY_SHELL, str(script)], folder, job_env)
    log = folder / ".job.log"
    log.unlink(missing_ok=True)
    job_env.pop("SLURM_JOB_NUM_NODES")
    batch = ["sbatch", "--wait", f"--nodes={job.nodes}", "--exclusive", f"--output={log}", str(script)]
    done = _run(batch, folder, job_env)
    return Ended(done.code, (log.read_text() if log.exists() else "") + done.said)


def github_scripts(text: str, job: str) -> dict[str, str]:
    """The scripts of a workflow's job by the names of their steps."""
    steps = yaml.safe_load(text)["jobs"][job]["steps"]
    return {step["name"]: step["run"] for step in steps if "run" in step}


def run_github_step(script: str, folder: Path, env: Mapping[str, str]) -> Ended:
    """Run it as GitHub's runner does for `shell: bash`."""
    file = folder / ".step.sh"
    file.write_text(script)
    return _run([*EMPTY_SHELL, "-eo", "pipefail", str(file)], folder, {**os.environ, **env})


def _run(command, folder: Path, env: Mapping[str, str]) -> Ended:
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL
    )
    return Ended(done.returncode, done.stdout + done.stderr)
