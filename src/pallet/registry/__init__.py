"""An OCI distribution server: ``pallet registry serve``. Synchronous, a thread a connection."""

from __future__ import annotations

from pallet.registry.server import RegistryServer, serve

__all__ = ["RegistryServer", "serve"]
