"""The front end's own work in the progress: ``[internal] load build definition from Dockerfile``.

Owns   vertices that are in no graph.
Runs   on the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pallet.build.progress import VertexEvent
from pallet.types import Digest

if TYPE_CHECKING:
    from pallet.build.progress import Watch


class Told:
    """Shows a piece of the front end's work as a vertex of the progress."""

    def __init__(self, watch: Watch, name: str) -> None:
        self._watch = watch
        unique = f"{name}\0{secrets.token_hex(16)}"
        self.digest = Digest(f"sha256:{hashlib.sha256(unique.encode()).hexdigest()}")
        self._event = VertexEvent(digest=self.digest, name=name)

    async def __aenter__(self) -> Told:
        self._event = replace(self._event, started_ns=time.time_ns())
        self._watch(self._event)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, _where: object) -> None:
        text = ("context canceled" if isinstance(error, asyncio.CancelledError)
                else str(error) if error is not None else "")
        self._watch(replace(self._event, completed_ns=time.time_ns(), error=text))
