"""``pallet import``: a tarball becomes an image."""

from __future__ import annotations

import os
import sys

from pallet.cli import progress
from pallet.cli.errors import CommandError
from pallet.cli.references import parse_reference, repository_and_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session
    from pallet.client.engine import Engine

IMPORT_FLAGS: Table = (
    ("change", "c", "list", "Apply Dockerfile instruction to the created image"),
    ("message", "m", "string", "Set commit message for imported image"),
    ("platform", "", "string", "Set platform if server is multi-platform capable"),
)
_CHUNK_BYTES = 1 << 18


def import_(session: Session, flags: Flags) -> int:
    """``pallet import``: prints the image's id."""
    source = flags.args[0]
    repository = tag = ""
    if len(flags.args) > 1:
        parse_reference(flags.args[1])
        repository, tag = repository_and_tag(flags.args[1])
    query: dict[str, object] = {
        "repo": repository or None, "tag": tag or None, "message": flags["message"] or None,
        "changes": flags["change"] or None, "platform": flags["platform"] or None}
    engine = session.engine
    if source.startswith(("http://", "https://")):
        reply = engine.request("POST", "/images/create", {"fromSrc": source, **query})
        progress.show(engine.events(reply), sys.stdout)
        return 0
    if source == "-":
        upload(engine, query, read_chunks(0))
        return 0
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CommandError(
            f"open {source}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        upload(engine, query, read_chunks(fd))
    finally:
        os.close(fd)
    return 0


def upload(engine: Engine, query: dict[str, object], chunks: Iterable[bytes]) -> None:
    """Send a tar stream as an image and print the daemon's progress.

    Raises:
        CommandError, DaemonError: the image was not made.
    """
    reply = engine.upload("/images/create", {"fromSrc": "-", **query}, chunks)
    progress.show(engine.events(reply), sys.stdout)


def read_chunks(fd: int) -> Iterator[bytes]:
    """Yield what ``fd`` gives until its end."""
    while chunk := os.read(fd, _CHUNK_BYTES):
        yield chunk
