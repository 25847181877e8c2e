"""dockerd for comparisons that need no container: it makes no bridge and no rules."""

from __future__ import annotations

from tests.support.daemon import Dockerd


class NetworklessDockerd(Dockerd):
    """dockerd without a network, so that it leaves none behind."""

    def argv(self) -> list[str]:
        """No bridge, no rules."""
        argv = super().argv()
        bip = argv.index("--bip")
        return [*argv[:bip], *argv[bip + 2:], "--bridge=none", "--iptables=false"]
