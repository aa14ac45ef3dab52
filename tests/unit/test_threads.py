"""Work in threads: errors in the order of the work, and nothing that keeps an interrupted process waiting."""

import threading

import pytest

from uenv_builder.model.errors import BuildError
from uenv_builder.system.threads import run_in_threads


def test_errors_come_in_the_order_of_the_work_and_not_of_its_end():
    second_failed = threading.Event()

    def first():
        assert second_failed.wait(60)
        raise BuildError("first")

    def second():
        try:
            raise BuildError("second")
        finally:
            second_failed.set()

    errors = run_in_threads([first, lambda: None, second], jobs=3, stop=lambda: pytest.fail("stopped"))
    assert [error.diagnostics[0].message for error in errors] == ["first", "second"]


def test_no_more_than_so_many_at_once_and_begun_in_order():
    begun, running, most, lock = [], set(), [], threading.Lock()

    def task(number):
        with lock:
            begun.append(number)
            running.add(number)
            most.append(len(running))
        threading.Event().wait(0.005)
        with lock:
            running.remove(number)

    tasks = [lambda number=number: task(number) for number in range(20)]
    assert run_in_threads(tasks, jobs=3, stop=lambda: pytest.fail("stopped")) == []
    assert sorted(begun) == list(range(20))
    assert max(most) <= 3
    assert run_in_threads([], jobs=3, stop=lambda: pytest.fail("stopped")) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_anything_unexpected_stops_the_others_and_begins_nothing_more(error):
    stopped, ended, begun = threading.Event(), [], []

    def working():
        assert stopped.wait(60)
        ended.append("working")

    def failing():
        raise error

    def follower():
        begun.append(1)
        assert stopped.wait(60)

    with pytest.raises(error):
        run_in_threads([working, failing, *[follower] * 50], jobs=2, stop=stopped.set)
    assert ended == ["working"]
    assert len(begun) <= 1  # the thread that failed may have taken one more before the failure was seen
