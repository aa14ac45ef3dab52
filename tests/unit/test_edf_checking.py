"""EDF files as `uenv check` meets them: on disk, with their bases, their variables, and from a batch script."""

import pytest

from uenv_builder.app.edf_checking import EdfOptions, find_in_edf
from uenv_builder.app.edf_files import EdfFolders, read_edf_variables
from uenv_builder.app.script_checking import ScriptOptions, find_in_script
from uenv_builder.model.errors import UsageError
from uenv_command import ROOT, Uenv

HOOKS = """\
[annotations]
com.hooks.aws_ofi_nccl.enabled = "true"
com.hooks.netstack.source = "artifact"
"""
IMAGE = 'image = "/capstor/images/pytorch.sqsh"\n'
BASE = IMAGE + HOOKS + '[env]\nNCCL_NET = "AWS Libfabric"\n'
JOB = 'base_environment = "base"\n[env]\nNCCL_NET_PLUGIN = "ofi"\n'
DAINT = EdfOptions(system="daint", network="hook-artifact")


@pytest.fixture
def edf(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "edf"
    folder.mkdir()
    monkeypatch.setenv("EDF_PATH", str(folder))

    def write(name, text):
        path = folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    write("base", BASE)
    return write


def verdicts(path, options=DAINT):
    return [(found.rule, found.severity, found.position.line, found.position.column)
            for found in find_in_edf(path, options)]  # fmt: skip


def test_variables_are_judged_together_with_those_of_bases(edf):
    path = edf("job", JOB)
    assert verdicts(path) == [("nccl-net-plugin", "error", 3, 1)]
    assert verdicts(edf("job", JOB.replace('NCCL_NET_PLUGIN = "ofi"', ""))) == []


def test_a_fault_of_a_base_is_told_at_its_place(edf):
    base = edf("base", BASE + 'FI_CXI_DEFALT_CQ_SIZE = "131072"\n')
    [found] = find_in_edf(edf("job", 'base_environment = "base"\n'), DAINT)
    assert (found.rule, found.position.file, found.position.line) == ("variable-unknown", str(base), 7)
    assert "FI_CXI_DEFAULT_CQ_SIZE" in found.hint


def test_values_in_quotes_are_told(edf):
    path = edf("job", "base_environment = 'base'\n[env]\nNCCL_NET = '\"AWS Libfabric\"'\n")
    assert "error" in {severity for _, severity, line, _ in verdicts(path) if line == 3}


def test_the_folders_of_names_differ_by_engine(edf, tmp_path, monkeypatch):
    monkeypatch.setenv("EDF_PATH", f"{tmp_path}/none:{tmp_path}/edf")
    assert EdfFolders("ce").find("base") == tmp_path / "edf/base.toml"
    assert EdfFolders("sarus").find("base") is None
    monkeypatch.chdir(tmp_path / "edf")
    assert EdfFolders("sarus").find("base.toml") is not None
    assert EdfFolders("ce").find("base.toml") is None
    monkeypatch.delenv("EDF_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EdfFolders("ce").folders == (f"{tmp_path}/.edf",)
    assert EdfFolders("sarus").folders == (f"{tmp_path}/.edf", "/etc/edf")


def test_variables_of_the_host_are_asked_for_on_request_only(edf, monkeypatch):
    path = edf("job", IMAGE.replace("/capstor/images", "${MY_IMAGES}") + HOOKS)
    monkeypatch.delenv("MY_IMAGES", raising=False)
    assert verdicts(path) == []
    host = EdfOptions(system="daint", network="hook-artifact", host_env=True)
    assert [rule for rule, *_ in verdicts(path, host)] == ["edf-variable"]
    monkeypatch.setenv("MY_IMAGES", "/capstor/images")
    assert verdicts(path, host) == []


def test_a_script_sees_the_variables_of_a_chain_of_files(edf, tmp_path):
    edf("job", JOB)
    assert read_edf_variables("job") == {"NCCL_NET": "AWS Libfabric", "NCCL_NET_PLUGIN": "ofi"}
    edf("lost", 'base_environment = "nowhere"\n[env]\nA = "1"\n')
    assert read_edf_variables("lost") is None
    script = tmp_path / "job.sbatch"
    text = "#!/bin/bash\n#SBATCH --nodes=2\nsrun --mpi=pmix --environment=middle python3 train.py\n"
    edf("middle", 'base_environment = "base"\n[env]\nFI_CXI_RDZV_PROTO = "alt_read"\n')
    script.write_text(text, encoding="utf-8")
    found = find_in_script(script, ScriptOptions(system="daint", network="hook-artifact"))
    assert [(finding.rule, finding.position.line) for finding in found] == [("srun-network", 3)]
    assert "set by the EDF middle" in found[0].message


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        find_in_edf(tmp_path / "none.toml", EdfOptions())
    (tmp_path / "a.toml").write_text(BASE, encoding="utf-8")
    with pytest.raises(UsageError, match="unknown system"):
        find_in_edf(tmp_path / "a.toml", EdfOptions(system="dain"))


def test_the_command_reads_edf_files(edf, tmp_path):
    uenv = Uenv(tmp_path, tmp_path / "cache")
    path = str(edf("job", JOB))
    outcome = uenv.run("check", path, "--system", "daint", "--network", "hook-artifact", "--json")
    assert outcome.code == 4
    assert outcome.document["edf"] == path
    assert [found["rule"] for found in outcome.document["diagnostics"]] == ["nccl-net-plugin"]
    outcome = uenv.run("check", path, "--dialect", "sarus")
    assert "edf-entrypoint" in outcome.stderr
    assert uenv.run("check", str(ROOT / "recipes/python-mpi/1.0"), "--dialect", "ce").code == 2
