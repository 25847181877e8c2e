"""Starting palletd when nobody named a daemon and none answers.

Owns   finding palletd, starting it detached, waiting until it serves. Two command lines that come at
       the same time start one daemon: a lock orders them and the second finds the first's.
Needs  root; a writable run directory.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys

from pallet.cli.errors import CommandError
from pallet.client.errors import ConnectionFailedError

DATA_ROOT = "/var/lib/pallet"
RUN_DIRECTORY = "/run/pallet"
LOG_DIRECTORY = "/var/log/pallet"
_ABSENT = (2, 111)  # ENOENT, ECONNREFUSED
_READY_TIMEOUT_S = 60
_READY_FD = 3


def start_daemon(error: Exception) -> None:
    """Start palletd after a first connection failed with ``error``; return when it serves.

    Raises:
        ConnectionFailedError: ``error``, where starting one is not ours to do.
        CommandError: it did not start; with the end of its log.
    """
    if not isinstance(error, ConnectionFailedError) or error.errno not in _ABSENT:
        raise error
    if os.geteuid() != 0:
        raise ConnectionFailedError(
            f"{error}\nOnly root can start palletd: run it with sudo, or set DOCKER_HOST.",
            error.errno)
    os.makedirs(RUN_DIRECTORY, mode=0o711, exist_ok=True)
    lock_fd = os.open(f"{RUN_DIRECTORY}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        if not _answers():
            _start()
    finally:
        os.close(lock_fd)


def _answers() -> bool:
    from pallet.client.endpoint import DEFAULT_SOCKET
    from pallet.client.transport import UnixTransport

    try:
        UnixTransport(DEFAULT_SOCKET).close()
    except OSError:
        return False
    return True


def _start() -> None:
    log_path = _log_path()
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    start_bytes = os.fstat(log_fd).st_size
    ready_fd, theirs_fd = os.pipe2(os.O_CLOEXEC)
    argv = daemon_argv()
    pid = os.fork()
    if pid == 0:
        _become_daemon([*argv, "--ready-fd", str(_READY_FD)], log_fd, theirs_fd)
    os.close(theirs_fd)
    os.close(log_fd)
    try:
        ready = _wait_ready(ready_fd)
    finally:
        os.close(ready_fd)
    if not ready:
        raise CommandError("pallet: palletd did not start"
                           f"{_log_tail(log_path, start_bytes)}\nIts log is {log_path}")
    sys.stderr.write(f"pallet: started palletd (pid {pid}, log {log_path})\n")
    sys.stderr.flush()


def daemon_argv() -> list[str]:
    """Return the command of palletd: the script beside ours, else this interpreter and package."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "palletd")
    if sys.argv[0] not in ("", "-c") and os.access(beside, os.X_OK):
        return [beside]
    program = (f"import sys; sys.path[:] = {sys.path!r}; sys.argv[0] = 'palletd'; "
               "from pallet.daemon.main import main; sys.exit(main())")
    return [sys.executable, "-I", "-S", "-c", program]


def _become_daemon(argv: list[str], log_fd: int, ready_fd: int) -> None:
    """Leave the session, the terminal and the working directory, and become palletd."""
    try:
        os.setsid()
        os.chdir("/")
        null_fd = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null_fd, 0)
        ready_copy = fcntl.fcntl(ready_fd, fcntl.F_DUPFD_CLOEXEC, 10)
        for target in (1, 2):
            os.dup2(log_fd, target)
        os.dup2(ready_copy, _READY_FD)
        os.execv(argv[0], argv)  # noqa: S606 - palletd takes this process over
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _wait_ready(ready_fd: int) -> bool:
    poll = select.poll()
    poll.register(ready_fd, select.POLLIN)
    if not poll.poll(_READY_TIMEOUT_S * 1000):
        return False
    return bool(os.read(ready_fd, 1))


def _log_path() -> str:
    for directory in (LOG_DIRECTORY, DATA_ROOT):
        try:
            os.makedirs(directory, mode=0o711, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return f"{directory}/palletd.log"
    return f"{RUN_DIRECTORY}/palletd.log"


def _log_tail(path: str, start_bytes: int) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(start_bytes)
            lines = file.read().splitlines()[-10:]
    except OSError:
        return ""
    return ":\n  " + "\n  ".join(lines) if lines else ""
