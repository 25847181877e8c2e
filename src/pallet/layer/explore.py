"""Stack the indexes of an image's layers: who added, changed and deleted what, and what that wastes.

Runs   in a zygote child (kind ``layer.explore``); sync, no threads.
Spec   image-spec layer.md#whiteouts.

A file that a later layer replaces or deletes still takes its bytes in the layer it came in: those
are hidden. Hard links have no bytes of their own.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError, PalletError
from pallet.layer.index import DELETED, OPAQUE, IndexEntry
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.spec.own.explore import Change, Entry, Exploration, HiddenPath, LargePath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHOWN = 50


class ExploreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Explore an image. fds: the file to write JSON of ``Exploration`` to, then an index a layer."""

    frame: Exploration
    """What is known already: names, layers with their sizes and commands."""
    entries: bool = True


class ExploreReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_explore`` answers."""

    hidden_bytes: int = 0
    failure: WorkerFailure | None = None

    def result(self) -> int:
        """Return the hidden bytes or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.hidden_bytes


_request = msgspec.json.Decoder(ExploreRequest)
_index = msgspec.msgpack.Decoder(list[IndexEntry])
_encoder = msgspec.json.Encoder()


def run_explore(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.explore``: ``ExploreRequest`` to ``ExploreReply``."""
    wanted = _request.decode(request)
    try:
        stack = Stack()
        for fd in fds[1:]:
            with open(fd, "rb", closefd=False) as source:
                source.seek(0)
                stack.push(_index.decode(source.read()))
        found = stack.report(wanted.frame, entries=wanted.entries)
        with open(fds[0], "wb", closefd=False) as out:
            out.write(_encoder.encode(found))
        reply = ExploreReply(hidden_bytes=found.hidden_bytes)
    except msgspec.DecodeError as error:
        reply = ExploreReply(failure=failure_of(DataLossError(f"the index of a layer is damaged: {error}")))
    except (PalletError, OSError) as error:
        reply = ExploreReply(failure=failure_of(error))
    return _encoder.encode(reply)


class _Node:
    """One path, with all that happened to it."""

    __slots__ = ("children", "entry", "history", "layer")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.entry: IndexEntry | None = None
        """What is there now; None after a deletion, and for a directory no layer describes."""
        self.layer = 0
        self.history: list[Change] = []


class Stack:
    """Layers, base first."""

    def __init__(self) -> None:
        self._root = _Node()
        self._layers = 0
        self._counts: list[dict[str, int]] = []
        self._hidden: list[int] = []
        self._wasted: dict[bytes, list[int]] = {}
        """Path to the bytes hidden there and how often."""

    def push(self, entries: Sequence[IndexEntry]) -> None:
        """Put a layer on top; deletions hide only what is below it."""
        layer = self._layers
        self._counts.append({"added": 0, "changed": 0, "deleted": 0})
        self._hidden.append(0)
        for entry in entries:
            if entry.kind == DELETED:
                node = self._find(entry.path)
                if node is not None:
                    self._delete(node, entry.path, layer)
            elif entry.kind == OPAQUE:
                node = self._find(entry.path)
                for name, child in list(node.children.items()) if node is not None else ():
                    self._delete(child, entry.path + b"/" + name if entry.path else name, layer)
        for entry in entries:
            if entry.kind not in {DELETED, OPAQUE}:
                self._put(entry, layer)
        self._layers += 1

    def _find(self, path: bytes) -> _Node | None:
        node: _Node | None = self._root
        for part in path.split(b"/") if path else ():
            node = node.children.get(part) if node is not None else None
        return node

    def _put(self, entry: IndexEntry, layer: int) -> None:
        node = self._root
        for part in entry.path.split(b"/") if entry.path else ():
            node = node.children.setdefault(part, _Node())
        before = node.entry
        if entry.kind != "directory":
            for name, child in list(node.children.items()):
                self._delete(child, entry.path + b"/" + name, layer)
        elif before is not None and before.kind == "directory" and (
                (before.mode, before.uid, before.gid) == (entry.mode, entry.uid, entry.gid)):
            return  # there only to hold what is below it
        if before is not None:
            self._hide(node, entry.path)
        self._record(node, "added" if before is None else "changed", entry.size, layer)
        node.entry, node.layer = entry, layer

    def _hide(self, node: _Node, path: bytes) -> None:
        assert node.entry is not None
        size = node.entry.size
        if size:
            self._hidden[node.layer] += size
            wasted = self._wasted.setdefault(path, [0, 0])
            wasted[0] += size
            wasted[1] += 1

    def _record(self, node: _Node, kind: str, size: int, layer: int) -> None:
        self._counts[layer][kind] += 1
        node.history.append(Change(layer=layer, kind=kind, size=size))

    def _delete(self, top: _Node, path: bytes, layer: int) -> None:
        for node, below in _walk(top, path):
            if node.entry is not None:
                self._hide(node, below)
                self._record(node, "deleted", 0, layer)
                node.entry = None

    def report(self, frame: Exploration, *, entries: bool) -> Exploration:
        """Fill ``frame`` in."""
        layers = [msgspec.structs.replace(facts, hidden_bytes=hidden, **counts) for facts, hidden, counts
                  in zip(frame.layers, self._hidden, self._counts, strict=True)]
        there = [(node, path) for node, path in _walk(self._root, b"") if node.entry is not None]
        visible = sum(node.entry.size for node, _ in there if node.entry is not None)
        hidden = sum(self._hidden)
        largest = heapq.nlargest(_SHOWN, there, key=lambda one: (one[0].entry.size if one[0].entry else 0, one[1]))
        wasted = heapq.nlargest(_SHOWN, self._wasted.items(), key=lambda one: (one[1][0], one[0]))
        return msgspec.structs.replace(
            frame, layers=layers, hidden_bytes=hidden, visible_bytes=visible,
            efficiency=round(visible / (visible + hidden), 4) if visible + hidden else 1.0,
            largest=[LargePath(path=_show(path), size=node.entry.size, layer=node.layer)
                     for node, path in largest if node.entry is not None and node.entry.size],
            hidden=[HiddenPath(path=_show(path), bytes=total, times=times) for path, (total, times) in wasted],
            entries=[_document(node, path) for node, path in _walk(self._root, b"") if node.history]
            if entries else [])


def _walk(top: _Node, path: bytes) -> Iterator[tuple[_Node, bytes]]:
    """The node and all below it, parents first, by name."""
    pending = [(top, path)]
    while pending:
        node, here = pending.pop()
        yield node, here
        pending += [(node.children[name], here + b"/" + name if here else name)
                    for name in sorted(node.children, reverse=True)]


def _document(node: _Node, path: bytes) -> Entry:
    entry = node.entry
    if entry is None:
        return Entry(path=_show(path), kind=DELETED, history=node.history)
    return Entry(path=_show(path), kind=entry.kind, size=entry.size, mode=entry.mode, uid=entry.uid, gid=entry.gid,
                 target=entry.target.decode(errors="replace"), history=node.history)


def _show(path: bytes) -> str:
    return "/" + path.decode(errors="replace")
