"""OpenSSH on loopback, with an agent whose key it takes: for what is fetched over ssh."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.registry import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIG = """ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host
PidFile none
AuthorizedKeysFile {place}/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """Where it listens, and an agent that has the key."""

    port: int
    agent: str
    """Socket."""

    def url(self, path: Path | str) -> str:
        """An ssh URL of a path on this host."""
        return f"ssh://root@127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def ssh_server(place: Path) -> Iterator[SshServer]:
    """Start a server and an agent; ``place`` is an empty directory."""
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{place}/{name}"], check=True)
    port = free_port()
    (place / "config").write_text(_CONFIG.format(port=port, place=place))
    os.makedirs("/run/sshd", exist_ok=True)
    agent = f"{place}/agent"
    with contextlib.ExitStack() as stack:
        for argv in (["/usr/sbin/sshd", "-D", "-e", "-f", f"{place}/config"], ["ssh-agent", "-D", "-a", agent]):
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        eventually(lambda: os.path.exists(agent), what="the agent's socket")
        subprocess.run(["ssh-add", "-q", f"{place}/key"], env={**os.environ, "SSH_AUTH_SOCK": agent}, check=True)
        eventually(lambda: _greets(port), what="the server")
        yield SshServer(port, agent)


def _greets(port: int) -> bool:
    done = subprocess.run(["ssh-keyscan", "-p", str(port), "127.0.0.1"], capture_output=True, check=False)
    return bool(done.stdout)
