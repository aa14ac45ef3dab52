"""Resolving wheels with uv against an index on loopback, and finding them again there."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from uenv_builder.model.errors import IncompatibleError, LockError, NetworkError, RecipeError, UsageError
from uenv_builder.model.lock import LockedWheel
from uenv_builder.sources.python_index import PythonIndex
from uenv_builder.sources.wheel import WheelRequest, read_accelerator, resolve_wheels, target_tags
from uenv_builder.system.events import Silent

SETTINGS = ("UENV_PYTHON_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL", "PIP_CONFIG_FILE",
            "UV_CONFIG_FILE", "XDG_CONFIG_DIRS")  # fmt: skip


def wheel_bytes(name, version, requires=()):
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
    return stream.getvalue()


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


class Server:
    """A simple repository API on loopback: `add` files, read `url`; every request's path is kept in `asked`."""

    def __init__(self, form):
        self.form = form
        self.files = {}
        self.yanked = {}
        self.metadata = {}
        self.asked = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                kind, content = server.answer(self.path)
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/simple"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, name, version, tag="py3-none-any", requires=()):
        file = f"{name.replace('-', '_')}-{version}-{tag}.whl"
        self.files[file] = (name, wheel_bytes(name, version, requires))
        return file

    def add_source(self, name, version):
        self.files[f"{name}-{version}.tar.gz"] = (name, b"not looked at")

    def answer(self, path):
        top, _, rest = path.strip("/").partition("/")
        if top == "files" and rest.removesuffix(".metadata") in self.metadata:
            return "text/plain", self.metadata[rest.removesuffix(".metadata")]
        if top == "files" and rest in self.files:
            return "application/octet-stream", self.files[rest][1]
        found = {file: content for file, (name, content) in self.files.items() if name == rest}
        if top != "simple" or not found:
            return None, b"no such thing"
        return self.json_page(rest, found) if self.form == "json" else self.html_page(found)

    def json_page(self, name, found):
        files = [
            {
                "filename": file, "url": f"/files/{file}", "size": len(content), "yanked": self.yanked.get(file, False),
                "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
            }
            | ({"core-metadata": {"sha256": digest_of(self.metadata[file])}} if file in self.metadata else {})
            for file, content in found.items()
        ]  # fmt: skip
        page = {"meta": {"api-version": "1.0"}, "name": name, "files": files}
        return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()

    def html_page(self, found):
        links = [
            f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}"'
            + (f' data-yanked="{self.yanked[file]}"' if file in self.yanked else "")
            + (f' data-core-metadata="sha256={digest_of(self.metadata[file])}"' if file in self.metadata else "")
            + f">{file}</a>"
            for file, content in found.items()
        ]
        return "text/html", f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>".encode()


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, tmp_path):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(home / "xdg"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(params=["json", "html"])
def server(request):
    server = Server(request.param)
    yield server
    server.http.shutdown()
    server.http.server_close()


def resolve(server, *requirements, keep=None, upgrade=frozenset(), extra=(), **more):
    index = PythonIndex(url=server if isinstance(server, str) else server.url, extra=extra)
    request = WheelRequest(
        requirements=requirements, python="3.13", machine="aarch64", glibc=more.pop("glibc", (2, 41)), **more
    )
    try:
        return resolve_wheels(request, index, listener=Silent(), keep=keep, upgrade=upgrade)
    finally:
        index.close()


def versions(resolved):
    return {wheel.name: wheel.version for wheel in resolved.wheels}


def findings(caught):
    return {finding.rule: finding for finding in caught.value.diagnostics}


def test_wheels_are_locked_with_size_and_hash_and_without_a_host(server):
    file = server.add("Demo.Pkg", "1.0", requires=["other>=1"])
    server.files = {file: ("demo-pkg", server.files[file][1])}
    server.add("other", "1.5")
    resolved = resolve(server, "demo-pkg")
    content = server.files[file][1]
    first = resolved.wheels[0]
    assert first == LockedWheel(
        name="demo-pkg", version="1.0", file=file, size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    assert versions(resolved) == {"demo-pkg": "1.0", "other": "1.5"}
    assert "127.0.0.1" not in repr(resolved)
    assert resolved.platform == "aarch64-manylinux_2_40"


class Notebook(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_only_warnings_that_matter_are_passed_on(server):
    server.add("one", "1.0")
    index, notebook = PythonIndex(url=server.url), Notebook()
    request = WheelRequest(requirements=("one[fast]",), python="3.13", machine="aarch64", glibc=(2, 41))
    resolve_wheels(request, index, listener=notebook)
    assert len(notebook.notes) == 1
    assert "fast" in notebook.notes[0]


def test_the_best_wheel_for_the_target_is_taken(server):
    server.add("demo", "1.0")
    server.add("demo", "1.0", "cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64")
    best = server.add("demo", "1.0", "cp313-cp313-manylinux_2_28_aarch64")
    server.add("demo", "1.0", "cp313-cp313-manylinux_2_28_x86_64")
    server.add("demo", "1.0", "cp314-cp314-manylinux_2_28_aarch64")
    server.add("demo", "1.0", "cp313-cp313t-manylinux_2_28_aarch64")
    assert [wheel.file for wheel in resolve(server, "demo").wheels] == [best]


def test_glibc_bounds_the_wheels(server):
    old = server.add("demo", "1.0", "cp313-cp313-manylinux_2_28_aarch64")
    server.add("demo", "1.0", "cp313-cp313-manylinux_2_34_aarch64")
    assert [wheel.file for wheel in resolve(server, "demo", glibc=(2, 31)).wheels] == [old]


def test_of_equal_tags_the_highest_build_number_wins(server):
    server.files["demo-1.0-2-py3-none-any.whl"] = ("demo", wheel_bytes("demo", "1.0"))
    server.files["demo-1.0-11-py3-none-any.whl"] = ("demo", wheel_bytes("demo", "1.0", ["pip; sys_platform == 'x'"]))
    assert resolve(server, "demo").wheels[0].file == "demo-1.0-11-py3-none-any.whl"


def test_tags_do_not_depend_on_this_machine():
    tags = [str(tag) for tag in target_tags("3.13", "aarch64", (2, 41))]
    assert tags[0] == "cp313-cp313-manylinux_2_41_aarch64"
    assert tags.index("cp313-cp313-manylinux2014_aarch64") < tags.index("cp313-abi3-manylinux_2_41_aarch64")
    assert tags[-1] == "py30-none-any"
    assert not any("x86_64" in tag or "macos" in tag or "musl" in tag for tag in tags)


def test_markers_are_those_of_the_target(server):
    server.add("demo", "1.0", requires=["arm; platform_machine == 'aarch64'", "intel; platform_machine == 'x86_64'"])
    server.add("arm", "1")
    server.add("intel", "1")
    assert versions(resolve(server, "demo")) == {"demo": "1.0", "arm": "1"}


def test_all_packages_without_a_wheel_are_named_at_once(server):
    server.add("alpha", "1.0", "cp313-cp313-win_amd64")
    server.add("alpha", "0.9", "cp313-cp313-manylinux_2_28_aarch64")
    server.add_source("beta", "2.0")
    server.add("gamma", "1.0", requires=["delta"])
    server.add("delta", "3.0", "cp39-cp39-manylinux_2_28_aarch64")
    with pytest.raises(IncompatibleError) as caught:
        resolve(server, "alpha==1.0", "beta", "gamma", "epsilon")
    assert sorted(caught.value.names) == ["alpha", "beta", "delta", "epsilon"]
    by_name = {name: next(d for d in caught.value.diagnostics if name in d.message) for name in caught.value.names}
    assert [by_name[name].rule for name in ("alpha", "beta", "delta")] == ["no-wheel"] * 3
    assert by_name["epsilon"].rule == "unknown-package"
    assert "win_amd64" in by_name["alpha"].message
    assert "Python 3.13 on aarch64 with glibc 2.41" in by_name["alpha"].message
    assert by_name["alpha"].hint == "versions of alpha with such a wheel: 0.9"
    assert "source archive" in by_name["beta"].message
    assert "required by gamma" in by_name["delta"].message
    assert "cp39" in by_name["delta"].message
    assert all(finding.hint for finding in caught.value.diagnostics)


def test_a_missing_wheel_and_a_conflict_are_both_told(server):
    server.add_source("alpha", "1.0")
    server.add("beta", "1.0", requires=["gamma<2"])
    server.add("gamma", "1.0")
    server.add("gamma", "2.0")
    with pytest.raises(IncompatibleError) as caught:
        resolve(server, "alpha", "beta", "gamma>=2")
    found = findings(caught)
    assert set(found) == {"no-wheel", "unsatisfiable"}
    assert "beta" in found["unsatisfiable"].message
    assert "gamma<2" in found["unsatisfiable"].message


def test_a_conflict_is_explained_in_one_plain_line(server):
    server.add("beta", "1.0", requires=["gamma<2"])
    server.add("gamma", "1.0")
    server.add("gamma", "2.0")
    with pytest.raises(IncompatibleError) as caught:
        resolve(server, "beta", "gamma>=2")
    message = caught.value.diagnostics[0].message
    assert caught.value.names == ()
    assert message.isascii()
    assert "\n" not in message
    assert "cause:" not in message


def test_overrides_and_constraints(server):
    server.add("beta", "1.0", requires=["gamma<2"])
    for version in ("1.0", "1.5", "2.0"):
        server.add("gamma", version)
    assert versions(resolve(server, "beta", constraints=("gamma<1.5",)))["gamma"] == "1.0"
    assert versions(resolve(server, "beta", overrides=("gamma>=2",)))["gamma"] == "2.0"


def test_versions_of_an_older_lock_are_kept_unless_they_are_renewed(server):
    for name in ("one", "two"):
        for version in ("1.0", "2.0"):
            server.add(name, version)
    keep = {"one": "1.0", "two": "1.0"}
    assert versions(resolve(server, "one", "two")) == {"one": "2.0", "two": "2.0"}
    assert versions(resolve(server, "one", "two", keep=keep)) == keep
    renewed = resolve(server, "one", "two", keep=keep, upgrade=frozenset({"two"}))
    assert versions(renewed) == {"one": "1.0", "two": "2.0"}
    assert versions(resolve(server, "one>=2", "two", keep=keep)) == {"one": "2.0", "two": "1.0"}


def test_a_withdrawn_version_is_refused_where_it_is_pinned_and_passed_over_where_not(server):
    server.add("one", "1.0")
    server.yanked[server.add("one", "2.0")] = "breaks things"
    assert versions(resolve(server, "one")) == {"one": "1.0"}
    with pytest.raises(IncompatibleError, match="breaks things") as caught:
        resolve(server, "one==2.0")
    assert caught.value.diagnostics[0].rule == "wheel-yanked"


@pytest.mark.parametrize("text", ["numpy>=>2", "-r /etc/passwd", "demo @ https://127.0.0.1/demo.whl"])
def test_requirements_that_cannot_be_locked(text):
    with pytest.raises(RecipeError) as caught:
        resolve("http://127.0.0.1:9/simple", text)
    assert caught.value.diagnostics[0].rule == "requirement"


def test_settings_of_uv_on_this_machine_do_not_change_the_result(server, monkeypatch, tmp_path):
    server.add("one", "1.0")
    server.add("one", "2.0")
    (tmp_path / "c.txt").write_text("one<2\n")
    for name, value in {
        "CONSTRAINT": tmp_path / "c.txt",
        "RESOLUTION": "lowest",
        "INDEX": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(f"UV_{name}", str(value))
    assert versions(resolve(server, "one")) == {"one": "2.0"}


def test_an_index_that_does_not_answer():
    with pytest.raises(NetworkError) as caught:
        resolve("http://someone:secret@127.0.0.1:9/simple", "demo")
    assert "secret" not in str(caught.value)


def test_an_extra_index_is_asked_first(server):
    server.add("one", "2.0")
    site = Server("json")
    try:
        file = site.add("one", "1.0")
        resolved = resolve(server, "one", extra=(site.url,))
        assert versions(resolved) == {"one": "1.0"}
        index = PythonIndex(url=server.url, extra=(site.url,))
        assert index.find_urls(resolved.wheels[0]) == (f"{site.url.removesuffix('/simple')}/files/{file}",)
        index.close()
    finally:
        site.http.shutdown()
        site.http.server_close()


def test_a_folder_of_wheels_is_an_index(tmp_path):
    folder = tmp_path / "my wheels"
    folder.mkdir()
    content = wheel_bytes("demo-pkg", "1.0")
    (folder / "demo_pkg-1.0-py3-none-any.whl").write_bytes(content)
    (folder / "demo_pkg_more-9.0-py3-none-any.whl").write_bytes(wheel_bytes("demo-pkg-more", "9.0"))
    index = PythonIndex.of_machine(configured=str(folder))
    request = WheelRequest(requirements=("demo-pkg",), python="3.13", machine="aarch64", glibc=(2, 41))
    (wheel,) = resolve_wheels(request, index, listener=Silent()).wheels
    assert (wheel.size, wheel.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert index.find_urls(wheel) == ((folder / wheel.file).as_uri(),)
    assert len(index.list_files("demo-pkg")) == 1
    (folder / wheel.file).write_bytes(b"other")
    with pytest.raises(LockError) as caught:
        index.find_urls(wheel)
    assert caught.value.diagnostics[0].rule == "wheel-replaced"


def test_a_folder_laid_out_like_a_server_is_an_index(tmp_path):
    project = tmp_path / "simple" / "demo"
    project.mkdir(parents=True)
    content = wheel_bytes("demo", "1.0")
    (project / "demo-1.0-py3-none-any.whl").write_bytes(content)
    name, digest = "demo-1.0-py3-none-any.whl", hashlib.sha256(content).hexdigest()
    (project / "index.html").write_text(f'<a href="{name}#sha256={digest}">{name}</a>')
    index = PythonIndex(url=(tmp_path / "simple").as_uri())
    request = WheelRequest(requirements=("demo",), python="3.13", machine="aarch64", glibc=(2, 41))
    (wheel,) = resolve_wheels(request, index, listener=Silent()).wheels
    assert wheel.size == len(content)
    assert index.find_urls(wheel) == ((project / name).as_uri(),)


def locked(server, file):
    name, content = server.files[file]
    return LockedWheel(
        name=name, version="1.0", file=file, size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


def test_finding_a_wheel_asks_once_for_each_project(server):
    wheels = [locked(server, server.add("one", "1.0", tag)) for tag in ("py3-none-any", "cp313-none-any")]
    index = PythonIndex(url=server.url)
    urls = [index.find_urls(wheel) for wheel in wheels]
    assert urls == [(f"{server.url.removesuffix('/simple')}/files/{wheel.file}",) for wheel in wheels]
    assert server.asked == ["/simple/one/"]
    index.close()


@pytest.mark.parametrize("rule", ["wheel-gone", "wheel-replaced", "wheel-yanked", "no project"])
def test_a_wheel_that_the_index_no_longer_serves(server, rule):
    file = server.add("one", "1.0")
    wheel = locked(server, file)
    server.add("one", "2.0")
    if rule == "wheel-gone":
        del server.files[file]
    elif rule == "wheel-replaced":
        server.files[file] = ("one", b"something else")
    elif rule == "wheel-yanked":
        server.yanked[file] = "has a hole"
    else:
        server.files.clear()
    index = PythonIndex(url=server.url)
    with pytest.raises(LockError, match=r"one.*1\.0") as caught:
        index.find_urls(wheel)
    assert caught.value.diagnostics[0].rule == rule.replace("no project", "wheel-gone")
    assert "uenv lock --upgrade one" in caught.value.diagnostics[0].hint
    index.close()


def test_passwords_reach_the_files_and_no_message(server):
    wheel = locked(server, server.add("one", "1.0"))
    index = PythonIndex(url=server.url.replace("//", "//someone:secret@"))
    assert index.find_urls(wheel)[0].startswith("http://someone:secret@127.0.0.1:")
    server.http.shutdown()
    server.http.server_close()
    index.close()
    with pytest.raises(NetworkError) as caught:
        index.find_urls(wheel.model_copy(update={"name": "two"}))
    assert "secret" not in str(caught.value)


def test_the_order_of_settings(monkeypatch, tmp_path):
    pip = tmp_path / "home/.config/pip/pip.conf"
    pip.parent.mkdir(parents=True)
    pip.write_text("[global]\nindex-url = http://pip-file/simple\n")
    assert PythonIndex.of_machine().url == "http://pip-file/simple"
    named = tmp_path / "named.conf"
    named.write_text("[install]\nindex_url = http://named/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(named))
    assert PythonIndex.of_machine().url == "http://named/simple"
    uv = tmp_path / "home/.config/uv/uv.toml"
    uv.parent.mkdir()
    uv.write_text('[[index]]\nurl = "http://a/simple"\n[[index]]\nurl = "http://uv-file/simple"\ndefault = true\n')
    assert PythonIndex.of_machine().url == "http://uv-file/simple"
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UENV_PYTHON_INDEX"):
        monkeypatch.setenv(name, f"http://{name.lower()}/simple")
        assert PythonIndex.of_machine().url == f"http://{name.lower()}/simple"
    assert PythonIndex.of_machine(configured="http://set/simple").url == "http://set/simple"


def test_pip_files_can_be_switched_off(monkeypatch, tmp_path):
    pip = tmp_path / "home/.pip/pip.conf"
    pip.parent.mkdir()
    pip.write_text("[global]\nindex-url = http://pip-file/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert PythonIndex.of_machine().url is None


@pytest.mark.parametrize(("file", "text"), [("pip/pip.conf", "no section\n"), ("uv/uv.toml", "index = 3 4\n")])
def test_a_configuration_file_that_cannot_be_read(tmp_path, file, text):
    path = tmp_path / "home/.config" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=path.name):
        PythonIndex.of_machine()


def wheels(**found):
    return [
        LockedWheel(name=name.replace("_", "-"), version=version, file="x.whl", size=1, sha256="0" * 64)
        for name, version in found.items()
    ]


CUDA = {"nvidia_cuda_runtime": "13.0.96", "nvidia_cudnn_cu13": "9.24.0.43", "nvidia_nccl_cu13": "2.30.7"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"torch": "2.14.1", **CUDA}, ("cuda", "13.0", "2.30.7", "9.24.0.43")),
        ({"torch": "2.10.0"}, ("cpu", None, None, None)),
        ({"torch": "2.10.0", "nvidia_nccl_cu13": "2.30.7"}, ("cpu", None, None, None)),
        ({"torch": "2.14.1+cpu", **CUDA}, ("cpu", None, None, None)),
        ({"torch": "2.8.0+cu128"}, ("cuda", "12.8", None, None)),
        (
            {
                "torch": "2.8.0",
                "nvidia_cuda_runtime_cu12": "12.8.90",
                "nvidia_cudnn_cu12": "9",
                "nvidia_nccl_cu12": "2",
            },
            ("cuda", "12.8", "2", "9"),
        ),
    ],
)
def test_what_torch_was_built_for(found, expected):
    got = read_accelerator(wheels(**found))
    assert (got.variant, got.cuda, got.nccl, got.cudnn) == expected
    assert got.torch == found["torch"]


def test_without_torch_there_is_no_accelerator():
    assert read_accelerator(wheels(**CUDA)) is None


@pytest.mark.parametrize(("machine", "variant"), [("aarch64", "cpu"), ("x86_64", "cuda")])
def test_torch_tells_itself_whether_it_needs_cuda(server, machine, variant):
    file = server.add("torch", "2.10.0", f"cp313-cp313-manylinux_2_28_{machine}")
    marker = "platform_system == 'Linux' and platform_machine == 'x86_64'"
    server.metadata[file] = (
        f"Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\nRequires-Dist: sympy\n"
        f"Requires-Dist: nvidia-cudnn-cu13==9.24.0.43; {marker}\n"
    ).encode()
    index = PythonIndex(url=server.url)
    found = [locked(server, file), *wheels(**CUDA)]
    assert read_accelerator(found, index=index).variant == variant
    index.close()


def test_metadata_that_is_not_what_the_index_promised_is_not_believed(server):
    file = server.add("torch", "2.10.0", "cp313-cp313-manylinux_2_28_aarch64")
    server.metadata[file] = b"Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n"
    index = PythonIndex(url=server.url)
    index.list_files("torch")
    server.metadata[file] = b"Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\nRequires-Dist: nvidia-nccl-cu13\n"
    assert index.read_requirements(locked(server, file)) is None
    index.close()
