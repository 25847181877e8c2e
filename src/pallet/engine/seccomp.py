"""Which seccomp filter a process gets, and where its compiled form is for the runtime.

The cache in ``runtime/seccomp_profile.py`` compiles once and keeps the result; here each filter in use
is laid down once a boot as a raw file in the run directory, from which init loads it without a copy
through any message.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pallet.engine.security import SecurityOptions
    from pallet.runtime.seccomp_profile import SeccompCache, SeccompFilter


@dataclass(frozen=True, slots=True)
class Selection:
    """``path`` None runs unconfined; ``document`` is the OCI form for foreign runtimes."""

    path: str | None
    flags: int
    document: msgspec.Raw


_UNCONFINED = Selection(None, 0, msgspec.Raw())


class SeccompFilters:
    """Filters by profile and capabilities."""

    def __init__(self, cache: SeccompCache, directory: Path) -> None:
        self._cache = cache
        self._directory = os.fspath(directory)
        self._selections: dict[int, Selection] = {}

    async def select(
        self, options: SecurityOptions, capabilities: Sequence[str], *, privileged: bool
    ) -> Selection:
        """The filter of a container with these options and this bounding set.

        Raises:
            InvalidParameterError: a malformed profile.
        """
        profile = options.seccomp
        if profile == "unconfined" or (privileged and profile is None):
            return _UNCONFINED
        found = self._cache.cached(profile, capabilities)
        if found is None:
            found = await run_blocking(self._cache.filter_for, profile, capabilities)
        if found is None:
            return _UNCONFINED
        selection = self._selections.get(id(found))
        if selection is None:
            selection = self._selections[id(found)] = await run_blocking(self._lay_down, found)
        return selection

    def _lay_down(self, found: SeccompFilter) -> Selection:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = f"{self._directory}/{hashlib.sha256(found.bpf).hexdigest()}"
        if not os.path.exists(path):
            draft = f"{path}.{os.getpid()}"
            with open(draft, "wb") as handle:
                handle.write(found.bpf)
            os.rename(draft, path)
        return Selection(path, found.flags, msgspec.Raw(msgspec.json.encode(found.document)))
