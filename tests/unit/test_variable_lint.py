from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from uenv_builder.core.rules.stories import load_chapter
from uenv_builder.core.systems import load_system, system_names
from uenv_builder.core.variable_lint import lint_variables
from uenv_builder.core.variables import family_of, family_prefixes, load_family
from uenv_builder.model.errors import Position

NOW = {
    "nccl": Version("2.30.7"), "aws_ofi_nccl": Version("1.20.0"), "libfabric": Version("2.6.0"),
    "nvshmem": Version("3.5.19"), "openmpi": Version("5.0.8"),
}  # fmt: skip


def rules(name, value, versions, **options):
    return [found.rule for found in lint_variables({name: value}, versions=versions, **options)]


GOOD = [
    ("NCCL_NET", "AWS Libfabric"),
    ("NCCL_NET", "aws libfabric"),
    ("NCCL_PROTO", "^LL128"),
    ("NCCL_PROTO", "ll,simple"),
    ("NCCL_PROTO", "^LL128;allreduce:LL128"),
    ("NCCL_ALGO", "ring,collnetdirect;allreduce:tree,collnetdirect;broadcast:ring"),
    ("NCCL_ALGO", "allreduce:^tree"),
    ("NCCL_DEBUG", "info"),
    ("NCCL_DEBUG_SUBSYS", "INIT,NET"),
    ("NCCL_DEBUG_SUBSYS", "^ALLOC, COLL"),
    ("NCCL_DEBUG_FILE", "/tmp/nccl.%h.%p"),
    ("NCCL_BUFFSIZE", "8388608"),
    ("NCCL_BUFFSIZE", "0x800000"),
    ("NCCL_NET_GDR_LEVEL", "PHB"),
    ("NCCL_NET_GDR_LEVEL", "3"),
    ("NCCL_SOCKET_IFNAME", "^=docker0"),
    ("NCCL_NETDEVS_POLICY", "MAX:4"),
    ("NCCL_CTA_POLICY", "EFFICIENCY|DEFAULT"),
    ("NCCL_SOCKET_MAGIC", "0xffffffffffffffff"),
    ("NCCL_SET_THREAD_NAME", "TRUE"),
    ("NCCL_TUNER_CONFIG_FILE", "/etc/tuner.csv"),
    ("NCCL_VERSION", "2.30.7-1"),
    ("NCCL_IB_TIMEOUT", ""),
    ("NCCL_NOT_A_NAME", " "),
    ("NCCL_NTHREADS", "$THREADS"),
    ("FI_PROVIDER", "cxi"),
    ("FI_PROVIDER", "^tcp;ofi_rxm"),
    ("FI_LOG_LEVEL", "WARN"),
    ("FI_LOG_LOCATION_MODE", "0644"),
    ("FI_MR_CACHE_MAX_SIZE", "-1"),
    ("FI_MR_CACHE_MONITOR", "userfaultfd"),
    ("FI_EFA_FORK_SAFE", "1"),
    ("FI_CXI_DISABLE_HOST_REGISTER", "Yes"),
    ("FI_CXI_DEVICE_NAME", "cxi0,cxi1"),
    ("FI_CXI_RX_MATCH_MODE", "hybrid"),
    ("FI_CXI_RGET_TC", "LOW_LATENCY"),
    ("OFI_NCCL_PROTOCOL", "rdma"),
    ("OFI_NCCL_DISABLE_DMABUF", "True"),
    ("OFI_NCCL_NET_LATENCY", "0.5"),
    ("NVSHMEM_SYMMETRIC_SIZE", "1.5G"),
    ("NVSHMEM_SYMMETRIC_SIZE", ".5m"),
    ("NVSHMEM_REMOTE_TRANSPORT", "libfabric"),
    ("NVSHMEM_DISABLE_CUDA_VMM", "1"),
    ("NVSHMEM_BOOTSTRAP_PMI", "PMIX"),
    ("OMPI_MCA_btl", "^tcp,uct,usnic"),
    ("OMPI_MCA_btl_tcp_if_include", "hsn0"),
    ("OMPI_MCA_coll_tuned_use_dynamic_rules", "1"),
    ("OMPI_MCA_btl_base_verbose", "1k"),
    ("PMIX_MCA_psec", "^munge"),
    ("PMIX_RANK", "0"),
    ("PATH", "/usr/bin"),
    ("CUDA_VISIBLE_DEVICES", "0"),
    ("FIREFOX", "128K"),
    ("RCCL_DEBUG", "INFO"),
    ("CCL_ALGO", "ring"),
    ("PMI_RANK", "0"),
    ("TORCH_NCCL_BLOCKING_WAIT", "1"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_says_nothing_about_what_the_libraries_take(name, value):
    assert lint_variables({name: value}, versions=NOW, quoted=True) == []
    assert lint_variables({name: value}) == []


BAD = [
    ("NCCL_DEBGU", "INFO", "variable-unknown"),
    ("NCCL_PROTOCOL", "LL", "variable-unknown"),
    ("NCLL_DEBUG", "INFO", "variable-unknown"),
    ("nccl_debug", "INFO", "variable-unknown"),
    ("NCC_DEBUG", "INFO", "variable-unknown"),
    ("OFINCCL_PROTOCOL", "RDMA", "variable-unknown"),
    ("FI_CXl_RDZV_PROTO", "alt_read", "variable-unknown"),
    ("FI_CXI_CQ_SIZE", "1024", "variable-unknown"),
    ("NVSHEM_DEBUG", "INFO", "variable-unknown"),
    ("OMPI_MCA_PML", "cm", "variable-unknown"),
    ("FI_CXI_EAGER_SIZE", "2048", "variable-not-read"),
    ("NVSHMEM_LIBFABRIC_PERSONA", "cxi", "variable-not-read"),
    ("NCCL_IB_DISABLE", "true", "variable-type"),
    ("NCCL_NCHANNELS_PER_NET_PEER", "four", "variable-type"),
    ("NCCL_IB_TC", "08", "variable-type"),
    ("NCCL_SET_THREAD_NAME", "yes", "variable-type"),
    ("FI_CXI_DISABLE_HOST_REGISTER", "enabled", "variable-type"),
    ("FI_CXI_DISABLE_HOST_REGISTER", "2", "variable-type"),
    ("FI_CXI_RDZV_THRESHOLD", "large", "variable-type"),
    ("OFI_NCCL_CQ_SIZE", "0x10", "variable-type"),
    ("OFI_NCCL_NET_LATENCY", "fast", "variable-type"),
    ("NVSHMEM_DISABLE_P2P", "off", "variable-type"),
    ("NVSHMEM_SYMMETRIC_SIZE", "1 G", "variable-type"),
    ("NVSHMEM_MAX_TEAMS", "many", "variable-type"),
    ("FI_CXI_RDZV_THRESHOLD", "128K", "variable-size-suffix"),
    ("NCCL_BUFFSIZE", "8MiB", "variable-size-suffix"),
    ("OFI_NCCL_MIN_STRIPE_SIZE", "128k", "variable-size-suffix"),
    ("NVSHMEM_G_BUF_SIZE", "8M", "variable-size-suffix"),
    ("FI_CXI_DEFAULT_TX_SIZE", "02000", "variable-octal"),
    ("NCCL_CROSS_NIC", "3", "variable-range"),
    ("NCCL_SOCKET_NTHREADS", "32", "variable-range"),
    ("NCCL_NTHREADS", "100", "variable-range"),
    ("NCCL_MNNVL_UUID", "99999999999999999999", "variable-range"),
    ("FI_CXI_CQ_FILL_PERCENT", "101", "variable-range"),
    ("FI_CXI_RDZV_GET_MIN", "-2", "variable-range"),
    ("FI_LOG_INTERVAL", "4294967296", "variable-range"),
    ("OFI_NCCL_CQ_SIZE", "-1", "variable-range"),
    ("NCCL_PROTO", "LL129", "variable-value"),
    ("NCCL_PROTO", "LL, Simple", "variable-value"),
    ("NCCL_PROTO", "LL,^Simple", "variable-value"),
    ("NCCL_PROTO", "LL;Simple", "variable-value"),
    ("NCCL_ALGO", "everything:ring", "variable-value"),
    ("NCCL_DEBUG", "DEBUG", "variable-value"),
    ("NCCL_DEBUG_SUBSYS", "INIT,NETWORK", "variable-value"),
    ("NCCL_P2P_LEVEL", "nvl", "variable-value"),
    ("NCCL_NET", "AWS_Libfabric", "variable-value"),
    ("NCCL_NETDEVS_POLICY", "MAX", "variable-value"),
    ("FI_CXI_RX_MATCH_MODE", "Hybrid", "variable-value"),
    ("FI_CXI_RGET_TC", "low_latency", "variable-value"),
    ("FI_CXI_DEVICE_NAME", "hsn0", "variable-value"),
    ("FI_PROVIDER", "cxi,slingshot", "variable-value"),
    ("OFI_NCCL_PROTOCOL", "WRITE", "variable-value"),
    ("NVSHMEM_REMOTE_TRANSPORT", "ofi", "variable-value"),
    ("OMPI_MCA_pml", "cm,^ucx", "variable-value"),
    ("PMIX_MCA_psec", "mung", "variable-value"),
    ("NCCL_NET", "AWS 'Libfabric'", "variable-quotes"),
    ("NCCL_PROTO", '^"LL128"', "variable-quotes"),
    ("NCCL_AGG_CHANNEL_SIZE", "1", "variable-removed"),
    ("NCCL_TREE_THRESHOLD", "0", "variable-removed"),
    ("FI_CXI_DISABLE_DMABUF_CUDA", "1", "variable-removed"),
    ("OFI_NCCL_ROUND_ROBIN_THRESHOLD", "8192", "variable-removed"),
    ("OMPI_MCA_plm", "slurm", "variable-removed"),
    ("OFI_NCCL_GDAKI_EFA_HW_COUNTER", "AUTO", "variable-too-new"),
    ("NVSHMEM_TMA_POLICY", "x", "variable-too-new"),
    ("NCCL_BLOCKING_WAIT", "1", "variable-deprecated"),
    ("NCCL_MAX_NCHANNELS", "8", "variable-deprecated"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_names_what_a_library_does_not_take(name, value, rule):
    assert rules(name, value, NOW) == [rule]


RELEASES = [
    ("NCCL_NET_GDR_C2C", "1", {"nccl": "2.25.1"}, ["variable-too-new"]),
    ("NCCL_NET_GDR_C2C", "1", {"nccl": "2.26.2"}, []),
    ("NCCL_NET_GDR_C2C", "1", {"libfabric": "1.22.0"}, []),
    ("NCCL_PROTO", "^LL128;allreduce:LL", {"nccl": "2.23.4"}, ["variable-too-new"]),
    ("NCCL_SHM_MEMCPY_MODE", "1", {"nccl": "2.30.4"}, []),
    ("NCCL_SHM_MEMCPY_MODE", "1", {"nccl": "2.30.7"}, ["variable-removed"]),
    ("NCCL_SHM_MEMCPY_MODE", "1", {}, []),
    ("NCCL_TREE_THRESHOLD", "0", {}, ["variable-removed"]),
    ("NCCL_DEBUG", "INFO", {"nccl": "2.10.3"}, []),
    ("FI_CXI_RNR_APPEND_RETRY_TIMEOUT_US", "1", {"libfabric": "2.5.1"}, ["variable-too-new"]),
    ("FI_CXI_MR_TARGET_ORDERING", "strict", {"libfabric": "1.22.0"}, ["variable-too-new"]),
    ("FI_CXI_ENABLE_UNRESTRICTED_END_RO", "1", {"libfabric": "2.0.0"}, []),
    ("FI_CXI_ENABLE_UNRESTRICTED_END_RO", "1", {"libfabric": "2.1.0"}, ["variable-removed"]),
    ("OFI_NCCL_GIN_TYPE", "PROXY", {"aws_ofi_nccl": "1.20.0"}, []),
    ("OFI_NCCL_GIN_TYPE", "PROXY", {"aws_ofi_nccl": "1.21.0"}, ["variable-removed"]),
    ("OMPI_MCA_plm", "slurm", {"openmpi": "4.1.8"}, []),
]


@pytest.mark.parametrize(("name", "value", "versions", "expected"), RELEASES)
def test_knows_which_releases_read_a_variable(name, value, versions, expected):
    assert rules(name, value, {key: Version(text) for key, text in versions.items()}) == expected


def test_says_what_a_library_makes_of_a_suffix_and_what_to_write():
    place = Position("job.sbatch", 7, 8)
    (found,) = lint_variables({"FI_CXI_RDZV_THRESHOLD": "128K"}, locate=lambda name: place if "RDZV" in name else None)
    assert found.severity == "error"
    assert found.position == place
    assert found.message == 'FI_CXI_RDZV_THRESHOLD: libfabric takes a plain number here, and reads "128K" as 128'
    assert found.hint == "write 131072"
    assert found.source == load_family("FI_CXI_").source


HINTS = [
    ("FI_CXI_DEFAULT_CQ_SZE", "1", 'did you mean "FI_CXI_DEFAULT_CQ_SIZE"?'),
    ("FI_CXI_EAGER_SIZE", "0", "set FI_CXI_RDZV_EAGER_SIZE instead"),
    ("FI_CXI_DISABLE_DMABUF_CUDA", "1", "set FI_HMEM_CUDA_USE_DMABUF instead, with the opposite value"),
    ("FI_CXI_RX_MATCH_MODE", "Software", "write software"),
    ("NCCL_IB_DISABLE", "yes", "write 1"),
    ("NVSHMEM_DISABLE_P2P", "OFF", "write 0"),
    ("NCCL_NET", '"AWS" Libfabric', "write AWS Libfabric"),
    ("NCCL_CROSS_NIC", "7", "write a number from 0 to 2"),
    ("NCLL_DEBUG", "INFO", "write NCCL_DEBUG"),
    ("NCCL_LAUNCH_MODE", "x", "write one of: PARALLEL, GROUP"),
    ("OMPI_MCA_PML", "cm", "write OMPI_MCA_pml: upper and lower case matter"),
    ("NCCL_SOME_THING_ELSE_OF_A_PLUGIN_X", "1", load_chapter("variables").stories["variable-unknown"].remedy),
]


@pytest.mark.parametrize(("name", "value", "hint"), HINTS)
def test_says_what_to_write_instead(name, value, hint):
    (found,) = lint_variables({name: value}, versions=NOW)
    assert found.hint == hint


FOLLOWED = [
    ("NCLL_DEBUG", "INFO", "write NCCL_DEBUG", ("NCCL_DEBUG", "INFO")),
    ("FI_CXl_RDZV_PROTO", "alt_read", 'did you mean "FI_CXI_RDZV_PROTO"?', ("FI_CXI_RDZV_PROTO", "alt_read")),
    ("NCCL_PROTOCOL", "LL", 'did you mean "NCCL_PROTO"?', ("NCCL_PROTO", "LL")),
    (
        "NVSHMEM_LIBFABRIC_PERSONA",
        "cxi",
        "set NVSHMEM_LIBFABRIC_PROVIDER instead",
        ("NVSHMEM_LIBFABRIC_PROVIDER", "cxi"),
    ),
    ("NCCL_BUFFSIZE", "8MiB", "write 8388608", ("NCCL_BUFFSIZE", "8388608")),
    ("NVSHMEM_G_BUF_SIZE", "1.5 k", "write 1536", ("NVSHMEM_G_BUF_SIZE", "1536")),
    ("NCCL_IB_TC", "08", "write 8", ("NCCL_IB_TC", "8")),
    ("FI_CXI_DISABLE_HOST_REGISTER", "enabled", "write 1", ("FI_CXI_DISABLE_HOST_REGISTER", "1")),
    ("NCCL_NTHREADS", "100", "write a multiple, such as 96", ("NCCL_NTHREADS", "96")),
    ("OFI_NCCL_CQ_SIZE", "-1", "write 0 or more", ("OFI_NCCL_CQ_SIZE", "0")),
    ("NCCL_PROTO", "LL;Simple", "write it as AllReduce:Simple", ("NCCL_PROTO", "LL;AllReduce:Simple")),
    ("NCCL_ALGO", "AllReduc:ring", 'did you mean "AllReduce"?', ("NCCL_ALGO", "AllReduce:ring")),
    ("NCCL_P2P_LEVEL", "nvl", "write NVL", ("NCCL_P2P_LEVEL", "NVL")),
    ("FI_CXI_DEVICE_NAME", "hsn0", "write devices such as cxi0,cxi1", ("FI_CXI_DEVICE_NAME", "cxi0,cxi1")),
    ("NCCL_PROTO", '^"LL128"', "write ^LL128", ("NCCL_PROTO", "^LL128")),
    ("NCCL_BLOCKING_WAIT", "1", "set TORCH_NCCL_BLOCKING_WAIT instead", ("TORCH_NCCL_BLOCKING_WAIT", "1")),
]


@pytest.mark.parametrize(("name", "value", "hint", "followed"), FOLLOWED)
def test_a_user_who_follows_the_hint_ends_up_clean(name, value, hint, followed):
    (found,) = lint_variables({name: value}, versions=NOW)
    assert found.hint == hint
    assert lint_variables(dict([followed]), versions=NOW) == []


SEVERITIES = [
    ("NCCL_DEBGU", "INFO", NOW, "warning"),
    ("NCCL_XYZZY_PLUGH", "1", {"nccl": Version("2.99.0")}, "note"),
    ("NCCL_NET", "mine", NOW, "warning"),
    ("NCCL_DEBUG", "mine", NOW, "error"),
    ("OMPI_MCA_btl", "mine", NOW, "note"),
    ("OMPI_MCA_bt", "tcp", NOW, "note"),
    ("OFI_NCCL_RDMA_MIN_POSTED_BOUNCE_BUFFERS", "8", NOW, "error"),
    ("OFI_NCCL_ENDPOINT_PER_COMM", "1", NOW, "warning"),
    ("NCCL_BLOCKING_WAIT", "1", NOW, "note"),
]


@pytest.mark.parametrize(("name", "value", "versions", "severity"), SEVERITIES)
def test_is_an_error_only_where_it_cannot_work(name, value, versions, severity):
    (found,) = lint_variables({name: value}, versions=versions)
    assert found.severity == severity


def test_leaves_values_in_quotes_to_the_check_of_the_image_unless_asked():
    env = {"NCCL_NET": '"AWS Libfabric"', "NCCL_DEBUG_FILE": "'/tmp/x'"}
    assert lint_variables(env, versions=NOW) == []
    found = lint_variables(env, versions=NOW, quoted=True)
    assert [(each.rule, each.hint) for each in found] == [
        ("variable-quotes", "write AWS Libfabric"),
        ("variable-quotes", "write /tmp/x"),
    ]


@pytest.mark.parametrize("name", system_names())
def test_the_contracts_of_the_systems_are_clean(name):
    system = load_system(name)
    hooks = {mode: stack.env for mode, stack in system.hooks.items()}
    for mode, env in [*system.env.items(), *hooks.items()]:
        assert lint_variables(env, versions=NOW, quoted=True) == [], mode


NAMES = [name for prefix in family_prefixes() for name in load_family(prefix).variables]
SIGNS = "0123456789-+xXkKmMgG.^,;:|'\"$ aLl\n\0é٣"


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    name=st.sampled_from(NAMES) | st.text(max_size=20) | st.sampled_from(family_prefixes()).flatmap(
        lambda prefix: st.text(max_size=8).map(lambda rest: prefix + rest)
    ),
    value=st.text(max_size=12) | st.text(SIGNS, max_size=90),
    quoted=st.booleans(),
)  # fmt: skip
def test_no_name_and_no_value_makes_it_fail(name, value, quoted):
    for versions in ({}, NOW):
        for found in lint_variables({name: value}, versions=versions, quoted=quoted):
            assert found.message.startswith(name)
            assert found.hint
            assert found.source
            assert str(found)


@pytest.mark.parametrize("prefix", family_prefixes())
def test_every_default_and_every_listed_word_is_clean(prefix):
    for name, definition in load_family(prefix).variables.items():
        replaced = ["variable-deprecated"] if definition.instead and not definition.unread else []
        gone = definition.unread or definition.until
        for value in [*([definition.default] if definition.default else []), *definition.values]:
            found = [found.rule for found in lint_variables({name: value})]
            assert found in ([["variable-removed"], ["variable-not-read"], []] if gone else [replaced]), (name, value)


@pytest.mark.parametrize("prefix", family_prefixes())
def test_definitions_hold_together(prefix):
    family = load_family(prefix)
    assert family.source
    assert family.read
    for name, definition in family.variables.items():
        assert family_of(name) is family
        assert family.open or not any(name.startswith(other) for other in family.others), name
        if definition.type in {"enum", "list", "switches"}:
            assert definition.values, name
        if definition.since:
            assert Version(definition.since) > Version(family.oldest), name
        if definition.since and definition.until:
            assert Version(definition.since) <= Version(definition.until), name
        if definition.instead and (other := family_of(definition.instead)):
            assert definition.instead in other.variables, name


@pytest.mark.parametrize("prefix", family_prefixes())
def test_each_variable_stands_in_one_line_and_once(prefix):
    folder = resources.files("uenv_builder.knowledge") / "compat" / "variables"
    family = load_family(prefix)
    texts = [file.read_text() for file in folder.iterdir() if f"\nprefix: {prefix}\n" in file.read_text()]
    assert len(texts) == 1
    lines = texts[0].partition("\nvariables:\n")[2].splitlines()
    assert [line.split(":")[0].strip() for line in lines] == sorted(family.variables)


def test_each_rule_has_a_story_and_each_story_a_rule():
    expected = {rule for _, _, rule in BAD}
    assert set(load_chapter("variables").stories) == expected
