from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uenv_builder.core.batch.options import Grammar, parse_options, slurm_grammar
from uenv_builder.core.batch.rules import RULES, BatchContext, check_batch_script, read_batch_script, runtime
from uenv_builder.core.batch.shell import read_shell
from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.core.systems import load_systems

ROOT = Path(__file__).parents[2]
GENERATED = sorted(ROOT.glob("environments/*/sbatch.sh"))
TWO = "#!/bin/bash\n#SBATCH --nodes=2\n"
FOUR_EACH = f"{TWO}#SBATCH --ntasks-per-node=4\n"
ALT = f"{TWO}export FI_CXI_RDZV_PROTO=alt_read\n"
EDFS = {
    "alt": {"FI_CXI_RDZV_PROTO": "alt_read"}, "plain": {"A": "edf"}, "/edf/alt.toml": {"FI_CXI_RDZV_PROTO": "alt_read"},
    "default": {"FI_CXI_RDZV_PROTO": "default"},
}  # fmt: skip


def context_of(system=None, network=None):
    known = load_systems().get(system)
    return BatchContext(system=known, network=network, read_edf=EDFS.get)


def check(script, system=None, network=None):
    content = script if isinstance(script, bytes) else script.encode()
    return check_batch_script(content, "job.sbatch", context_of(system, network))


def verdicts(script, system=None, network=None):
    found = check(script, system, network)[1]
    return [(each.rule, each.position.line, each.position.column) for each in found]


GOOD = {
    "docs-example": "#!/bin/bash\n#SBATCH --job-name=a\n#SBATCH --time=1\n\nsrun --environment=ubuntu cat /etc/os\n",
    "uenv": "#!/bin/bash\n#SBATCH --uenv=editors/24.7:v2\n#SBATCH --view=editors:ed\nsrun -n4 ./a\n"
    "srun -n4 --uenv=prgenv-gnu --view=default ./b\n",
    "python-script": "#!/usr/bin/env python3\n#SBATCH -N 2\nimport os\nos.system('srun --view=a x')\n",
    "split-options": TWO + "export FI_CXI_RDZV_PROTO=alt_read\nsrun $OPTIONS python3 x.py\n",
    "array-of-options": ALT + 'srun "${options[@]}" python3 x.py\n',
    "network-exported": ALT + "export SLURM_NETWORK=disable_rdzv_get\nsrun python3 x.py\n",
    "network-before-srun": ALT + "SLURM_NETWORK=no_vni,disable_rdzv_get srun python3 x.py\n",
    "network-of-job": "#!/bin/bash\n#SBATCH -N2 --network=disable_rdzv_get\n"
    "export FI_CXI_RDZV_PROTO=alt_read\nsrun --network=no_vni python3 x.py\n",
    "network-unknown": ALT + 'srun --network="$NETWORK" python3 x.py\n',
    "network-list": ALT + "srun --network=no_vni,disable_rdzv_get python3 x.py\n",
    "alt-read-in-branch": TWO + "if [ -n $A ]; then export FI_CXI_RDZV_PROTO=alt_read; fi\nsrun python3 x.py\n",
    "alt-read-in-subshell": TWO + "(export FI_CXI_RDZV_PROTO=alt_read; true)\nsrun python3 x.py\n",
    "alt-read-unset": ALT + "unset FI_CXI_RDZV_PROTO\nsrun python3 x.py\n",
    "alt-read-not-exported": TWO + "FI_CXI_RDZV_PROTO=alt_read\nsrun python3 x.py\n",
    "alt-read-after": TWO + "srun python3 x.py\nexport FI_CXI_RDZV_PROTO=alt_read\n",
    "alt-read-one-node": "#!/bin/bash\n#SBATCH -N1\nexport FI_CXI_RDZV_PROTO=alt_read\nsrun -n4 python3 x.py\n",
    "alt-read-hostname": ALT + "srun hostname\n",
    "edf-taken-back": TWO + "srun --environment=alt sh -c 'export FI_CXI_RDZV_PROTO=default; python3 x.py'\n",
    "mpi": TWO + "srun --mpi=pmix --environment=a osu_bw\nexport SLURM_MPI_TYPE=pmix\nsrun --environment=a osu_bw\n",
    "mpi-on-host": TWO + "srun ./osu_bw\n",
    "torchrun-is-no-mpi": TWO + "srun --ntasks-per-node=1 --environment=a torchrun --nproc-per-node=4 $ARGS x.py\n",
    "paths": '#!/bin/sh\nsrun --environment="$HOME/.edf/x.toml" a\nsrun --environment ~/x.toml a\nsrun --edf /x a\n',
    "folder-is-fixed": "#!/bin/sh\n#SBATCH -D /scratch/me\nsrun --environment=./x.toml a\n",
    "folder-is-changed": '#!/bin/sh\ncd "$SCRATCH"\nsrun --environment=./x.toml a\n',
    "image-path": "#!/bin/sh\nsrun --container-image=./a.sqsh a\nsrun --container-image=/x/a.sqsh a\n",
    "heredoc": "#!/bin/bash\ncat > job.sh <<'EOF'\n#!/bin/bash\n#SBATCH --nodes=2\nsrun --view=a x\nEOF\n",
    "torchrun": FOUR_EACH + 'srun --ntasks-per-node=1 torchrun --nnodes=2 --nproc-per-node=4 --master-addr="$M" x.py\n',
    "master-addr-outside": TWO + 'export MASTER_ADDR=$(hostname)\nsrun sh -c "torchrun --master-addr=$(hostname) x"\n',
    "python-before-srun": TWO + "python3 prepare.py\nsrun python3 train.py\n",
    "python-tools": TWO + "python3 -m venv v\npython3 --version\npython3 -c 'print(1)'\n",
    "abbreviated": "#!/bin/bash\n#SBATCH --job=a --ntasks-per-n=4 -J b -N2 --exclusive # comment (1)\nsrun -ul a\n",
    "quoted": "#!/bin/bash\n#SBATCH --comment=\"two words\" --output='a b'\nsrun a\n",
    "directives-on-two-lines": "#!/bin/bash\n#SBATCH --nodes\n#SBATCH 2\nsrun a\n",
    "plain-comment": "#!/bin/bash\n##SBATCH --nodse=2\n# SBATCH --foo\nsrun a\n",
    "continued": "#!/bin/bash\nsrun \\\n  --mpi=pmix \\\n  --environment=a \\\n  b\n",
    "srun-in-uenv": "#!/bin/bash\nsrun --uenv=a bash -c 'sbatch next.sh'\n",
    "submits": "#!/bin/bash\n#SBATCH --uenv=a\nsbatch --uenv-passthrough=ignore next.sh\n",
    "scontrol-inside": TWO + "srun --environment=a bash -c 'scontrol show hostnames; python3 x.py'\n",
    "cpus": "#!/bin/bash\n#SBATCH -c 72\nsrun -c 72 a\nSRUN_CPUS_PER_TASK=72 srun a\n",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_script_is_clean(name):
    assert verdicts(GOOD[name]) == []


BAD = [
    # The file itself
    ("", [("batch-shebang", 1, 1)]),
    ("echo a\n", [("batch-shebang", 1, 1)]),
    ("\n#!/bin/bash\necho a\n", [("batch-shebang", 1, 1)]),
    ("\ufeff#!/bin/bash\necho a\n", [("batch-shebang", 1, 1)]),
    ("#!/bin/bash\r\nsrun \\\r\n  --mpi=pmix \\\r\n  a\r\n", [("batch-line-ends", 1, 12)]),
    ("#!/bin/bash\necho \0\n", [("batch-nul", 2, 6)]),
    ("#!/bin/bash\nsrun a \\ \n  --mpi=pmix b\n", [("batch-continuation", 3, 3)]),
    ("#!/bin/bash\nsrun a \\ # (1)\n  --mpi=pmix\n", [("batch-continuation", 3, 3)]),
    # Directives
    ("#!/bin/bash\n#SBATCH --nodse=2\n", [("sbatch-option", 2, 9)]),
    ("#!/bin/bash\n#SBATCH -N 2 --mpi=pmix\n", [("sbatch-option", 2, 14)]),
    ("#!/bin/bash\n#SBATCH -y\n", [("sbatch-option", 2, 9)]),
    ("#!/bin/bash\n#SBATCH --nodes=2 (1)\n", [("sbatch-directive", 2, 19)]),
    ("#!/bin/bash\n#SBATCH nodes=2\n", [("sbatch-directive", 2, 9)]),
    ("#!/bin/bash\n#SBATCH --comment='a b\n", [("sbatch-directive", 2, 1)]),
    ("#!/bin/bash\n#SBATCH -A a --time\n", [("sbatch-directive", 2, 14)]),
    ("#!/bin/bash\necho ö; srun a\n#SBATCH -N2\n", [("sbatch-directive-ignored", 3, 1)]),
    ("#!/bin/bash\n  #SBATCH -N2\nsrun a\n", [("sbatch-directive-ignored", 2, 3)]),
    ("#!/bin/bash\n#sbatch -N2\nsrun a\n", [("sbatch-directive-ignored", 2, 1)]),
    ("#!/bin/bash\n#SBATCH -o ${SCRATCH}/%j\n", [("sbatch-variable", 2, 9)]),
    (
        "#!/bin/bash\n#SBATCH --environment=a\nsrun b\nsrun --environment=a b\n",
        [("sbatch-environment", 2, 9), ("srun-nested-environment", 4, 6)],
    ),
    ("#!/bin/bash\n#SBATCH -N2 --edf=a\nsrun b\n", [("sbatch-environment", 2, 13)]),
    ("#!/bin/bash\n#SBATCH --container-image=ubuntu\n", [("sbatch-environment", 2, 9)]),
    # The network
    (ALT + "srun python3 x.py\n", [("srun-network", 4, 1)]),
    (ALT + 'srun "$@"\n', [("srun-network", 4, 1)]),
    (ALT + "srun --network=no_vni python3 x.py\n", [("srun-network", 4, 1)]),
    (ALT + "export SLURM_NETWORK=disable_rdzv_get\nsrun --network no_vni python3 x\n", [("srun-network", 5, 1)]),
    (ALT + "for i in 1 2; do\n  srun -n8 a & done; wait\n", [("srun-network", 5, 3)]),
    (TWO + "FI_CXI_RDZV_PROTO=alt_read srun python3 x.py\n", [("srun-network", 3, 28)]),
    (TWO + "FI_CXI_RDZV_PROTO='alt_'read\nexport FI_CXI_RDZV_PROTO\nsrun python3 x.py\n", [("srun-network", 5, 1)]),
    (TWO + "x=$(srun --environment=alt python3 x.py)\n", [("srun-network", 3, 5)]),
    (TWO + "timeout -k 5 60 srun --environment /edf/alt.toml python3 x.py\n", [("srun-network", 3, 17)]),
    (TWO + "srun bash -c 'export FI_CXI_RDZV_PROTO=alt_read; python3 x'\n", [("srun-network", 3, 1)]),
    # MPI
    (TWO + "srun --environment=a osu_bw H H\n", [("srun-mpi", 3, 1)]),
    (TWO + "srun --edf=a /nccl-tests/build/all_reduce_perf -b 8\n", [("srun-mpi", 3, 1)]),
    (TWO + "srun --environment=a bash -c 'exec python3 -m mpi4py x.py'\n", [("srun-mpi", 3, 1)]),
    (TWO + "srun --environment=a --mpi=pmi2 osu_bw\n", [("srun-mpi-type", 3, 22)]),
    # Paths
    ("#!/bin/sh\nsrun --environment=my.toml a\n", [("srun-environment-path", 2, 6)]),
    ("#!/bin/sh\nsrun -n1 --environment sub/x.toml a\n", [("srun-environment-path", 2, 10)]),
    ("#!/bin/sh\nsrun --environment=sub/x a\n", [("srun-environment-path", 2, 6)]),
    ("#!/bin/sh\nsrun --environment=./x.toml a\n", [("srun-environment-path", 2, 6)]),
    ("#!/bin/sh\nsrun --environment=~/x.toml a\n", [("srun-environment-path", 2, 6)]),
    ("#!/bin/sh\nsrun --environment=x.sqsh a\n", [("srun-image-path", 2, 6)]),
    ("#!/bin/sh\nsrun --container-image=x.sqsh a\n", [("srun-image-path", 2, 6)]),
    # Containers and uenvs
    (
        '#!/bin/sh\nsrun --environment=x bash -c "\n  echo ü \\$A \\"$B\\"; srun b\n"\n',
        [("srun-in-container", 3, 22)],
    ),
    ("#!/bin/sh\nsrun --environment=x sbatch next.sh\n", [("srun-in-container", 2, 22)]),
    ("#!/bin/sh\nsrun --uenv=a --environment=b c\n", [("srun-uenv-environment", 2, 15)]),
    ("#!/bin/sh\n#SBATCH --view=a\nsrun c\n", [("uenv-view", 2, 9)]),
    ("#!/bin/sh\n#SBATCH --uenv=a\nsrun --view=b c\n", [("uenv-view", 3, 6)]),
    ("#!/bin/sh\n#SBATCH --uenv=a\nsbatch next.sh\n", [("sbatch-in-uenv", 3, 1)]),
    ("#!/bin/sh\nuenv start a --view=b\n", [("uenv-start", 2, 1)]),
    # torch
    (FOUR_EACH + "srun torchrun --nproc_per_node 4 $A x.py\n", [("torchrun-ranks", 4, 6)]),
    (FOUR_EACH + "srun python -m torch.distributed.run --nproc-per-node=gpu x.py\n", [("torchrun-ranks", 4, 6)]),
    (TWO + "srun -n8 bash -c 'torchrun --nproc-per-node=4 x.py'\n", [("torchrun-ranks", 3, 19)]),
    (TWO + "srun torchrun --nnodes=2 --rdzv-endpoint=localhost:29500 x\n", [("rendezvous-localhost", 3, 26)]),
    (TWO + "srun torchrun --nnodes=2 --master_addr 127.0.0.1 x\n", [("rendezvous-localhost", 3, 26)]),
    (TWO + "srun torchrun --standalone x.py\n", [("rendezvous-localhost", 3, 15)]),
    (TWO + "srun torchrun --nnodes=2 --nproc-per-node=4 x.py\n", [("rendezvous-localhost", 3, 6)]),
    (TWO + "export MASTER_ADDR=localhost\nsrun a\nsrun b\n", [("rendezvous-localhost", 3, 8)]),
    (TWO + "srun sh -c 'MASTER_ADDR=$(hostname) python3 x'\n", [("rendezvous-own-host", 3, 13)]),
    (TWO + 'srun sh -c "torchrun --rdzv-endpoint=\\$(hostname):1 x"\n', [("rendezvous-own-host", 3, 22)]),
    # One node of several
    (TWO + "torchrun --nproc-per-node=4 x.py\n", [("batch-one-node", 3, 1)]),
    (TWO + "exec python3 train.py\n", [("batch-one-node", 3, 6)]),
    (TWO + "mpirun -n 8 ./a\n", [("batch-one-node", 3, 1)]),
    # CPUs
    ("#!/bin/bash\n#SBATCH --cpus-per-task=72\nsrun a\nsrun b\n", [("srun-cpus-per-task", 3, 1)]),
]


@pytest.mark.parametrize(("script", "expected"), BAD)
def test_a_bad_script_is_named_by_rule_line_and_column(script, expected):
    assert verdicts(script) == expected


def test_every_rule_has_its_story_and_fires_in_a_test():
    stories = load_chapter("batch").stories
    assert set(stories) == set(RULES)
    fired = {rule for _, expected in BAD for rule, *_ in expected}
    assert set(RULES) - fired == {"srun-network-unused", "srun-network-value"}  # below: they need a system


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.parent.name)
def test_generated_scripts_are_clean_on_their_systems(file):
    text = file.read_text()
    named, network = text.splitlines()[1].split(" on ")[1].split(". ")[0].split(", network mode ")
    for system in {named, "clariden", "daint"} if network != "none" else {named}:
        assert verdicts(text, system, network) == []


def test_there_are_generated_scripts():
    assert len(GENERATED) >= 2


def test_hooks_that_set_alt_read_ask_for_the_option_in_their_mode_only():
    script = TWO + "srun --environment=plain python3 x.py\n"
    assert verdicts(script, "daint", "hook-artifact") == [("srun-network", 3, 1)]
    assert (
        "set by the hooks of daint in network mode hook-artifact"
        in check(script, "daint", "hook-artifact")[1][0].message
    )
    assert verdicts(script, "daint", "none") == []
    assert verdicts(script, "daint") == []
    assert verdicts(TWO + "srun python3 x.py\n", "daint", "hook-artifact") == []


def test_without_slingshot_alt_read_means_nothing():
    assert verdicts(ALT + "srun python3 x.py\n", "generic-x86_64", "none") == []


def test_a_sourced_file_may_set_the_option_and_makes_the_error_a_warning():
    diagnostics = check(ALT + ". ./settings.sh\nsrun python3 x.py\n")[1]
    assert [(each.rule, each.severity) for each in diagnostics] == [("srun-network", "warning")]


def test_the_option_without_alt_read_is_a_note_where_the_edf_is_known():
    script = TWO + "srun --environment={} --network=disable_rdzv_get python3 x.py\n"
    daint = load_systems()["daint"]
    bare = daint.model_copy(update={"hooks": {}, "variables": {}})
    for edf, expected in (
        ("plain", ["srun-network-unused"]),
        ("alt", []),
        ("unknown", []),
        ("default", ["srun-network-unused"]),
    ):
        context = BatchContext(system=bare, network="hook-host", read_edf=EDFS.get)
        found = check_batch_script(script.format(edf).encode(), "job", context)[1]
        assert [each.rule for each in found] == expected
        assert all(each.severity == "note" for each in found)


def test_a_misspelt_network_word_is_named_on_slingshot_only():
    script = TWO + "srun --network=no_vni,disable_rdv_get a\n"
    (found,) = check(script, "daint")[1]
    assert (found.rule, found.position.column, found.hint) == (
        "srun-network-value",
        6,
        'did you mean "disable_rdzv_get"?',
    )
    assert verdicts(script) == []
    assert verdicts(TWO + "srun --network=tcs=LOW_LATENCY,def_tles=2,depth=4,somethingnew a\n", "daint") == []


def test_slurm_that_has_disable_rdzv_get_also_hands_on_the_cpus():
    assert verdicts("#!/bin/bash\n#SBATCH -c 72\nsrun a\n", "daint") == []


def test_hints_lead_to_a_clean_script():
    (unknown,) = check("#!/bin/bash\n#SBATCH --nodse=2\n")[1]
    assert unknown.hint == 'did you mean "--nodes"?'
    (elsewhere,) = check("#!/bin/bash\n#SBATCH --mpi=pmix\n")[1]
    assert elsewhere.hint == "--mpi is an option of srun: give it there"
    (network,) = check(ALT + "srun --network=no_vni a\n")[1]
    assert network.hint == "write --network=no_vni,disable_rdzv_get"
    assert verdicts(ALT + "srun --network=no_vni,disable_rdzv_get a\n") == []


def test_a_message_names_where_alt_read_comes_from():
    assert "exported in line 3" in check(ALT + "srun a\n")[1][0].message
    assert "set by the EDF alt" in check(TWO + "srun --environment=alt a\n")[1][0].message


def test_a_script_of_several_parts_has_no_number_of_nodes():
    script = "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH hetjob\n#SBATCH --nodes=2\npython3 x.py\n"
    assert verdicts(script) == []
    assert read_batch_script(script.encode(), "job").nodes() is None


def test_a_step_knows_its_options_and_program():
    script = read_batch_script(
        b"#!/bin/bash\n#SBATCH -n 8\nA=1 srun -N2 --uenv=u --view v --network=a,b --mpi pmix -ul \\\n"
        b"  --environment='e f' -- prog \"x $Y\" --flag\n",
        "job",
    )
    (step,) = script.steps
    values = [each.value for each in (step.uenv, step.view, step.network, step.mpi, step.environment)]
    assert values == ["u", "v", "a,b", "pmix", "e f"]
    assert [word.raw for word in step.program] == ["prog", '"x $Y"', "--flag"]
    assert [word.constant for word in step.program] == [True, False, True]
    assert (script.nodes(step), script.tasks_per_node(step)) == (2, 4)
    assert script.environment(step) == {"A": "1"}


def test_the_environment_of_a_step_is_what_was_exported_before_it():
    script = read_batch_script(
        b"#!/bin/bash\nA=1\nexport A B=$X C=c\nC=d\ndeclare -x D='d d'\nexport E=1; export -n E\nlocal=1\n"
        b'test -n "$A" && export F=1\nA=2 srun a\nexport G=1\nsrun --export=C,H=h b\n',
        "job",
    )  # fmt: skip
    first, second = script.steps
    assert script.environment(first) == {"A": "2", "B": None, "C": "d", "D": "d d", "F": None}
    assert script.environment(second) == {"C": "d", "H": "h"}
    assert str(script.locate(("env", "H"), second)) == "job:11:6"
    assert [setting.name for setting in script.exports] == ["A", "B", "C", "D", "E", "F", "G"]


def test_set_a_exports_what_follows():
    script = read_batch_script(b"#!/bin/bash\nA=1\nset -a\nB=2\nsrun x\n", "job")
    assert script.environment(script.steps[0]) == {"B": "2"}


def test_the_runtime_of_a_step_in_a_container():
    script = read_batch_script(
        b"#!/bin/bash\n#SBATCH -N2 --network=no_vni\nexport A=mine B=mine NCCL_PROTO=LL128 MINE=1\n"
        b"srun --mpi=pmix --network=disable_rdzv_get --environment=plain sh -c 'B=inner python3 x.py'\n",
        "job",
    )
    (step,) = script.steps
    found = runtime(script, step, context_of("daint", "hook-artifact"))
    assert (found.env["A"], found.env["B"], found.env["MINE"]) == ("edf", "inner", "1")
    assert found.env["NCCL_PROTO"] == "^LL128"  # the image has it, and wins over what the host exports
    assert found.own == {"B", "MINE"}
    assert (found.gpu, found.grace_hopper, found.slingshot, found.network) == ("sm_90", True, True, "hook-artifact")
    assert found.srun_options == ("--mpi=pmix", "--environment=plain", "--network=no_vni,disable_rdzv_get")
    assert (found.multi_node, str(found.versions["libfabric"])) == (True, "2.6.0")
    assert str(script.locate(("env", "B"), step)) == "job:4:71"
    assert str(script.locate(("env", "MINE"), step)) == "job:3:39"
    assert script.locate(("env", "NOWHERE"), step) is None
    assert script.locate(("pins",), step) is None


def test_the_runtime_of_a_step_on_the_host():
    script = read_batch_script(b"#!/bin/bash\nexport NCCL_PROTO=LL128 A=$B\nsrun $X osu_bw\n", "job")
    found = runtime(script, script.steps[0], context_of("daint", "hook-artifact"))
    assert (dict(found.env), found.own, found.network) == ({"NCCL_PROTO": "LL128"}, {"NCCL_PROTO"}, None)
    assert (found.srun_options, found.versions, found.uses_nccl) == (None, {}, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"""a"b c"'d e'f\ g""", ["ab cd ef g"]),
        (r'''"\$x \"y\" \n" '\n' $'\t' ""''', ['$x "y" \\n', "\\n", "\t", ""]),
        ("a \\\n b", ["a", "b"]),
        ('"a b $X  c"', ["a b \ue000  c"]),
        ("$'\\x41' ü=~", ["\ue00041", "ü=~"]),
    ],
)  # fmt: skip
def test_words_are_what_the_shell_passes_on(text, words):
    (command,) = read_shell(f"echo {text}\n".encode()).commands
    assert [word.text for word in command.words[1:]] == words


def test_each_character_of_a_word_knows_its_byte():
    content = "ä 'ö'\"x\"\\ü".encode()
    (command,) = read_shell(content).commands
    word = command.words[1]
    assert [content[offset:].decode()[0] for offset in word.offsets] == list(word.text) == ["ö", "x", "ü"]


def test_options_are_read_as_getopt_does():
    (command,) = read_shell(b"srun -n2 -c 4 -ulN3 --time=1 --mem 2G --exclusive --overl=no -- x -n 9").commands
    options = parse_options(command.words[1:], slurm_grammar("srun"))
    assert [(option.name, option.value) for option in options.given] == [
        ("ntasks", "2"), ("cpus-per-task", "4"), ("unbuffered", None), ("label", None), ("nodes", "3"), ("time", "1"),
        ("mem", "2G"), ("exclusive", None), ("overlap", "no"),
    ]  # fmt: skip
    assert [word.text for word in options.rest] == ["x", "-n", "9"]
    assert not options.open


def test_an_unknown_option_leaves_open_what_else_there_is():
    (command,) = read_shell(b"x --site value prog").commands
    assert parse_options(command.words[1:], Grammar({}, {})).open


def test_deep_nesting_is_read():
    script = b"#!/bin/bash\n" + b"(" * 3000 + b"srun --view=a b" + b")" * 3000
    assert read_batch_script(script, "job").lines.shebang
    nested = "srun --environment=a " + "bash -c '" * 8
    assert read_batch_script(f"#!/bin/bash\n{nested}\n".encode(), "job").steps


PIECES = st.sampled_from(
    [b"#!/bin/bash\n", b"#SBATCH ", b"--nodes=2", b" --environment=", b"srun ", b"bash -c ", b"'", b'"', b"\\", b"\n",
     b"$(", b")", b"${A[@]}", b"`", b"export A=", b"FI_CXI_RDZV_PROTO=alt_read ", b"torchrun --nnodes=2 ", b"<<EOF\n",
     b"EOF\n", b"if ", b"; then ", b"fi\n", b" && ", b" | ", b"{", b"}", b"\r\n", b"\0", b"\xff", "ü".encode(),
     b"$'\\x", b"env -u A B=c ", b"timeout ", b"uenv run a -- ", b"-", b"--", b"=", b"~", b"\xee\x80\x80",
     b"case x in a) ", b" --export=B=1,",
     b"unset A\n", b"read A\n", b" # ", b"((", b"]]", b"f() {", b"hetjob", b"-N"]
)  # fmt: skip


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=25).map(b"".join), st.binary(max_size=200)))
def test_no_bytes_make_it_raise(content):
    for system, network in ((None, None), ("daint", "hook-artifact")):
        context = context_of(system, network)
        script, found = check_batch_script(content, "job", context)
        lines = script.source.content.decode().split("\n")
        for each in found:
            assert 1 <= each.position.line <= len(lines)
            assert 1 <= each.position.column <= len(lines[each.position.line - 1]) + 1
        for step in script.steps:
            found_runtime = runtime(script, step, context)
            assert found_runtime.own <= set(found_runtime.env)
            assert all(
                script.locate(("env", name), step) for name in found_runtime.own if "export" not in str(step.options)
            )
