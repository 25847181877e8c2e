"""One picture of several builds that run at the same time.

Owns   names with their target in front; which build tells what of a step that several want.
Spec   docker buildx bake.
"""

from __future__ import annotations

import threading

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pallet.cli.build.talk import View

_LOOK_S = 0.1


class CancelledError(CommandError):
    """Another build has failed."""


class Shared:
    """The view that all share."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.cancelled = False

    def events(self, target: str, prefix: str, found: Sequence[dict[str, Any]]) -> None:
        """Pass on what one build says; of what several say, the first one's word counts."""
        with self._lock:
            kept = [one for event in found if (one := self._own(target, prefix, event)) is not None]
            if kept:
                self._view.events(kept)

    def _own(self, target: str, prefix: str, event: dict[str, Any]) -> dict[str, Any] | None:
        (kind, fields), *_ = event.items()
        digest = fields.get("digest" if kind == "vertex" else "vertex", "")
        if kind == "warning":
            return event
        owner = self._owners.setdefault(digest, target)
        if kind != "vertex":
            return event if owner == target else None
        if owner != target and fields.get("error", "").endswith("context canceled"):
            return None  # only this build has given it up
        name = self._names.setdefault(digest, prefixed(fields["name"], prefix))
        return {kind: {**fields, "name": name}}

    def tick(self) -> float:
        """Redraw; stop whoever asks once a build has failed."""
        if self.cancelled:
            raise CancelledError("context canceled")
        with self._lock:
            wait_s = self._view.tick()
        return _LOOK_S if wait_s is None else min(wait_s, _LOOK_S)

    def finish(self) -> None:
        """End the picture."""
        with self._lock:
            self._view.finish()


class TargetView:
    """What one build takes for its view."""

    def __init__(self, shared: Shared, target: str, *, prefix: bool) -> None:
        self._shared = shared
        self._target = target
        self._prefix = target if prefix else ""

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        """See ``talk.View``."""
        self._shared.events(self._target, self._prefix, found)

    def tick(self) -> float | None:
        """See ``talk.View``."""
        return self._shared.tick()

    def finish(self) -> None:
        """The picture ends with the last build."""


def prefixed(name: str, prefix: str) -> str:
    """``[web 1/2] RUN make`` of ``[1/2] RUN make``; other names get ``[web]`` in front."""
    if not prefix:
        return name
    return f"[{prefix} {name[1:]}" if name.startswith("[") else f"[{prefix}] {name}"
