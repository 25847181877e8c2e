"""``pallet top``."""

from __future__ import annotations

import sys

from pallet.cli.format.table import align
from pallet.cli.stream.foreground import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

TOP_FLAGS: Table = ()


def top(session: Session, flags: Flags) -> int:
    """``pallet top``: the container's processes as ps(1) prints them."""
    name, *options = flags.args
    found = session.engine.json("GET", f"{container_path(name)}/top",
                                {"ps_args": " ".join(options) or None})
    lines = ["\t".join(found["Titles"])]
    lines += ["\t".join(process) for process in found["Processes"] or ()]
    sys.stdout.write(align(lines, minimum=20))
    return 0
