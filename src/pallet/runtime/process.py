"""From a prepared process to the container's program: limits, user, capabilities, filter, exec.

Owns   the order of these steps, the same for a container's main process and for an exec.
Runs   in a container's init or an exec's child; root, cwd and /proc are the container's.
Spec   runtime-spec config.md#process; the order is runc's, for the sake of its errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pallet.errors import SyscallError
from pallet.linux import caps, pty, rlimits, seccomp
from pallet.linux import process as kernel
from pallet.runtime import search, user
from pallet.runtime.failure import StartFailureError, reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.runtime import Process

_DEFAULT_UMASK = 0o022
_CHANGED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT,
                    signal.SIGHUP, signal.SIGQUIT)
"""The first two are ignored by Python, the others by a shim or handled by it."""
_EXEC_FAILED = 255
"""The exit status of runc's init when execve(2) itself fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors for the process; -1 for stdin opens the container's /dev/null.

    With a terminal all three are -1 and ``terminal_fd`` is set.
    """

    stdin_fd: int = -1
    stdout_fd: int = -1
    stderr_fd: int = -1
    terminal_fd: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to become."""

    process: Process
    user: str
    group_add: Sequence[str]
    filter: bytes | None
    """Compiled seccomp filter."""
    filter_flags: int
    """Flags of seccomp(2)."""
    make_cwd: bool
    """Make a missing working directory, as a container's start does and an exec does not."""


class Command(NamedTuple):
    """What execve(2) takes."""

    program: str
    argv: list[str]
    environment: dict[bytes, bytes]


def restore_signals() -> None:
    """Give a program the signal state it expects; Python and the daemon have changed it."""
    for number in _CHANGED_SIGNALS:
        # Not through ``signal``, whose table of handlers may be this process's parent's as well.
        kernel.reset_signal(number)
    kernel.set_signal_mask(0)


def connect_stdio(stdio: Stdio) -> None:
    """Put the descriptors on 0, 1 and 2; a terminal also becomes the controlling one."""
    if stdio.terminal_fd >= 0:
        pty.make_controlling(stdio.terminal_fd)
        sources = (stdio.terminal_fd,) * 3
    else:
        stdin_fd = stdio.stdin_fd
        if stdin_fd < 0:
            # The container's own, so that /proc/self/fd/0 shows no path of the host.
            stdin_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        sources = (stdin_fd, stdio.stdout_fd, stdio.stderr_fd)
    for target, source in enumerate(sources):
        os.dup2(source, target)


def become(plan: Plan, stdio: Stdio) -> Command:
    """Take on the plan's identity and limits; return what is left to execute.

    Precondition: ``restore_signals`` and ``connect_stdio`` were called.

    Raises:
        StartFailureError: a step failed; the process is in between and must exit.
    """
    process = plan.process
    identity = user.resolve(plan.user, plan.group_add, user.read_database("/etc/passwd"),
                            user.read_database("/etc/group"))
    environment = _environment(process.env, identity.home)
    os.umask(_DEFAULT_UMASK if process.user.umask is None else process.user.umask)
    if plan.make_cwd:
        _make_directory(process.cwd)
    entered = _enter(process.cwd, fail=False)
    program = search.find_program(
        process.args[0] if process.args else "",
        os.fsdecode(environment.get(b"PATH", b"")))
    _set_limits(process)
    kernel.join_session_keyring("pallet")
    _change_identity(plan, identity, stdio, enter_again=not entered)
    if identity.uid and not os.access(program, os.X_OK):
        message = f'exec: "{process.args[0]}": permission denied'
        raise StartFailureError(message, call="execve", code=errno.EACCES, path=program)
    return Command(program, process.args, environment)


def execute(command: Command) -> None:
    """Replace this process; where that fails say so on stderr and exit, as runc's init does."""
    try:
        os.execve(*command)  # noqa: S606 - the container's own program
    except (OSError, ValueError) as error:
        exec_failed(command.program, error)


def exec_failed(program: str, error: OSError | ValueError) -> None:
    """Say so on stderr and exit.

    The container counts as started by now: its output and exit status tell.
    """
    text = f"exec {program}: {reason(error) if isinstance(error, OSError) else error}\n"
    with contextlib.suppress(OSError):
        os.write(2, os.fsencode(text))
    os._exit(_EXEC_FAILED)


def _environment(entries: Sequence[str], home: str) -> dict[bytes, bytes]:
    environment: dict[bytes, bytes] = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if name and separator:
            environment[os.fsencode(name)] = os.fsencode(value)
    if not environment.get(b"HOME"):
        environment[b"HOME"] = os.fsencode(home)
    return environment


def _make_directory(cwd: str) -> None:
    if os.path.isdir(cwd):
        return
    try:
        # Through the container's root by now, so links lead nowhere else.
        os.makedirs(cwd, 0o755, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        message = f"Cannot mkdir: {cwd} is not a directory"
        raise StartFailureError(message, code=error.errno or 0, path=cwd, plain=True) from error
    except OSError as error:
        message = f"error during container init: mkdir {cwd}: {reason(error)}"
        raise StartFailureError(message, call="mkdir", code=error.errno or 0, path=cwd) from error


def _enter(cwd: str, *, fail: bool) -> bool:
    """Change to ``cwd``; False for a refusal that may be gone once the user is right."""
    try:
        os.chdir(cwd or "/")
        # A cwd that was reached through a leaked descriptor has no name in this root.
        os.getcwd()
    except PermissionError as error:
        if not fail:
            return False
        raise _cwd_failure(cwd, error) from error
    except OSError as error:
        raise _cwd_failure(cwd, error) from error
    return True


def _cwd_failure(cwd: str, error: OSError) -> StartFailureError:
    return StartFailureError(
        f'chdir to cwd ("{cwd}") set in config.json failed: {reason(error)}', call="chdir",
        code=error.errno or 0, path=cwd)


def _set_limits(process: Process) -> None:
    try:
        if process.oom_score_adj is not None:
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(str(process.oom_score_adj).encode())
    except OSError as error:
        message = f"error during container init: write /proc/self/oom_score_adj: {reason(error)}"
        raise StartFailureError(message, call="write", code=error.errno or 0) from error
    for limit in process.rlimits:
        try:
            rlimits.apply([(limit.type, limit.soft, limit.hard)])
        except SyscallError as error:
            number = rlimits.NUMBERS.get(limit.type, limit.type)
            message = ("error during container init: error setting rlimits for ready process: "
                       f"error setting rlimit type {number}: {reason(error)}")
            raise StartFailureError(message, call=error.call, code=error.errno or 0,
                                    path=limit.type) from error


def _change_identity(plan: Plan, identity: user.Identity, stdio: Stdio, *, enter_again: bool,
                     ) -> None:
    process = plan.process
    try:
        if identity.uid and stdio.terminal_fd < 0:
            _own_stdio(identity.uid)
        elif identity.uid:
            os.fchown(stdio.terminal_fd, identity.uid, -1)
        wanted = _masks(process)
        if wanted is not None:
            caps.drop_bounding(wanted["bounding"])
        if identity.uid:
            caps.keep_caps(on=True)
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        if identity.uid:
            os.setresuid(identity.uid, identity.uid, identity.uid)
            caps.keep_caps(on=False)
        if process.no_new_privileges:
            kernel.set_no_new_privileges()
        if plan.filter is not None and not process.no_new_privileges:
            _load_privileged(plan.filter, plan.filter_flags, restore=bool(identity.uid))
        if wanted is not None:
            caps.set_caps(effective=wanted["effective"], permitted=wanted["permitted"],
                          inheritable=wanted["inheritable"])
            caps.raise_ambient(wanted["ambient"])
        _set_label(process)
        if enter_again:
            _enter(process.cwd, fail=True)
        if plan.filter is not None and process.no_new_privileges:
            seccomp.load(plan.filter, plan.filter_flags)
    except OSError as error:
        raise StartFailureError.of(error, "setting the process's identity") from error


def _set_label(process: Process) -> None:
    """Have the next exec change to the AppArmor profile or SELinux context of the configuration."""
    if profile := process.apparmor_profile:
        try:
            with open("/sys/module/apparmor/parameters/enabled") as file:
                enabled = file.read(1) == "Y"
        except OSError:
            enabled = False
        if not enabled:
            message = f'apparmor profile "{profile}" is set but apparmor is not enabled'
            raise StartFailureError(message, path=profile)
        directory = "/proc/self/attr/apparmor"
        path = f"{directory}/exec" if os.path.isdir(directory) else "/proc/self/attr/exec"
        _write_attribute(path, f"exec {profile}")
    if process.selinux_label:
        _write_attribute("/proc/self/attr/exec", process.selinux_label)


def _write_attribute(path: str, value: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(value.encode())


def _load_privileged(bpf: bytes, flags: int, *, restore: bool) -> None:
    """Load a filter without no_new_privs, which takes CAP_SYS_ADMIN in the effective set."""
    if restore:
        everything = caps.available()
        caps.set_caps(effective=everything, permitted=everything, inheritable=0)
    seccomp.load(bpf, flags)


def _masks(process: Process) -> dict[str, int] | None:
    """The five sets without what this host's daemon cannot hand on; None keeps what there is."""
    sets = process.capabilities
    if sets is None:
        return None
    available = caps.available()
    return {
        "bounding": caps.mask_of(sets.bounding) & available,
        "effective": caps.mask_of(sets.effective) & available,
        "permitted": caps.mask_of(sets.permitted) & available,
        "inheritable": caps.mask_of(sets.inheritable) & available,
        "ambient": caps.mask_of(sets.ambient) & available,
    }


def _own_stdio(uid: int) -> None:
    """Let the user reopen its own /dev/stdout: a pipe's owner decides that."""
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_rdev != os.makedev(1, 3):
                os.fchown(fd, uid, -1)
        except OSError as error:
            # EROFS, EINVAL, EPERM: descriptors whose owner cannot change, as runc leaves them.
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise
