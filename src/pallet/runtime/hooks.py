"""Hooks: programs of others on the way of a container's start.

Owns   how they are called. ``createContainer`` runs in the container's namespaces but with the host's
       files, once the root is complete; ``startContainer`` with the container's, before its program.
Runs   in a container's init, which is the parent of the hook. The hooks of the host's namespaces
       (``prestart``, ``createRuntime``, ``poststart``, ``poststop``) are for runtime programs.
Spec   runtime-spec config.md#posix-platform-hooks, runtime.md#state; the words are runc's.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import msgspec

from pallet.runtime.failure import StartFailureError, reason
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_OUTPUT_BYTES = 64 * 1024
_UMASK = 0o022
"""Of other runtimes, and so what hooks are used to."""


class State(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a hook gets as its standard input."""

    oci_version: str = oci.OCI_VERSION
    id: str
    status: str
    pid: int
    """In the hook's own pid namespace."""
    bundle: str
    annotations: dict[str, str] = {}


def check(spec: oci.Spec) -> None:
    """Refuse hooks that nobody here would call.

    Raises:
        StartFailureError: names the first one.
    """
    hooks = spec.hooks or oci.Hooks()
    for name, given in (("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime),
                        ("poststart", hooks.poststart), ("poststop", hooks.poststop)):
        if given:
            message = (f"error during container init: hook {given[0].path}: {name} hooks need a runtime "
                       "program such as runc")
            raise StartFailureError(message)


def run(hooks: Sequence[oci.Hook], state: State) -> None:
    """Run one after the other. The working directory is that of the hooks.

    Raises:
        StartFailureError: one failed; those after it are not run.
    """
    text = msgspec.json.encode(state)
    own = os.umask(_UMASK)
    try:
        _run_all(hooks, text)
    finally:
        os.umask(own)


def _run_all(hooks: Sequence[oci.Hook], text: bytes) -> None:
    for number, hook in enumerate(hooks):
        try:
            problem = _run_one(hook, text)
        except OSError as error:
            problem = f"fork/exec {hook.path}: {reason(error)}"
        if problem:
            message = f"error during container init: error running hook #{number}: {problem}"
            raise StartFailureError(message)


def _run_one(hook: oci.Hook, text: bytes) -> str:
    stdin_fd, stdout_fd, stderr_fd = (os.memfd_create(name) for name in ("state", "stdout", "stderr"))
    try:
        os.write(stdin_fd, text)
        os.lseek(stdin_fd, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            hook.path, hook.args or [hook.path], dict(entry.split("=", 1) for entry in hook.env),
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number)
                          for number, fd in enumerate((stdin_fd, stdout_fd, stderr_fd))])
        if not _ends_within(pid, hook.timeout):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"hook ran past specified timeout of {float(hook.timeout or 0)}s"
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if not code:
            return ""
        how = f"exit status {code}" if code > 0 else f"signal: {signal.strsignal(-code) or -code}".lower()
        return f"error running hook: {how}, stdout: {_text(stdout_fd)}, stderr: {_text(stderr_fd)}"
    finally:
        for fd in (stdin_fd, stdout_fd, stderr_fd):
            os.close(fd)


def _ends_within(pid: int, timeout_s: int | None) -> bool:
    """Wait for the end without taking it; None and 0 wait forever."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000 if timeout_s else None))
    finally:
        os.close(pidfd)


def _text(fd: int) -> str:
    return os.pread(fd, _MOST_OUTPUT_BYTES, 0).decode("utf-8", "replace").rstrip()
