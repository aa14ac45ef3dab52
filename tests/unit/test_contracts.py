"""What systems promise: every variable has its story, the page tells it, and a uenv's views carry it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from golden_files import check_golden

from uenv_builder.core.contract_page import contract_page
from uenv_builder.core.environment import check_environment, compose_environment
from uenv_builder.core.etc_files import etc_files
from uenv_builder.core.recipe_reader import recipe_schema
from uenv_builder.core.systems import load_systems
from uenv_builder.core.uenv_view import SEARCH_PATHS, contract_view, env_document, uenv_views, view_values
from uenv_builder.model.errors import IncompatibleError, RecipeError
from uenv_builder.model.image import ImageConfig
from uenv_builder.model.recipe import Recipe
from uenv_builder.model.system import LEFT_OUT

SYSTEMS = load_systems()
DAINT = SYSTEMS["daint"]
VARIABLES = [(system, name) for system in SYSTEMS.values() for name in system.variables]
each_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
each_variable = pytest.mark.parametrize(
    ("system", "name"), VARIABLES, ids=[f"{system.name}-{name}" for system, name in VARIABLES]
)
SOURCE = re.compile(
    r"[\w-]+/[\w-]+ ([0-9a-f]{8}|v[0-9.]+(-[0-9]+)?|issues? [0-9]+)|docs\.|release notes|no outside source"
)


@each_variable
def test_every_variable_says_why_and_where_that_was_read(system, name):
    variable = system.variables[name]
    assert len(variable.reason.split()) >= 4
    assert variable.reason[0].isupper() or variable.reason[0].isdigit()
    assert variable.reason.endswith(".")
    assert SOURCE.search(variable.source), variable.source
    assert variable.values or variable.unset, "a variable of a contract is set or forbidden somewhere"
    assert {*variable.values, *variable.unset} <= set(system.networks)


@each_variable
def test_other_values_differ_and_say_who_has_them(system, name):
    variable = system.variables[name]
    for value, who in variable.others.items():
        assert value not in variable.values.values()
        assert SOURCE.search(who) or "cscs-reframe-tests" in who, who
        assert value == LEFT_OUT or not check_environment({name: value})


def test_the_known_disagreements_are_told():
    others = {name: set(variable.others) for name, variable in SYSTEMS["generic-gh200"].variables.items()}
    assert others["NCCL_CROSS_NIC"] == {"1"}
    assert others["FI_CXI_RX_MATCH_MODE"] == {"software"}
    assert others["FI_CXI_DEFAULT_TX_SIZE"] == {"2048", "32768"}
    assert others["PMIX_MCA_psec"] == {"^munge"}
    assert others["NCCL_NET_PLUGIN"] == {"ofi"}
    for name in ("NCCL_NET", "FI_CXI_RDZV_PROTO", "FI_CXI_RDZV_EAGER_SIZE", "FI_CXI_RDZV_GET_MIN"):
        assert others[name] == {LEFT_OUT}


@each_system
def test_every_launch_option_says_why(system):
    launch = system.launch
    options = {*launch.srun, *(option for options in launch.network_srun.values() for option in options)}
    shape = {"ranks_per_node", "cpus_per_rank"} | ({"gpus_per_node"} if launch.gpus_per_node else set())
    assert set(launch.reasons) == options | shape
    for reason in (*launch.reasons.values(), *system.reasons.values()):
        assert reason.reason.endswith(".")
        assert SOURCE.search(reason.source), reason.source


@each_system
def test_driver_and_slingshot_are_known_where_there_is_a_gpu(system):
    with_gpu = "gh200" in system.uarchs
    assert (system.driver is not None) == (system.slingshot is not None) == with_gpu
    assert set(system.reasons) == ({"driver", "slingshot"} if with_gpu else set())


@each_system
def test_hooks_say_what_they_bring(system):
    assert set(system.hooks) == {mode for mode in system.networks if mode.startswith("hook-")}
    for hook in system.hooks.values():
        assert hook.libfabric
        assert SOURCE.search(hook.source)
        assert check_environment(hook.env) == []
        assert set(hook.env) <= set(system.variables), "the contract tells the story of what hooks set"
        assert hook.env["NCCL_PROTO"] == "^LL128"
        if hook.env["FI_CXI_RDZV_PROTO"] == "alt_read":
            assert {hook.env[f"FI_CXI_RDZV_{name}"] for name in ("EAGER_SIZE", "GET_MIN", "THRESHOLD")} == {"0"}


def test_both_sources_of_alps_hook_set_the_same():
    assert DAINT.hooks["hook-artifact"].env == DAINT.hooks["hook-host"].env
    assert DAINT.hooks["hook-artifact"].aws_ofi_nccl == "1.20.0"


def test_the_image_s_values_are_those_of_the_contract_s_version():
    """Who changes a value raises the version of the contract, and then this test."""
    assert (DAINT.contract, SYSTEMS["generic-gh200"].contract) == ("alps-gh200/2", "gh200-slingshot/2")
    assert DAINT.env["hook-artifact"] == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "CUDA_CACHE_DISABLE": "1",
        "NCCL_PROTO": "^LL128",
        "PMIX_MCA_psec": "^munge",
        "MPICH_GPU_SUPPORT_ENABLED": "0",
    }
    assert DAINT.env["image"] == SYSTEMS["generic-gh200"].env["image"]
    assert len(DAINT.env["image"]) == 38
    for name, value in {"NCCL_CROSS_NIC": "0", "FI_CXI_RX_MATCH_MODE": "hybrid", "PMIX_MCA_psec": "native"}.items():
        assert DAINT.env["image"][name] == value


def test_the_page_of_daint():
    check_golden("contracts/daint.md", contract_page(DAINT))


@each_system
def test_a_page_lists_every_variable_option_and_release(system):
    page = contract_page(system)
    for name, variable in system.variables.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for text in (variable.reason.strip(), variable.source, *variable.others.values()):
            assert text.strip() in row
        for value in {*variable.values.values(), *(value for value in variable.others if value != LEFT_OUT)}:
            assert f"`{value}`" in row
    for option in (*system.launch.srun, *system.launch.network_srun.get("image", ())):
        assert f"| `{option}` |" in page
    for text in (system.contract, system.driver, system.slingshot, *system.networks, *system.uarchs, *system.sources):
        assert text is None or text in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    rows = [len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("| `")]
    assert set(rows) <= {3, 5, 6}, "every row has the columns of its table"


def recipe(**fields) -> Recipe:
    needed = {"name": "r", "version": "1", "description": "d", "targets": [{"system": "daint", "uarch": "gh200"}]}
    return Recipe.model_validate({**needed, "base": {"debian": {"suite": "trixie"}}, **fields})


def test_a_view_carries_the_contract_and_the_recipe_over_it():
    view = contract_view(
        DAINT, "image", recipe(env={"NCCL_CROSS_NIC": "1", "MINE": "x", "PATH": "/opt/x/bin:/usr/bin"})
    )
    assert view.set["NCCL_CROSS_NIC"] == "1"
    assert view.set["MINE"] == "x"
    assert view.set["NCCL_NET"] == "AWS Libfabric"
    assert view.prepend == {"PATH": ["/opt/x/bin"]}, "a uenv keeps the machine's own folders"
    assert view.unset == ["NCCL_NET_PLUGIN"]
    expected = {*DAINT.env["image"], "MINE"} - {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    assert set(view.set) == expected
    assert list(view.set) == sorted(view.set)


def test_a_recipe_can_set_what_the_contract_forbids():
    view = contract_view(DAINT, "image", recipe(env={"NCCL_NET_PLUGIN": "mine"}))
    assert (view.set["NCCL_NET_PLUGIN"], view.unset) == ("mine", [])


def test_a_view_for_a_mode_that_the_system_does_not_have():
    with pytest.raises(IncompatibleError, match="generic-gh200 cannot run network mode hook-host"):
        contract_view(SYSTEMS["generic-gh200"], "hook-host", recipe())


def test_views_of_a_recipe_stand_on_the_contract():
    views = {
        "tools": {
            "set": {"NCCL_NET_PLUGIN": "x", "MANPATH": "/m:/n"},
            "prepend": {"PATH": ["/t/bin"], "MYPATH": ["/my"]},
            "append": {"MANPATH": ["/o"]},
            "unset": ["NCCL_NET", "PYTHONPATH"],
        }
    }
    found = uenv_views(DAINT, "image", recipe(env={"PATH": "/opt/x/bin:/bin"}, views=views))
    assert list(found) == ["default", "tools"]
    values = view_values(found["tools"])
    assert values["list"] == {
        "MANPATH": [{"op": "set", "value": ["/m", "/n"]}, {"op": "append", "value": ["/o"]}],
        "MYPATH": [{"op": "prepend", "value": ["/my"]}],
        "PATH": [{"op": "prepend", "value": ["/t/bin", "/opt/x/bin"]}],
        "PYTHONPATH": [{"op": "unset", "value": []}],
    }
    assert values["scalar"]["NCCL_NET_PLUGIN"] == "x"
    assert values["scalar"]["NCCL_NET"] is None
    assert values["scalar"]["NCCL_PROTO"] == "^LL128"
    assert view_values(found["default"])["scalar"]["NCCL_NET_PLUGIN"] is None


@pytest.mark.parametrize("name", ["modules", "spack"])
def test_names_of_views_that_uenvs_have_themselves(name):
    with pytest.raises(RecipeError, match=rf'cannot be named "{name}"'):
        uenv_views(DAINT, "image", recipe(views={name: {}}))


@pytest.mark.parametrize("network", DAINT.networks)
def test_the_document_has_what_uenv_insists_on(network):
    made = recipe(env={"LD_LIBRARY_PATH": "/a"}, views={"v": {"prepend": {"PATH": ["/p"]}}, "w": {"unset": ["PATH"]}})
    document = env_document("r", "/user-environment", uenv_views(DAINT, network, made), description="d")
    assert json.loads(json.dumps(document)) == document
    assert document["mount"] == "/user-environment"
    assert document["default-view"] in document["views"]
    for view in document["views"].values():
        assert isinstance(view["description"], str)
        values = view["env"]["values"]
        assert set(values) == {"list", "scalar"}
        assert not set(values["list"]) & set(values["scalar"]), "uenv would take the scalar"
        assert not SEARCH_PATHS & set(values["scalar"])
        for changes in values["list"].values():
            assert all(change["op"] in {"set", "prepend", "append", "unset"} for change in changes)
            assert all(isinstance(folder, str) for change in changes for folder in change["value"])
        assert all(value is None or isinstance(value, str) for value in values["scalar"].values())


def test_a_recipe_has_no_key_that_a_view_would_lose():
    assert set(recipe_schema()["$defs"]["View"]["properties"]) == {"description", "set", "prepend", "append", "unset"}


LOGIN_SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def login_shell(shell: str, tmp_path, env: dict[str, str], **recipe_env: str) -> dict[str, str]:
    """What `sh -l` of a user has, whose profile reads the generated file as an image's /etc/profile does."""
    variables = compose_environment(DAINT, "image", recipe_env)
    config = ImageConfig(architecture="arm64", env=variables, workdir="/", labels={}, created=0)
    (tmp_path / ".profile").write_text(etc_files(config)["etc/profile.d/zz-uenv.sh"][0])
    words = [shell, "sh", "-l"] if shell == "busybox" else [shell, "-l"]
    done = subprocess.run(
        [*words, "-c", "exec env -0"], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **env}, check=True,
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
@pytest.mark.parametrize("name", sorted(DAINT.env["image"]))
def test_a_login_shell_leaves_what_a_job_has_set(shell, name, tmp_path):
    value = login_shell(shell, tmp_path, {name: "my own $value"})
    assert value[name] == "my own $value"
    assert login_shell(shell, tmp_path, {name: ""})[name] == "", "the empty value is a value"


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_a_login_shell_without_the_image_s_environment_gets_it(shell, tmp_path):
    inside = login_shell(shell, tmp_path, {}, MINE="it's")
    assert {name: inside[name] for name in DAINT.env["image"]} == DAINT.env["image"]
    assert inside["MINE"] == "it's"
