"""``pallet save`` and ``pallet load``."""

from __future__ import annotations

import os
import stat
import sys

from pallet.cli import progress
from pallet.cli.commands.images import platform_json
from pallet.cli.commands.importing import read_chunks
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

SAVE_FLAGS: Table = (
    ("output", "o", "string", "Write to a file, instead of STDOUT"),
    ("platform", "", "strings", 'Save only the given platform(s). Formatted as a comma-separated '
     'list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")', "", "", "1.48"),
)
LOAD_FLAGS: Table = (
    ("input", "i", "string", "Read from tar archive file, instead of STDIN"),
    ("platform", "", "strings", 'Load only the given platform(s). Formatted as a comma-separated '
     'list of "os[/arch[/variant]]" (e.g., "linux/amd64,linux/arm64/v8")', "", "", "1.48"),
    ("quiet", "q", "bool", "Suppress the load output"),
)


def save(session: Session, flags: Flags) -> int:
    """``pallet save``: a file appears whole or not at all."""
    output = flags["output"]
    if not output and os.isatty(1):
        raise CommandError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if output:
        _check_output(output)
    reply = session.engine.request("GET", "/images/get", {
        "names": flags.args,
        "platform": [platform_json(text) for text in flags["platform"]] or None})
    if not output:
        for chunk in reply.chunks():
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return 0
    if os.path.exists(output) and not os.path.isfile(output):
        with open(output, "wb", buffering=0) as file:  # a pipe or device
            for chunk in reply.chunks():
                file.write(chunk)
        return 0
    part = os.path.join(os.path.dirname(output), f".tmp-{os.path.basename(output)}{os.getpid()}")
    try:
        with open(part, "xb") as file:
            for chunk in reply.chunks():
                file.write(chunk)
        os.replace(part, output)
    except OSError as error:
        raise CommandError(
            f"failed to save image: {os.strerror(error.errno or 0).lower()}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return 0


def _check_output(output: str) -> None:
    directory = os.path.dirname(output) or "."
    if not os.path.isdir(directory):
        raise CommandError(f'failed to save image: invalid output path: directory "{directory}" '
                           "does not exist")
    if os.path.isdir(output):
        raise CommandError(f'failed to save image: invalid output path: "{output}" must be a '
                           "regular file")


def load(session: Session, flags: Flags) -> int:
    """``pallet load``: ends with the names of what was loaded."""
    path = flags["input"]
    if path:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CommandError(
                f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
    else:
        fd = 0
        if stat.S_ISCHR(os.fstat(0).st_mode) and os.isatty(0):
            raise CommandError("requested load from stdin, but stdin is empty")
    quiet = flags["quiet"] or not sys.stdout.isatty()
    try:
        engine = session.engine
        reply = engine.upload("/images/load", {
            "quiet": "1" if quiet else "0",
            "platform": [platform_json(text) for text in flags["platform"]] or None},
            read_chunks(fd))
        progress.show(engine.events(reply), sys.stdout)
    finally:
        if fd:
            os.close(fd)
    return 0
