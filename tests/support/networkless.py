"""dockerd for comparisons that need no container: it makes no bridge and no rules."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.daemon import Dockerd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon


class NetworklessDockerd(Dockerd):
    """dockerd without a network, so that it leaves none behind."""

    def argv(self) -> list[str]:
        """No bridge, no rules."""
        argv = super().argv()
        bip = argv.index("--bip")
        return [*argv[:bip], *argv[bip + 2:], "--bridge=none", "--iptables=false"]


@contextmanager
def beside(engine: Daemon) -> Iterator[tuple[Daemon, Daemon]]:
    """``engine`` and a dockerd that lives as long as the block."""
    dockerd = NetworklessDockerd()
    try:
        dockerd.start()
        yield engine, dockerd
    finally:
        dockerd.remove()
