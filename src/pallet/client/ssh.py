"""``ssh://``: the Engine API through ``ssh HOST docker system dial-stdio``.

Needs  an OpenSSH client here; ``docker`` or ``pallet`` with ``system dial-stdio`` there.
"""

from __future__ import annotations

import os
import socket
import subprocess
from urllib.parse import urlsplit

from pallet.client.errors import ConnectionFailedError

_REMOTE = ("command -v docker >/dev/null && exec docker {0}system dial-stdio "
           "|| exec pallet {0}system dial-stdio")


def ssh_argv(url: str) -> list[str]:
    """Return the command for ``ssh://[user@]host[:port][/socket]``."""
    parts = urlsplit(url)
    if not parts.hostname or parts.password:
        message = f"invalid ssh address: {url}"
        raise ConnectionFailedError(message)
    argv = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if parts.username:
        argv += ["-l", parts.username]
    if parts.port:
        argv += ["-p", str(parts.port)]
    socket_path = parts.path if parts.path != "/" else ""
    remote = _REMOTE.format(f"-H unix://{socket_path} " if socket_path else "")
    return [*argv, "--", parts.hostname, remote]


class SshTransport:
    """A stream to a process whose stdin and stdout are one socket."""

    def __init__(self, url: str) -> None:
        """Start ssh; failures show as an end of stream, with ssh's own words on stderr."""
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                ssh_argv(url), stdin=theirs.fileno(), stdout=theirs.fileno())
        except OSError as error:
            ours.close()
            message = f"cannot run ssh: {os.strerror(error.errno or 0)}"
            raise ConnectionFailedError(message, error.errno) from None
        finally:
            theirs.close()
        self._socket = ours

    def recv(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        return self._socket.recv(size)

    def sendall(self, data: bytes, /) -> None:
        """Send all of ``data``."""
        self._socket.sendall(data)

    def close_write(self) -> None:
        """Half-close; ssh passes end of input on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket and wait for ssh to end."""
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def pending(self) -> bool:
        """Return False: the kernel holds everything."""
        return False
