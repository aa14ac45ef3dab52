"""Downloads against a server that does everything wrong, interrupted in every way."""

import errno
import gzip
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from faulty_server import Answer, serving

from uenv_builder.model.errors import BuildError, LockError, NetworkError
from uenv_builder.system.download import Download, Downloader, backoff
from uenv_builder.system.events import Silent
from uenv_builder.system.files import sha256_of
from uenv_builder.system.store import Store
from uenv_builder.system.transfer import asked_wait
from uenv_builder.system.urls import public

CONTENT = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(2).randbytes(300_000)


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes, self.totals, self.done = [], {}, Counter()

    @contextmanager
    def task(self, title, total=None):
        self.totals[title] = total
        recorder = self

        class Task:
            def advance(self, amount):
                assert amount > 0  # what comes again is not told again, and nothing goes back
                recorder.done[title] += amount

        yield Task()

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with serving() as running:
        running.files["/f"] = CONTENT
        yield running


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def downloader(store, recorder):
    return Downloader(store, recorder, attempts=3, delay=0.001, timeouts=(5.0, 20.0))


def wanted(*urls, content=CONTENT, name="f 1.0"):
    return Download(name=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content), urls=urls)


def part_of(store, sha256=SHA):
    return store.download_path(sha256).with_name(f"{sha256}.part")


def put_part(store, content, sha256=SHA):
    part_of(store, sha256).parent.mkdir(parents=True)
    part_of(store, sha256).write_bytes(content)


def test_fetched_once_and_then_from_the_store(server, store, downloader, recorder):
    path = downloader.fetch(wanted(server.url("/f")))
    assert path == store.download_path(SHA)
    assert path.read_bytes() == CONTENT
    assert recorder.totals == {"f 1.0": len(CONTENT)}
    assert recorder.done == {"f 1.0": len(CONTENT)}
    assert downloader.fetch(wanted(server.url("/f"))) == path
    assert len(server.asked) == 1
    assert list(path.parent.iterdir()) == [path]


def test_urls_are_only_looked_up_for_what_is_missing(server, downloader):
    queries = []

    def look_up():
        queries.append(1)
        return [server.url("/f")]

    download = Download(name="f", sha256=SHA, size=len(CONTENT), urls=look_up)
    downloader.fetch(download)
    downloader.fetch(download)
    assert downloader.fetch_all([download]) == {SHA: downloader.fetch(download)}
    assert len(queries) == 1


def test_content_encoding_is_left_alone(server, downloader):
    packed = gzip.compress(CONTENT, mtime=0)
    server.files["/f.gz"] = packed
    server.scripts["/f.gz"].append(Answer(headers={"Content-Encoding": "gzip"}))
    assert downloader.fetch(wanted(server.url("/f.gz"), content=packed)).read_bytes() == packed
    assert server.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_faults_that_pass_are_tried_again(server, downloader, recorder, status):
    server.scripts["/f"].extend([Answer(status=status), Answer(status=status)])
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert sum(f"HTTP {status}" in note for note in recorder.notes) == 2


def test_patience_ends(server, downloader):
    server.scripts["/f"].extend([Answer(status=500)] * 9)
    with pytest.raises(NetworkError, match=r"HTTP 500 .*\(3 attempts\)"):
        downloader.fetch(wanted(server.url("/f")))
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_move_on_at_once(server, downloader, status):
    server.scripts["/gone"].append(Answer(status=status))
    assert downloader.fetch(wanted(server.url("/gone"), server.url("/f"))).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/gone", "/f"]


def test_the_server_says_when_to_come_back(server, downloader, recorder):
    server.scripts["/f"].append(Answer(status=429, headers={"Retry-After": "1"}))
    downloader.fetch(wanted(server.url("/f")))
    (note,) = recorder.notes
    assert 1.0 <= float(re.search(r"again in ([0-9.]+) s", note)[1]) <= 1.3


def test_waits_double_and_are_capped():
    for failures in range(1, 30):
        assert min(60, 2 ** (failures - 1)) <= backoff(failures, None, 1.0) <= min(60, 1.25 * 2 ** (failures - 1))
    assert backoff(1, 86400.0, 1.0) == 60.0
    assert backoff(9, 0.0, 1.0) == 0.0


def test_retry_after_is_a_number_or_a_date():
    assert asked_wait("7") == 7.0
    assert asked_wait(None) is None
    assert asked_wait("soon") is None
    assert asked_wait("²") is None
    assert asked_wait(format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)) == 0.0
    assert 3000 < asked_wait(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)) <= 3600


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_resumed(server, downloader, recorder, reset):
    server.scripts["/f"].append(Answer(send=200_000, reset=reset))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    first, second = server.ranges("/f")
    assert first is None
    if not reset:  # what a reset overtakes in the kernel is lost
        assert second == "bytes=200000-"
    assert recorder.done["f 1.0"] == len(CONTENT)


def test_no_attempt_is_lost_while_more_comes(server, downloader):
    server.scripts["/f"].extend(Answer(send=40_000) for _ in range(7))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert len(server.asked) == 8


def test_a_body_that_never_comes_whole_is_given_up_and_kept(server, store, downloader):
    server.scripts["/f"].extend([Answer(send=100_000), *[Answer(send=0)] * 9])
    with pytest.raises(NetworkError, match="attempts"):
        downloader.fetch(wanted(server.url("/f")))
    assert part_of(store).read_bytes() == CONTENT[:100_000]
    server.scripts["/f"].clear()
    downloader.fetch(wanted(server.url("/f")))
    assert server.ranges("/f")[-1] == "bytes=100000-"


def test_a_short_body_of_unknown_length_is_no_file(server, downloader, recorder):
    server.scripts["/f"].append(Answer(send=123, length=False))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert "ended after 123 of 300,000 bytes" in recorder.notes[0]


def test_a_server_without_ranges_sends_all_again(server, store, downloader, recorder):
    put_part(store, CONTENT[:70_000])
    server.scripts["/f"].append(Answer(ranges=False))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f") == ["bytes=70000-"]
    assert recorder.done["f 1.0"] == len(CONTENT)


def test_a_server_with_other_ranges_is_not_believed(server, store, downloader):
    put_part(store, CONTENT[:70_000])
    odd = Answer(status=206, content=CONTENT[90_000:], headers={"Content-Range": "bytes 90000-299999/300000"})
    server.scripts["/odd"].append(odd)
    with pytest.raises(NetworkError, match="asked for the bytes from 70,000, and sent those from 90,000"):
        downloader.fetch(wanted(server.url("/odd")))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "left", [OTHER[:70_000], OTHER, CONTENT + b"more", b""], ids=["begin", "whole", "long", "none"]
)
def test_a_wrong_beginning_is_no_fault_of_the_server(server, store, downloader, left):
    put_part(store, left)
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f")[-1] is None


def test_a_mirror_does_not_spoil_the_next_one(server, downloader):
    server.scripts["/bad"].extend([Answer(content=OTHER, send=100_000), *[Answer(status=503)] * 9])
    assert downloader.fetch(wanted(server.url("/bad"), server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f") == ["bytes=100000-", None]


def test_a_refused_range_begins_anew(server, store, downloader):
    put_part(store, CONTENT[:70_000])
    server.scripts["/f"].append(Answer(status=416))
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f") == ["bytes=70000-", None]


def test_a_complete_part_needs_no_request(server, store, downloader):
    put_part(store, CONTENT)
    assert downloader.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(content=OTHER), f"has sha256 {hashlib.sha256(OTHER).hexdigest()}, expected {SHA}"),
        (Answer(content=CONTENT + b"x"), "has 300,001 bytes, expected 300,000"),
        (Answer(content=CONTENT[:-1]), "has 299,999 bytes, expected 300,000"),
        (Answer(content=CONTENT + b"x" * 9, length=False), "is longer than the 300,000 bytes"),
    ],
    ids=["other", "long", "short", "long-unannounced"],
)
def test_wrong_content_fails_over_and_is_then_an_error(server, store, downloader, answer, reason):
    server.scripts["/bad"].extend([answer] * 2)
    assert downloader.fetch(wanted(server.url("/bad"), server.url("/f"))).read_bytes() == CONTENT
    store.download_path(SHA).unlink()
    with pytest.raises(LockError, match=reason) as caught:
        downloader.fetch(wanted(server.url("/bad", user="me:secret@"), server.url("/gone")))
    (finding,) = caught.value.diagnostics
    assert finding.rule == "hash-mismatch"
    assert server.url("/bad") in finding.message
    assert "secret" not in finding.message
    assert "404" in finding.message
    assert finding.hint
    assert len(server.ranges("/bad")) == 2
    assert list(store.download_path(SHA).parent.iterdir()) == []


def test_an_endless_body_is_stopped(server, downloader):
    server.scripts["/f"].append(Answer(content=CONTENT * 2, send=310_000, hold=True, length=False))
    with pytest.raises(LockError, match="is longer than"):
        downloader.fetch(wanted(server.url("/f")))
    assert not server.release.is_set()


def test_all_places_are_named_without_passwords(server, downloader, tmp_path):
    urls = [
        server.url("/a", user="me:secret@"), "http://127.0.0.1:1/b", (tmp_path / "c").as_uri(), tmp_path.as_uri(),
        "nonsense", "http://[1/d", "gopher://127.0.0.1/e",
    ]  # fmt: skip
    with pytest.raises(NetworkError) as caught:
        downloader.fetch(wanted(*urls))
    text = str(caught.value)
    assert "secret" not in text
    lines = [line.strip() for line in text.splitlines()]
    assert f"{server.url('/a')}: HTTP 404 Not Found" in lines
    assert "http://127.0.0.1:1/b: [Errno 111] Connection refused (2 attempts)" in lines
    assert f"{(tmp_path / 'c').as_uri()}: No such file or directory" in lines
    assert f"{tmp_path.as_uri()}: Is a directory" in lines
    assert sum(line.startswith(("nonsense: ", "http://[1/d: ", "gopher://127.0.0.1/e: ")) for line in lines) == 3
    assert "hint: " in text
    with pytest.raises(NetworkError, match="no place is known"):
        downloader.fetch(wanted())


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@/x", "me:secret@host/x", "http://me:secret@127.0.0.1:99999/x", "gopher://me:secret@host/x",
        "http://me:se/secret@127.0.0.1:1/x", "http://me:secret@[::1/x", "http://me:secret@exa mple/x",
        "https://me:secret@127.0.0.1:1/x",
    ],
)  # fmt: skip
def test_no_message_has_the_password(store, recorder, url):
    downloader = Downloader(store, recorder, attempts=2, delay=0.001)
    for ask in (lambda: downloader.fetch(wanted(url)), lambda: downloader.get_bytes(url)):
        with pytest.raises(NetworkError) as caught:
            ask()
        assert "secret" not in f"{caught.value}{recorder.notes}"
        assert "me:" not in f"{caught.value}{recorder.notes}"
        assert "/x" in str(caught.value)
    offline = Downloader(store, recorder, offline=True)
    with pytest.raises(NetworkError) as caught:
        offline.get_bytes(url)
    assert "secret" not in str(caught.value)


def test_a_folder_with_an_at_sign_keeps_its_name():
    assert public("file:///a@b/c") == "file:///a@b/c"
    assert public("https://me:pw@host/a@b?c@d") == "https://host/a@b?c@d"


def test_a_silent_server_is_left(server, store):
    server.scripts["/silent"].append(Answer(content=CONTENT, send=100_000, hold=True))
    impatient = Downloader(store, Silent(), attempts=1, delay=0.001, timeouts=(5.0, 0.2))
    with pytest.raises(NetworkError, match="timed out"):
        impatient.fetch(wanted(server.url("/silent")))
    assert part_of(store).stat().st_size > 0
    assert impatient.fetch(wanted(server.url("/f"))).read_bytes() == CONTENT


def test_redirects_are_followed_and_loops_are_not(server, downloader):
    server.scripts["/moved"].append(Answer(status=302, headers={"Location": "/f"}))
    server.scripts["/loop"].extend([Answer(status=302, headers={"Location": "/loop"})] * 40)
    assert downloader.fetch(wanted(server.url("/loop"), server.url("/moved"))).read_bytes() == CONTENT
    assert len(server.ranges("/loop")) == 31  # the 30 that requests follows, once


def test_netrc_is_used(server, downloader, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    downloader.fetch(wanted(server.url("/f")))
    assert server.headers[0]["Authorization"].startswith("Basic ")


def test_folders_serve_as_mirrors(tmp_path, store, downloader):
    place = tmp_path / "a folder"
    place.mkdir()
    (place / "short").write_bytes(CONTENT[:-1])
    (place / "right").write_bytes(CONTENT)
    path = downloader.fetch(wanted((place / "short").as_uri(), (place / "right").as_uri()))
    assert path.read_bytes() == CONTENT
    assert path.stat().st_ino != (place / "right").stat().st_ino


def test_offline_names_what_is_missing_and_uses_folders(server, store, tmp_path):
    offline = Downloader(store, Silent(), offline=True)
    (tmp_path / "local").write_bytes(OTHER)
    downloads = [
        wanted(server.url("/f"), name="one"),
        wanted(server.url("/o"), (tmp_path / "local").as_uri(), content=OTHER, name="two"),
        Download(name="three", sha256="0" * 64, size=12_345, urls=lambda: pytest.fail("asks the network")),
    ]
    with pytest.raises(NetworkError) as caught:
        offline.fetch_all(downloads)
    assert [finding.rule for finding in caught.value.diagnostics] == ["offline", "offline"]
    assert caught.value.diagnostics[0].message.startswith("one (300,000 bytes) ")
    assert caught.value.diagnostics[1].message.startswith("three (12,345 bytes) ")
    assert offline.fetch(downloads[1]).read_bytes() == OTHER
    with pytest.raises(NetworkError, match="--offline"):
        offline.get_text(server.url("/f"))
    assert server.asked == []


def test_several_at_once_with_totals(server, downloader, recorder):
    contents = [random.Random(number).randbytes(1000 * number) for number in range(12)]
    downloads = []
    for number, content in enumerate(contents):
        server.files[f"/{number}"] = content
        downloads.append(wanted(server.url(f"/{number}"), content=content, name=str(number)))
    server.scripts["/7"].append(Answer(send=10))
    fetched = downloader.fetch_all([*downloads, downloads[3]])
    assert [fetched[item.sha256].read_bytes() for item in downloads] == contents
    assert recorder.totals["downloading 12 files"] == 66_000
    assert recorder.done["downloading 12 files"] == 66_000
    assert recorder.done["7"] == 7000
    assert len(server.ranges("/3")) == 1


def test_all_failures_are_reported_in_order(server, downloader):
    server.files["/wrong"] = OTHER
    downloads = [
        wanted(server.url("/wrong"), content=b"1", name="one"),
        wanted(server.url("/f"), name="two"),
        wanted(server.url("/gone"), content=b"3", name="three"),
    ]
    for order in (downloads, downloads[::-1]):
        with pytest.raises((LockError, NetworkError)) as caught:
            downloader.fetch_all(order)
        failing = [item for item in order if item.name != "two"]
        assert [finding.message.split()[0].rstrip(":") for finding in caught.value.diagnostics] == [
            item.name for item in failing
        ]
        assert caught.value.exit_code == (5 if failing[0].name == "one" else 9)
    assert downloader.fetch(downloads[1]).read_bytes() == CONTENT


def test_documents(server, downloader):
    server.files["/index"] = "grün\n".encode()
    server.files["/binary"] = b"\xff"
    server.scripts["/index"].extend([Answer(status=500), Answer(send=2)])
    assert downloader.get_text(server.url("/index")) == "grün\n"
    assert downloader.get_bytes(server.url("/binary")) == b"\xff"
    with pytest.raises(NetworkError, match="not text in UTF-8"):
        downloader.get_text(server.url("/binary"))
    with pytest.raises(NetworkError, match="HTTP 404"):
        downloader.get_text(server.url("/gone"))


def test_no_space_is_explained_and_what_came_is_kept(server, store, tmp_path):
    """RLIMIT_FSIZE stands for the full disk: the kernel refuses to write more."""
    code = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (131072, 131072))
        fetch("{server.url("/f")}")
    """
    done = run_python(store, code)
    assert done.returncode == 6, done.stderr
    assert re.search(r"\.part: the file is larger than is allowed here \([0-9,]+ bytes free\)", done.stderr)
    assert "error[no-space]" in done.stderr
    assert "UENV_CACHE" in done.stderr
    assert 0 < part_of(store).stat().st_size <= 131072
    assert Downloader(store, Silent()).fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f")[1] == "bytes=131072-"


@pytest.mark.root
def test_a_full_file_system(server):
    """The same on a small tmpfs in a mount namespace of its own."""
    script = program(Path("/mnt/store"), f'fetch("{server.url("/f")}")')
    command = ["unshare", "-m", "sh", "-ec", 'mount -t tmpfs -o size=128k none /mnt; exec "$0" -c "$1"']
    done = subprocess.run([*command, sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 6, done.stderr
    assert re.search(r"error\[no-space\]: /mnt/store/\S*: no space left \(0 bytes free\)", done.stderr)


def test_a_write_that_fails_is_no_fault_of_the_network(server, store, downloader, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))))
    with pytest.raises(BuildError, match="quota") as caught:
        downloader.fetch(wanted(server.url("/f"), server.url("/f")))
    assert caught.value.diagnostics[0].rule == "no-space"
    assert len(server.asked) == 1
    assert not store.has_download(SHA, len(CONTENT))


def program(root, code):
    """A Python program with `fetch(*urls)` for a store at `root`; ends as the command does."""
    return textwrap.dedent("""
        import sys
        from pathlib import Path
        from uenv_builder.model.errors import UenvError
        from uenv_builder.system.download import Download, Downloader
        from uenv_builder.system.events import Silent
        from uenv_builder.system.store import Store

        class Loud(Silent):
            def note(self, text):
                print(text, flush=True)

        def fetch(*urls):
            downloader = Downloader(Store(Path({root!r})), Loud(), delay=0.001)
            wanted = [Download(name=url, sha256={sha!r}, size={size}, urls=[url]) for url in urls]
            try:
                downloader.fetch_all(wanted)
            except UenvError as error:
                print(error, file=sys.stderr)
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                sys.exit(130)
    """).format(root=str(root), sha=SHA, size=len(CONTENT)) + textwrap.dedent(code)


def run_python(store, code):
    command = [sys.executable, "-c", program(store.root, code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def started(store, code):
    command = [sys.executable, "-c", program(store.root, code)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_interrupted_processes_leave_what_came_and_the_next_one_goes_on(server, store, name, code):
    """The server is silent in the middle of the file: Ctrl-C ends the process all the same."""
    server.scripts["/f"].append(Answer(send=196_608, hold=True))
    with started(store, f'fetch("{server.url("/f")}")') as process:
        assert server.held.wait(60)
        wait_for(lambda: part_of(store).exists() and part_of(store).stat().st_size == 196_608)
        process.send_signal(signal.Signals[name])
        assert process.wait(30) == code
    assert not store.has_download(SHA, len(CONTENT))
    assert Downloader(store, Silent()).fetch(wanted(server.url("/f"))).read_bytes() == CONTENT
    assert server.ranges("/f") == [None, "bytes=196608-"]


def wait_for(condition):
    pause = threading.Event()
    for _ in range(1200):
        if condition():
            return
        pause.wait(0.05)
    pytest.fail("never came true")


def test_two_processes_fetch_it_once(server, store):
    server.scripts["/f"].append(Answer(send=100_000, hold=True))
    code = f'fetch("{server.url("/f")}")'
    with started(store, code) as first:
        assert server.held.wait(60)
        with started(store, code) as second:
            assert second.stdout.readline().startswith("waiting for another download of ")
            server.release.set()
            assert second.wait(60) == 0
        assert first.wait(60) == 0
    assert len(server.asked) == 1
    assert sha256_of(store.download_path(SHA)) == SHA


def test_the_second_process_takes_over_from_a_killed_one(server, store):
    server.scripts["/f"].append(Answer(send=131_072, hold=True))
    code = f'fetch("{server.url("/f")}")'
    with started(store, code) as first:
        assert server.held.wait(60)
        wait_for(lambda: part_of(store).exists() and part_of(store).stat().st_size == 131_072)
        with started(store, code) as second:
            assert second.stdout.readline().startswith("waiting for another download of ")
            first.kill()
            assert second.wait(60) == 0
    assert server.ranges("/f") == [None, "bytes=131072-"]


def test_a_stop_ends_a_download_in_another_thread(server, store):
    downloader = Downloader(store, Silent())
    server.scripts["/f"].append(Answer(send=131_072, hold=True))
    ended = []

    def work():
        try:
            downloader.fetch(wanted(server.url("/f")))
        except KeyboardInterrupt:
            ended.append("interrupted")

    thread = threading.Thread(target=work)
    thread.start()
    assert server.held.wait(60)
    downloader.stop()
    server.release.set()
    thread.join(60)
    assert ended == ["interrupted"]
    assert part_of(store).exists()
