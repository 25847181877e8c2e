"""Executing the zygote.

Owns   the zygote's command line and its process id.
Runs   in the daemon. posix_spawn is safe with threads: the child runs no Python before its exec.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.zygote import channel

if TYPE_CHECKING:
    import socket

_SOCKET_FD = 3

# ``-I -S`` keeps site, user directories and the environment out; what the zygote imports is found
# on the daemon's own search path. The text is padded: it becomes the process title.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from pallet.zygote.server import main; main(int(sys.argv[1]))" + " " * 64
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zygote:
    """A running zygote."""

    pid: int
    sock: socket.socket

    def reap(self) -> None:
        """Wait for the zygote's end, which its closed socket brings."""
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return


def spawn() -> Zygote:
    """Execute a zygote with the daemon's interpreter and search path.

    Raises:
        OSError: the interpreter cannot be executed.
    """
    ours, theirs = channel.pair()
    channel.enlarge(ours)
    ours.setblocking(False)
    argv = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, str(_SOCKET_FD), *filter(None, sys.path)]
    try:
        pid = os.posix_spawn(
            sys.executable, argv, {"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET_FD),
            ])
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Zygote(pid=pid, sock=ours)
