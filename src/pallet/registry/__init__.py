"""An OCI distribution server: ``pallet registry serve``. Worker processes, each with a loop and threads."""

from __future__ import annotations

from pallet.registry.server import RegistryServer, serve

__all__ = ["RegistryServer", "serve"]
