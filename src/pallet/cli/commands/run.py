"""``pallet run``: create, start and, unless detached, carry the container's streams.

Spec   exit codes: the container's own; 125 when the daemon or the options fail; 126 when the command
       cannot be invoked; 127 when it does not exist.
"""

from __future__ import annotations

from pallet.cli.commands.create import create_container
from pallet.cli.errors import CommandError
from pallet.cli.run.config import container_config
from pallet.cli.run.options import RUN_FLAGS
from pallet.cli.session import Session, out
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags
    from pallet.client.engine import Engine

__all__ = ("RUN_FLAGS", "run")

_NOT_FOUND = ("executable file not found", "no such file or directory",
              "system cannot find the file specified")
_NOT_INVOCABLE = ("permission denied", "not a directory", "is a directory")


def run(session: Session, flags: Flags) -> int:
    """``pallet run``."""
    try:
        return _run(session, flags)
    except DaemonError as error:
        raise failed(session, str(error), start_code(error.message)) from None
    except ConnectionFailedError as error:
        raise failed(session, str(error), 125) from None
    except CommandError as error:
        if error.code != 1 or str(error) in _PLAIN:
            raise
        raise failed(session, str(error), 125) from None


_PLAIN = frozenset((
    "the input device is not a TTY",
    "conflicting options: cannot specify both --attach and --detach",
))


def failed(session: Session, message: str, code: int) -> CommandError:
    """Return the error ``run`` ends with: Docker's prefix, and the way to the help."""
    return CommandError(
        message, code, f"Run 'pallet {session.path} --help' for more information")


def start_code(message: str) -> int:
    """Return 127, 126 or 125 for the daemon's words on a failed start."""
    if any(words in message for words in _NOT_FOUND):
        return 127
    if any(words in message for words in _NOT_INVOCABLE):
        return 126
    return 125


def _run(session: Session, flags: Flags) -> int:
    detach = flags["detach"]
    body = container_config(flags, session.env)
    if detach:
        if flags["attach"]:
            raise CommandError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    elif body["Tty"]:
        from pallet.cli.stream.foreground import check_tty

        check_tty(stdin=body["AttachStdin"], tty=True)
    if body["Tty"]:
        from pallet.cli.stream.terminal import size

        body["HostConfig"]["ConsoleSize"] = list(size())
    container_id = create_container(session, flags, body)
    if detach:
        return _start_detached(session.engine, container_id)
    return _foreground(session, flags, container_id, body)


def _start_detached(engine: Engine, container_id: str) -> int:
    try:
        engine.text("POST", f"/containers/{container_id}/start")
    finally:
        out(container_id)
    return 0


def _foreground(session: Session, flags: Flags, container_id: str, body: dict[str, Any]) -> int:
    from pallet.cli.stream.foreground import Foreground, configured_detach_keys

    engine = session.engine
    keys = flags["detach-keys"]
    if body["Tty"] and body["AttachStdin"]:
        keys = configured_detach_keys(session.config, keys)
    streams = (body["AttachStdin"], body["AttachStdout"], body["AttachStderr"])
    foreground = Foreground(
        engine, f"/containers/{container_id}", tty=body["Tty"], streams=streams,
        detach_keys=keys, sig_proxy=flags["sig-proxy"])
    try:
        foreground.open("removed" if flags["rm"] else "next-exit")
        connection = foreground.opened()
        try:
            foreground.stream(
                connection, lambda: engine.text("POST", f"/containers/{container_id}/start"))
        except DaemonError:
            if flags["rm"]:
                _await_removal(foreground)
            raise
        if foreground.detached:
            return 0
        return foreground.exit_code()
    finally:
        foreground.close()


def _await_removal(foreground: Any) -> None:
    """Let the daemon finish ``--rm`` before the failed start is reported."""
    try:
        foreground.exit_code()
    except (CommandError, DaemonError, ProtocolError):
        return
