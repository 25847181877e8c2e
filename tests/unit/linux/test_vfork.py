"""Children that borrow this process's memory: what they may do, and that the parent stays sound."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from pallet.errors import SyscallError
from pallet.linux import vfork

pytestmark = pytest.mark.needs("vfork")

TRUE = ("/bin/true", ["true"], {b"A": b"b"})


def in_a_process(body: object) -> int:
    """Run ``body`` in a fork, for pytest has threads and handlers of its own; return its status."""
    pid = os.fork()
    if not pid:
        try:
            assert callable(body)
            body()
        except BaseException:  # noqa: BLE001 - a forked child has nobody above it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def give_up(_error: BaseException) -> None:
    os._exit(9)


def deep(levels: int) -> int:
    return deep(levels - 1) if levels else 0


class Base:
    def name(self) -> str:
        return "base"


class Derived(Base):
    def name(self) -> str:
        return super().name() + sys._getframe().f_code.co_name


def test_the_parent_stays_sound_over_many_children() -> None:
    """Frames, recursion limits and exceptions are as if there had been no children."""

    def body() -> None:
        child = vfork.Child()
        seen: list[int] = []

        def prepare() -> tuple[str, list[str], dict[bytes, bytes]]:
            deep(100)
            try:
                deep(10**6)
            except RecursionError:
                seen.append(child.pid)
            os.chdir("/tmp")
            return TRUE

        for number in range(1500):
            pid = child.run(prepare, give_up)
            assert os.waitpid(pid, 0) == (pid, 0)
            assert seen == [pid], "the child wrote into our memory"
            seen.clear()
            assert Derived().name() == "basename"
            assert sys.exc_info() == (None, None, None)
            if number % 100 == 0:
                deep(600)
                with pytest.raises(RecursionError):
                    deep(10**6)
        assert os.getcwd() != "/tmp", "the working directory is the child's own"

    os.chdir("/")
    assert in_a_process(body) == 0


def test_what_goes_wrong_is_told_in_the_child() -> None:
    def body() -> None:
        child = vfork.Child()
        told: list[str] = []

        def failed(error: BaseException) -> None:
            told.append(type(error).__name__)
            os._exit(7)

        pid = child.run(lambda: ("/no/such/program", ["x"], {}), failed)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        pid = child.run(lambda: {}["no"], failed)  # type: ignore[arg-type,index]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        pid = child.run(lambda: {}["no"], lambda _error: {}["no"])  # type: ignore[arg-type,index]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        assert told == ["FileNotFoundError", "KeyError"]
        assert sys.exc_info() == (None, None, None)

    assert in_a_process(body) == 0


def test_signals_wait_for_the_parent_to_be_back() -> None:
    def body() -> None:
        child = vfork.Child()
        caught: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _frame: caught.append(number))
        parent = os.getpid()

        def prepare() -> tuple[str, list[str], dict[bytes, bytes]]:
            os.kill(parent, signal.SIGUSR1)
            assert not caught
            return TRUE

        pid = child.run(prepare, give_up)
        assert caught == [signal.SIGUSR1]
        assert os.waitpid(pid, 0) == (pid, 0)

    assert in_a_process(body) == 0


def test_an_alarm_ends_a_parent_whose_child_hangs() -> None:
    def body() -> None:
        # The test runner has a handler.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        read_fd, write_fd = os.pipe()

        def hang() -> tuple[str, list[str], dict[bytes, bytes]]:
            os.close(write_fd)
            os.read(read_fd, 1)  # Until the parent is gone.
            os._exit(0)

        signal.setitimer(signal.ITIMER_REAL, 0.05)
        vfork.Child().run(hang, give_up)

    assert in_a_process(body) == -signal.SIGALRM


def test_a_refused_child_is_an_error() -> None:
    with pytest.raises(SyscallError, match="clone"):
        # CLONE_THREAD without CLONE_SIGHAND.
        vfork.Child().run(lambda: TRUE, give_up, flags=0x10000)
