"""``pallet commit``, ``pallet diff``, ``pallet export``: containers' files."""

from __future__ import annotations

import os
import stat
import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import out
from pallet.cli.stream.foreground import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session
    from pallet.client.http1 import Reply

COMMIT_FLAGS: Table = (
    ("author", "a", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
    ("change", "c", "list", "Apply Dockerfile instruction to the created image"),
    ("message", "m", "string", "Commit message"),
    ("pause", "p", "bool", "Pause container during commit", "true"),
)
DIFF_FLAGS: Table = ()
EXPORT_FLAGS: Table = (("output", "o", "string", "Write to a file, instead of STDOUT"),)
_KINDS = ("C", "A", "D")
_NOT_FILES = {
    stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link directly",
    stat.S_IFIFO: "named pipe (FIFO)", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device file", stat.S_IFBLK: "block device file"}


def commit(session: Session, flags: Flags) -> int:
    """``pallet commit``: prints the image's id. Heeds SOURCE_DATE_EPOCH."""
    name = flags.args[0]
    repository = tag = ""
    if len(flags.args) > 1:
        from pallet.cli.references import parse_reference, repository_and_tag

        parse_reference(flags.args[1])
        repository, tag = repository_and_tag(flags.args[1])
        if tag.startswith("sha256:"):
            raise CommandError("refusing to create a tag with a digest reference")
    made = session.engine.json("POST", "/commit", {
        "container": name, "repo": repository or None, "tag": tag or None,
        "author": flags["author"] or None, "comment": flags["message"] or None,
        "changes": flags["change"] or None, "pause": None if flags["pause"] else "0",
        "sourceDateEpoch": session.env.get("SOURCE_DATE_EPOCH") or None})
    out(made["Id"])
    return 0


def diff(session: Session, flags: Flags) -> int:
    """``pallet diff``: a letter and a path a line."""
    name = flags.args[0]
    if not name:
        raise CommandError("Container name cannot be empty")
    for change in session.engine.json("GET", f"{container_path(name)}/changes") or ():
        out(f"{_KINDS[change['Kind']]} {change['Path']}")
    return 0


def export(session: Session, flags: Flags) -> int:
    """``pallet export``: a tar to a file or a pipe, never to a terminal."""
    target = flags["output"]
    if not target and os.isatty(1):
        raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if target:
        check_output(target)
    reply = session.engine.request("GET", f"{container_path(flags.args[0])}/export")
    if not target:
        sys.stdout.flush()
        for chunk in reply.chunks():
            write_all(1, chunk)
        return 0
    save_as(target, reply)
    return 0


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def check_output(path: str) -> None:
    """Refuse a file that cannot be one, before the daemon is asked.

    Raises:
        CommandError: its directory is not there, or it is something else than a file.
    """
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise CommandError(f"failed to export container: invalid output path: stat {parent}: "
                           "no such file or directory")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    kind = _NOT_FILES.get(stat.S_IFMT(mode))
    if kind:
        raise CommandError(f"failed to export container: cannot write to a {kind}")


def save_as(path: str, reply: Reply) -> None:
    """Write a reply's body to ``path``, which appears when it is whole.

    Raises:
        CommandError: it cannot be written.
    """
    part = f"{os.path.dirname(path) or '.'}/.tmp-{os.path.basename(path)}-{os.getpid()}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError("failed to export container: "
                           f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        for chunk in reply.chunks():
            write_all(fd, chunk)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
    finally:
        os.close(fd)
