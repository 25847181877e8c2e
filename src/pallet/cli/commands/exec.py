"""``pallet exec``: run another command in a running container."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.run.files import environment
from pallet.cli.stream.foreground import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

EXEC_FLAGS: Table = (
    ("detach", "d", "bool", "Detached mode: run command in the background"),
    ("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    ("env", "e", "list:env", "Set environment variables"),
    ("env-file", "", "list", "Read in a file of environment variables"),
    ("interactive", "i", "bool", "Keep STDIN open even if not attached"),
    ("privileged", "", "bool", "Give extended privileges to the command"),
    ("tty", "t", "bool", "Allocate a pseudo-TTY"),
    ("user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])"),
    ("workdir", "w", "string", "Working directory inside the container"),
)


def exec_(session: Session, flags: Flags) -> int:
    """``pallet exec``: ends with the command's exit code."""
    from pallet.cli.stream.foreground import check_tty

    engine = session.engine
    detach, tty, stdin = flags["detach"], flags["tty"], flags["interactive"]
    keys = flags["detach-keys"]
    if not detach:
        check_tty(stdin=stdin, tty=tty)
        if tty and stdin:
            from pallet.cli.stream.foreground import configured_detach_keys

            keys = configured_detach_keys(session.config, keys)
    body: dict[str, Any] = {
        "User": flags["user"], "Privileged": flags["privileged"], "Tty": tty,
        "AttachStdin": stdin and not detach, "AttachStdout": not detach,
        "AttachStderr": not detach, "DetachKeys": keys,
        "Env": environment(flags["env-file"], flags["env"], session.env),
        "WorkingDir": flags["workdir"], "Cmd": flags.args[1:],
    }
    if tty and not detach:
        from pallet.cli.stream.terminal import size

        body["ConsoleSize"] = list(size())
    exec_id = engine.json("POST", f"{container_path(flags.args[0])}/exec", body=body)["Id"]
    if detach:
        engine.text("POST", f"/exec/{exec_id}/start", body={"Detach": True, "Tty": tty})
        return 0
    return _foreground(session, exec_id, body)


def _foreground(session: Session, exec_id: str, body: dict[str, Any]) -> int:
    from pallet.cli.stream.foreground import Foreground

    engine, tty = session.engine, body["Tty"]
    foreground = Foreground(
        engine, f"/exec/{exec_id}", tty=tty, streams=(body["AttachStdin"], True, True),
        detach_keys=body["DetachKeys"])
    try:
        start: dict[str, Any] = {"Detach": False, "Tty": tty}
        if tty:
            start["ConsoleSize"] = body["ConsoleSize"]
        connection = engine.hijack(f"/exec/{exec_id}/start", body=start).stream()
        foreground.stream(connection)
        connection.close()
        if foreground.detached:
            raise CommandError("read escape sequence")
    finally:
        foreground.close()
    return int(engine.json("GET", f"/exec/{exec_id}/json")["ExitCode"] or 0)
