"""A real Debian userland from real packages, run without ever having been installed."""

import hashlib
import platform
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import requests

from uenv_builder.layers.loader_cache import SharedLibrary, search_folders, soname_of, write_loader_cache
from uenv_builder.layers.userland import userland_entries
from uenv_builder.model.errors import NetworkError
from uenv_builder.model.system import Uarch
from uenv_builder.sources.apt import UserlandRequest, resolve_userland
from uenv_builder.sources.debian_mirrors import DebianMirrors
from uenv_builder.system.events import Silent
from uenv_builder.system.layer_blob import read_files, write_layer
from uenv_builder.system.tar_stream import END, padding, tar_header

pytestmark = pytest.mark.network

SUITE = "trixie"
EPOCH = 1_790_000_000
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PACKAGES = (
    "apt",
    "ca-certificates",
    "less",
    "libopenblas0-pthread",
    "openssl",
    "procps",
    "python3-minimal",
    "vim-tiny",
)


def uarch(machine):
    debian = ARCHITECTURES[machine]
    return Uarch(name=machine, machine=machine, debian=debian, oci=debian, multiarch=f"{machine}-linux-gnu")


@pytest.fixture(scope="session")
def fetch(tmp_path_factory):
    """Resolve and download packages: `fetch(machine, packages, essential)` gives the files, sorted by package name."""
    folder = tmp_path_factory.mktemp("debs")
    try:
        mirrors = DebianMirrors.of_machine()
    except NetworkError as error:
        pytest.skip(f"no mirror: {error}")

    def fetched(machine, packages, *, essential):
        request = UserlandRequest(suites=(SUITE,), components=("main",), architecture=ARCHITECTURES[machine],
                                  packages=packages, essential=essential)  # fmt: skip
        debs = []
        for deb in resolve_userland(request, mirrors, workspace=folder / "apt", listener=Silent()).packages:
            path = folder / Path(deb.path).name
            if not path.exists():
                urls = mirrors.urls(deb.path, suite=deb.suite)
                path.write_bytes(next(found.content for url in urls if (found := requests.get(url, timeout=60)).ok))
            assert hashlib.sha256(path.read_bytes()).hexdigest() == deb.sha256
            debs.append(path)
        return debs

    return fetched


def write_tar(entries, path):
    with path.open("wb") as out:
        for entry in entries:
            out.write(tar_header(entry))
            if entry.kind == "file":
                shutil.copyfileobj(entry.content, out)
                out.write(padding(entry.size))
        out.write(END)


@pytest.fixture(scope="session")
def debs(fetch):
    return fetch(platform.machine(), PACKAGES, essential=True)


@pytest.fixture(scope="session")
def root(debs, tmp_path_factory):
    """The userland of this machine's architecture as a folder, with the cache that `write_loader_cache` makes."""
    folder = tmp_path_factory.mktemp("userland")
    archive, root = folder / "userland.tar", folder / "root"
    write_tar(userland_entries(debs, epoch=EPOCH, uarch=uarch(platform.machine())), archive)
    root.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", root, "--numeric-owner"], check=True)
    archive.unlink()
    (root / "etc/ld.so.cache").write_bytes(write_loader_cache(libraries_of(root), machine=platform.machine()))
    return root


def libraries_of(root):
    """What ldconfig would find: in each folder every SONAME that is a file's name too, and the links for compilers."""
    conf = {f"/{path.relative_to(root)}": path.read_bytes() for path in (root / "etc/ld.so.conf.d").glob("*.conf")}
    conf["/etc/ld.so.conf"] = (root / "etc/ld.so.conf").read_bytes()
    for folder in search_folders(conf):
        for path in sorted((root / folder.lstrip("/")).glob("l[id]*.so*")):
            if not inside(root, path).is_file():
                continue
            with inside(root, path).open("rb") as content:
                soname = soname_of(content, machine=platform.machine())
            if soname == path.name or (soname and path.name.endswith(".so") and soname.startswith(path.name)):
                yield SharedLibrary(path.name, f"{folder}/{path.name}")


def inside(root, path):
    """Where `path`, below `root`, leads if absolute links start at `root`."""
    for _ in range(20):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return path


@pytest.fixture
def run(root):
    """Run a command inside the userland, the folder being read-only."""
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    tried = subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"bubblewrap cannot run here: {tried.stderr.strip()}")

    def run(*command, check=True, binds=(), env=None):
        sandbox = ["bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
                   "--unshare-net", "--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]  # fmt: skip
        for key, value in (env or {}).items():
            sandbox += ["--setenv", key, value]
        for source, target in binds:
            sandbox += ["--bind", source, target]
        return subprocess.run([*sandbox, *command], capture_output=True, text=True, check=check)

    return run


def test_dpkg_knows_and_verifies_every_package(run, root, debs):
    listed = [line for line in run("dpkg", "-l").stdout.splitlines() if line.startswith("ii ")]
    assert len(listed) == len(debs)
    assert run("dpkg", "--audit").stdout == ""
    assert run("dpkg", "-V").stdout == ""
    assert run("dpkg", "-S", "/usr/bin/dpkg").stdout == "dpkg: /usr/bin/dpkg\n"
    assert run("apt-get", "check").returncode == 0


def test_verification_sees_a_change(run, root, tmp_path):
    for path in ("usr/share/doc/dpkg/copyright", "etc/debian_version"):
        (tmp_path / "changed").write_text("something else\n")
        found = run("dpkg", "-V", check=False, binds=[(tmp_path / "changed", f"/{path}")])
        assert found.stdout.split()[-1] == f"/{path}"


def test_programs_run(run):
    assert run("sh", "-c", "echo $0").stdout == "sh\n"
    assert run("awk", "BEGIN {print 6*7}").stdout == "42\n"
    assert run("python3", "-c", "import zlib, sys; print(sys.version_info[0])").stdout == "3\n"
    assert run("perl", "-e", "print 1+1").stdout == "2"
    assert "root" in run("id").stdout + run("getent", "passwd", "root").stdout
    assert run("getent", "group", "shadow").stdout == "shadow:x:42:\n"
    assert run("bash", "-lc", "umask").returncode == 0


def test_every_program_finds_its_libraries(run, root):
    failures = []
    for path in sorted((root / "usr/bin").iterdir()):
        if not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            found = run("ldd", f"/usr/bin/{path.name}", check=False).stdout
            failures += [f"{path.name}: {line}" for line in found.splitlines() if "not found" in line]
    assert failures == []


def test_alternatives_are_as_update_alternatives_would_have_them(run, root):
    names = [path.name for path in (root / "var/lib/dpkg/alternatives").iterdir()]
    assert {"awk", "pager", "vi", "which"} <= set(names)
    assert any(name.startswith("libblas.so.3-") for name in names)
    for name in names:
        shown = run("update-alternatives", "--query", name).stdout
        fields = dict(re.findall(r"^(Best|Value|Status|Link): (.+)$", shown, re.MULTILINE))
        assert fields["Status"] == "auto"
        assert fields["Best"] == fields["Value"] == str((root / "etc/alternatives" / name).readlink())
        assert (root / fields["Link"].lstrip("/")).readlink() == Path("/etc/alternatives") / name
    assert (root / "etc/alternatives/pager").readlink() == Path("/usr/bin/less")


def test_alternatives_need_no_repair(run, root, tmp_path):
    for part in ("etc/alternatives", "var/lib/dpkg/alternatives"):
        shutil.copytree(root / part, tmp_path / part, symlinks=True)
    binds = [(tmp_path / part, f"/{part}") for part in ("etc/alternatives", "var/lib/dpkg/alternatives")]
    for path in sorted((root / "var/lib/dpkg/alternatives").iterdir()):
        run("update-alternatives", "--log", "/tmp/log", "--auto", path.name, binds=binds)
        assert (tmp_path / "var/lib/dpkg/alternatives" / path.name).read_bytes() == path.read_bytes()
    after = {path.name: path.readlink() for path in (tmp_path / "etc/alternatives").iterdir() if path.is_symlink()}
    before = {path.name: path.readlink() for path in (root / "etc/alternatives").iterdir() if path.is_symlink()}
    assert after == before


def test_certificates_are_as_the_images_own_tools_lay_them_out(run, root, tmp_path):
    ours = root / "etc/ssl/certs"
    certs = tmp_path / "certs"
    certs.mkdir()
    run("update-ca-certificates", "--etccertsdir", "/mnt", binds=[(certs, "/mnt")])
    links = {path.name: path.readlink() for path in certs.iterdir() if path.is_symlink()}
    assert {path.name: path.readlink() for path in ours.iterdir() if path.is_symlink()} == links
    assert len([name for name in links if name.endswith(".0")]) > 100
    assert (ours / "ca-certificates.crt").read_bytes() == (certs / "ca-certificates.crt").read_bytes()


def read_cache(content):
    count = struct.unpack_from("<I", content, 20)[0]
    for number in range(count):
        flags, key, value = struct.unpack_from("<iII", content, 48 + 24 * number)
        name, path = (content[at : content.index(b"\0", at)].decode() for at in (key, value))
        yield flags, name, path


@pytest.fixture
def real_cache(run, tmp_path):
    """What the image's own ldconfig writes."""
    (tmp_path / "out").mkdir()
    run("ldconfig", "-X", "-C", "/mnt/cache", binds=[(tmp_path / "out", "/mnt")])
    return (tmp_path / "out/cache").read_bytes()


def test_the_cache_holds_what_ldconfig_finds(run, root, real_cache):
    def merged(found):
        return {(flags, name, re.sub(r"^/lib/", "/usr/lib/", path)) for flags, name, path in found}

    ours = list(read_cache((root / "etc/ld.so.cache").read_bytes()))
    assert merged(ours) == merged(read_cache(real_cache))
    printed = run("ldconfig", "-p").stdout.splitlines()
    assert printed[0].startswith(f"{len(ours)} libs found")
    assert {line.split(" => ")[1] for line in printed if " => " in line} == {path for _, _, path in ours}


def test_entries_and_strings_are_those_of_ldconfig(real_cache):
    found = list(read_cache(real_cache))
    libraries = [SharedLibrary(name, path) for _, name, path in found]
    random.Random(5).shuffle(libraries)
    ours = write_loader_cache(libraries, machine=platform.machine())
    assert list(read_cache(ours)) == found
    assert struct.unpack_from("<17s3sII", ours) == struct.unpack_from("<17s3sII", real_cache)


def test_the_loader_uses_the_cache(run, root):
    traced = run("true", env={"LD_DEBUG": "libs"}).stderr
    assert "search cache=/etc/ld.so.cache" in traced
    blas = run("true", env={"LD_DEBUG": "libs", "LD_PRELOAD": "libblas.so.3"})
    section = blas.stderr.partition("find library=libblas.so.3")[2].partition("find library=")[0]
    assert "search cache=/etc/ld.so.cache" in section
    assert re.search(r"trying file=/usr/lib/\S*libblas\.so\.3\n", section)
    assert "search path=" not in section


def test_the_same_packages_give_the_same_layer(debs, tmp_path):
    small = [deb for deb in debs if deb.stat().st_size < 2_000_000]
    layers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        entries = userland_entries(small, epoch=EPOCH, uarch=uarch(platform.machine()))
        layers.append(write_layer(entries, tmp_path / name, threads=1))
    assert layers[0].digest == layers[1].digest
    assert len(layers[0].entries) > 3000
    assert max(entry.mtime for entry in layers[0].entries) <= EPOCH
    assert not [entry.path for entry in layers[0].entries if entry.kind != "dir" and entry.mode & 0o7000]


def test_another_machines_userland_needs_no_emulation(fetch, tmp_path):
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    debs = fetch(other, ("base-files", "base-passwd", "coreutils", "dash", "libc-bin", "mawk"), essential=False)
    layer = write_layer(userland_entries(debs, epoch=EPOCH, uarch=uarch(other)), tmp_path)
    entries = {entry.path: entry for entry in layer.entries}
    libc = f"usr/lib/{other}-linux-gnu/libc.so.6"
    content = read_files(layer, lambda entry: entry.path == libc)[libc]
    assert struct.unpack_from("<H", content, 18)[0] == {"aarch64": 183, "x86_64": 62}[other]
    assert {path: entries[path].target for path in ("bin", "lib", "sbin")} == {
        "bin": "usr/bin", "lib": "usr/lib", "sbin": "usr/sbin",
    }  # fmt: skip
    assert ("lib64" in entries) == (other == "x86_64")
    assert entries["etc/alternatives/awk"].target == "/usr/bin/mawk"
