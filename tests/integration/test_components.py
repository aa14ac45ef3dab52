"""Components from source through the whole product: lock, build and checks, for both machines; every build system."""

import functools
import http.server
import io
import os
import pty
import shutil
import subprocess
import tarfile
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from damaged_git import damage_objects
from uenv_command import ROOT, Uenv, refused

RECIPE = """\
name: fabric
version: "1.0"
description: Components of every kind
targets:
  - {system: generic-x86_64, uarch: x86_64}
  - {system: generic-aarch64, uarch: aarch64}
base:
  debian:
    suite: trixie
    essential: false
    packages: [base-files, base-passwd, dash, coreutils, libc-bin]
components:
  libfabric: {options: {providers: tcp shm}}
  hello: {}
  tell: {debug: true}
"""

# A library from a git repository, with a plain Makefile that knows nothing of cross compilers.
GREET = {
    "greet.h": "const char *greeting(void);\n",
    "greet.c": '#include "greet.h"\nconst char *greeting(void) { return "good morning"; }\n',
    "Makefile": "CC = cc\n"
    "libgreet.so: greet.c\n\t$(CC) $(CFLAGS) -shared -fPIC -Wl,-soname,libgreet.so -o $@ greet.c\n"
    "install: libgreet.so\n"
    "\tinstall -D -m 755 libgreet.so $(DESTDIR)$(PREFIX)/lib/libgreet.so\n"
    "\tinstall -D -m 644 greet.h $(DESTDIR)$(PREFIX)/include/greet.h\n",
}
GREET_YAML = """\
name: greet
description: A library with a Makefile, from a git repository
versions:
  "1.0":
    sources: [{git: ["URL"], commit: "COMMIT"}]
"""
GREET_BUILD = 'make CC="$CC" CFLAGS="$CFLAGS"\nmake install\n'

# A program with CMake, from an archive; a patch and an option change what it says.
HELLO = {
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.20)\nproject(hello C)\n"
    "find_library(GREET greet REQUIRED)\nfind_path(GREET_H greet.h REQUIRED)\n"
    'add_executable(hello hello.c)\ntarget_compile_definitions(hello PRIVATE NAME="${NAME}")\n'
    "target_include_directories(hello PRIVATE ${GREET_H})\ntarget_link_libraries(hello ${GREET})\n"
    "install(TARGETS hello)\n",
    "hello.c": '#include <stdio.h>\n#include <greet.h>\nint main(void) { printf("%s, %s\\n", greeting(), NAME); }\n',
}
PATCH = """\
--- a/hello.c
+++ b/hello.c
@@ -1,3 +1,3 @@
 #include <stdio.h>
 #include <greet.h>
-int main(void) { printf("%s, %s\\n", greeting(), NAME); }
+int main(void) { printf("%s, dear %s\\n", greeting(), NAME); return 0; }
"""
HELLO_YAML = """\
name: hello
description: A program with CMake
needs: {components: [greet]}
build: {tools: [cmake]}
options: {whom: {description: Whom it greets, default: world}}
versions:
  "1.0":
    sources: [{archive: ["URL/gone/hello.tar.gz", "URL/hello.tar.gz"], sha256: "SHA256"}]
    patches: [dear.patch]
"""
HELLO_BUILD = "cmake -S . -B out $CMAKE_FLAGS -DNAME={{ options.whom }}\ncmake --build out\ncmake --install out\n"
HELLO_CHECK = 'test "$(hello)" = "good morning, dear world"\n'

# A program with Autotools, made without its configure script.
TELL = {
    "configure.ac": "AC_INIT([tell], [1.0])\nAM_INIT_AUTOMAKE([foreign])\nAC_PROG_CC\n"
    "AC_SEARCH_LIBS([greeting], [greet], [], [AC_MSG_ERROR([no greet])])\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n",
    "Makefile.am": "bin_PROGRAMS = tell\ntell_SOURCES = tell.c\n",
    "tell.c": "#include <stdio.h>\n#include <greet.h>\n"
    'int main(void) { printf("%s from " __FILE__ "\\n", greeting()); return 0; }\n',
}
TELL_YAML = """\
name: tell
description: A program with Autotools
needs: {components: ["greet>=1"]}
build: {tools: [autoconf, automake, libtool]}
versions:
  "1.0":
    sources: [{archive: ["URL/tell.tar.xz"], sha256: "SHA256"}]
"""
TELL_BUILD = (
    "autoreconf --install\nmkdir out\ncd out\n"
    '"$PWD/../configure" $CONFIGURE_FLAGS\nmake\nmake install\n'
    'touch "$DESTDIR$PREFIX/bin/tell.la"\n'
)


def pack(files, name, mode):
    """A tar archive of `files` below a folder, as upstreams make them; always the same bytes but for gzip's time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size, info.mtime = len(text), 1_700_000_000
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def write_component(folder, description, build, *, check=None, **files):
    folder.mkdir(parents=True)
    (folder / "component.yaml").write_text(description)
    (folder / "build.sh.j2").write_text(build)
    if check:
        (folder / "check.sh").write_text(check)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


def commit(folder):
    folder.mkdir()
    for name, text in GREET.items():
        (folder / name).write_text(text)
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@dataclass
class Stack:
    """The recipe with its components, and the command that works on them."""

    folder: Path
    uenv: Uenv
    archives: Path

    @property
    def recipe(self):
        return str(self.folder / "fabric")

    def build(self, uarch, *options):
        return self.uenv.run("build", self.recipe, "--uarch", uarch, "--json", *options)

    def image(self, uarch):
        return str(self.uenv.folder / "build" / f"fabric-1.0-{uarch}")

    def says(self, uarch, *command):
        return self.uenv.ok("exec", self.image(uarch), "--", *command).stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory, session_cache):
    folder = tmp_path_factory.mktemp("components")
    archives = folder / "archives"
    archives.mkdir()
    (archives / "hello.tar.gz").write_bytes(pack(HELLO, "hello", "w:gz"))
    (archives / "tell.tar.xz").write_bytes(pack(TELL, "tell", "w:xz"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archives))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        place = folder / "components"
        shutil.copytree(ROOT / "tests/recipes/components", place)
        source = folder / "greet-source"
        greet = GREET_YAML.replace("COMMIT", commit(source)).replace("URL", source.as_uri())
        write_component(place / "greet", greet, GREET_BUILD)
        for name, text, build, more in (
            ("hello", HELLO_YAML, HELLO_BUILD, {"dear_patch": PATCH, "check": HELLO_CHECK}),
            ("tell", TELL_YAML, TELL_BUILD, {"check": "echo there is nobody to tell\nexit 77\n"}),
        ):
            (archive,) = archives.glob(f"{name}.*")
            description = text.replace("URL", url).replace("SHA256", sha256(archive.read_bytes()).hexdigest())
            write_component(place / name, description, build, **more)
        (folder / "fabric").mkdir()
        (folder / "fabric" / "recipe.yaml").write_text(RECIPE)
        (folder / "here").mkdir()
        try:
            yield Stack(folder, Uenv(folder / "here", session_cache), archives)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("uarch", ["x86_64", "aarch64"])
def test_an_image_with_components_for_either_machine(stack, uarch):
    done = stack.build(uarch)
    assert done.code == 0, done.stderr
    built = done.document
    assert built["outcome"] == "passed"
    names = ["libfabric", "greet", "hello", "tell"]
    assert [name for name, _ in built["manifest"]["components"]] == names
    assert set(built["seconds"]) == set(built["built"]) >= {"greet 1.0", "hello 1.0"}
    assert built["seconds"]["greet 1.0"] > 0
    report = (Path(stack.image(uarch)) / "report.json").read_text()
    for name in ("libfabric", "hello"):
        assert f'"component-{name}"' in report
    # Cross-compiled or not: programs of that machine, linked with each other.
    assert "provider: tcp" in stack.says(uarch, "fi_info", "-p", "tcp")
    assert stack.says(uarch, "hello") == "good morning, dear world\n"
    assert stack.says(uarch, "tell") == "good morning from /usr/src/tell-1.0/out/../tell.c\n"
    # Nothing else of the build is in the image.
    there = stack.says(uarch, "ls", "/usr/local/bin", "/usr/local/lib", "/usr/bin")
    assert "tell.la" not in there
    assert not {"gcc", "make", "cmake", "aarch64-linux-gnu-gcc"} & set(there.split())
    assert not stack.uenv.run("exec", stack.image(uarch), "--", "ls", "/build", "/sysroot").stdout.strip()
    assert stack.says(uarch, "ls", "/usr/lib/debug/.build-id").strip()


def test_only_what_changed_is_compiled_again_and_gives_the_same_bytes(stack):
    first = stack.build("x86_64")
    assert first.code == 0, first.stderr
    assert not first.document["built"]
    script = stack.folder / "components/hello/build.sh.j2"
    script.write_text(HELLO_BUILD + "true\n")
    changed = stack.build("x86_64").document["built"]
    assert "hello 1.0" in changed
    assert not {"libfabric 2.1.0", "greet 1.0", "tell 1.0"} & set(changed)
    script.write_text(HELLO_BUILD)
    step = next(step for step in first.document["manifest"]["steps"] if step["name"] == "tell 1.0")
    shutil.rmtree(stack.uenv.cache / "steps" / step["id"][:2] / step["id"])
    again = stack.build("x86_64", "--locked")
    assert "tell 1.0" in again.document["built"]
    assert again.document["manifest"]["oci"] == first.document["manifest"]["oci"]
    assert again.document["manifest"]["squashfs"] == first.document["manifest"]["squashfs"]


def has_commit(repository, wanted):
    command = ["git", "-C", repository, "cat-file", "-e", wanted]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_damaged_commit_in_the_store_is_fetched_anew_and_not_compiled(stack):
    first = stack.build("x86_64").document
    step = next(step for step in first["manifest"]["steps"] if step["name"] == "greet 1.0")
    shutil.rmtree(stack.uenv.cache / "steps" / step["id"][:2] / step["id"])
    wanted = subprocess.run(
        ["git", "-C", stack.folder / "greet-source", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    [repository] = [path for path in stack.uenv.cache.glob("steps/*/*/repository.git") if has_commit(path, wanted)]
    damage_objects(repository)
    again = stack.build("x86_64", "--locked")
    assert again.code == 0, again.stderr
    assert "dropped what is damaged in the store, to be made anew: source of greet 1.0" in again.stderr
    assert "greet 1.0" in again.document["built"]
    assert again.document["manifest"]["squashfs"] == first["manifest"]["squashfs"]


@pytest.fixture
def broken(stack):
    """The recipe with a script that fails."""
    script = stack.folder / "components/hello/build.sh.j2"
    script.write_text("echo first words >marked\necho the reason\nfalse\necho never said\n")
    yield stack
    script.write_text(HELLO_BUILD)


def test_a_component_that_does_not_build_says_why(broken):
    done = broken.build("x86_64")
    refused(done, 6, "error[component-build]", "hello 1.0 did not build (exit 1)", "\n    the reason")
    assert "never said" not in done.stderr
    log = next(word for word in done.stderr.split() if word.endswith(".log"))
    assert "the reason" in Path(log).read_text()
    refused(broken.build("x86_64", "--shell-on-failure"), 2, "no terminal")


def test_a_shell_opens_where_a_component_failed(broken):
    ours, theirs = pty.openpty()
    words = broken.uenv.command("build", broken.recipe, "--uarch", "x86_64", "--shell-on-failure", "--verbose")
    process = subprocess.Popen(
        words, cwd=broken.uenv.folder, env=broken.uenv.environment(), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b'echo "in $PWD: $(cat marked) for $PREFIX"\nexit\n')
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 6
    assert "in /build/src: first words for /usr/local" in shown.decode()


def test_offline_everything_that_is_missing_is_named(stack, alone):
    shutil.copytree(stack.folder / "fabric", alone.folder / "fabric")
    shutil.copytree(stack.folder / "components", alone.folder / "components")
    done = alone.run("build", str(alone.folder / "fabric"), "--uarch", "x86_64", "--offline")
    refused(done, 9, "libfabric_2.1.0.orig.tar.xz", "hello.tar.gz", "of greet-source: a git commit", "gcc-14 ")
