"""Cache keys: what of an operation counts, and how keys are made of it and of its inputs.

Owns   the rule of what is no part of a key: names, spans, proxies, what secrets hold, times of files.
Runs   anywhere; pure.
Spec   ``docs/dev/build.md`` "How the solver decides".

A vertex has two keys. The definition key is made of the operation and the definition keys of its inputs:
it is known before anything has run. The content key is made of the operation and what its inputs hold
where the operation looks: it finds what was made before although something further down has changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pallet.build import graph
from pallet.build.ops.selection import Selection
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.types import DiffID

VERSION = "1"
"""Part of every key: another one when operations mean something else."""

_encoder = msgspec.json.Encoder(order="deterministic")
_LATER: dict[str, dict[str, object]] = {
    "RunOp": {"readonly_root": False, "valid_exit_codes": (), "extra_hosts": (), "ulimits": (), "cgroup_parent": ""},
    "RunMount": {"kept": False},
    "CopyAction": {"include": (), "itself": False, "follow": True, "matches": False, "makes_parents": True,
                   "replaces": False, "time_ns": None, "lenient": False},
    "WriteAction": {"makes_parents": True, "time_ns": None},
    "MakeDirectoryAction": {"makes_parents": True, "time_ns": None},
}
"""Fields that came after the first keys were made: where they say nothing new they are left out, so that what was
made before is still found."""


@dataclass(frozen=True, slots=True)
class Use:
    """How an operation looks at one of its inputs."""

    input: int
    selection: Selection | None
    """None: at all of it, layer by layer (it goes on from there)."""


def op_digest(vertex: graph.Vertex) -> str:
    """Digest of an operation by itself, with the platform it runs on."""
    op = vertex.op
    document: dict[str, object] = {"version": VERSION, "op": type(op).__name__}
    fields = _trimmed(msgspec.to_builtins(op), op)
    if isinstance(op, graph.ImageSource | graph.OciLayoutSource):
        fields = {"digest": op.digest}
    elif isinstance(op, graph.RunOp):
        del fields["unkeyed_env"], fields["output"]
        fields["mounts"] = list(map(_trimmed, fields["mounts"], op.mounts))
        document["platform"] = str(vertex.platform) if vertex.platform is not None else ""
    elif isinstance(op, graph.FileOp):
        fields["actions"] = list(map(_trimmed, fields["actions"], op.actions))
    document["fields"] = fields
    return hashlib.sha256(_encoder.encode(document)).hexdigest()


def _trimmed(fields: dict[str, Any], thing: graph.Op | graph.RunMount | graph.Action) -> dict[str, Any]:
    """Fields without those of ``_LATER`` that say nothing new."""
    for name, before in _LATER.get(type(thing).__name__, {}).items():
        if getattr(thing, name) == before:
            del fields[name]
    return fields


def output_key(key: str, output: int | None) -> str:
    """Key of one of a command's outputs, from the command's own."""
    return key if output is None else combine("output", [key, str(output)])


class Names:
    """Digests of a graph's vertices, each made once."""

    def __init__(self) -> None:
        self._ops: dict[graph.Vertex, str] = {}
        self._digests: dict[graph.Vertex, Digest] = {}

    def op(self, vertex: graph.Vertex) -> str:
        """``op_digest``."""
        found = self._ops.get(vertex)
        if found is None:
            found = self._ops[vertex] = op_digest(vertex)
        return found

    def digest(self, vertex: graph.Vertex) -> Digest:
        """Name of a vertex in the progress: the operation and all it depends on."""
        known = self._digests
        found = known.get(vertex)
        if found is not None:
            return found
        for one in in_order([vertex]):
            if one not in known:
                parts = [self.op(one), *(known[below] for below in one.inputs), "nocache" if one.ignore_cache else ""]
                if isinstance(one.op, graph.RunOp) and one.op.output is not None:
                    parts.append(f"output {one.op.output}")
                known[one] = Digest("sha256:" + combine("vertex", parts))
        return known[vertex]


def combine(kind: str, parts: Iterable[str]) -> str:
    """Digest of a list of texts."""
    return hashlib.sha256("\0".join((kind, *parts)).encode("utf-8", "surrogateescape")).hexdigest()


def chain_key(layers: Sequence[DiffID]) -> str:
    """What a file system is as a stack of layers."""
    return combine("chain", layers)


def selection_key(selection: Selection) -> str:
    """A selection as text, for what is remembered about it."""
    return combine("selection", [
        "\1".join(selection.paths), "\1".join(selection.exclude),
        f"{selection.wildcards:d}{selection.parents:d}{'' if selection.follow else '-'}"])


def uses(op: graph.Op, inputs: int) -> list[Use]:
    """How an operation looks at each of its ``inputs`` inputs; one it does not look at is left out."""
    if isinstance(op, graph.RunOp):
        found = [Use(0, None)] if inputs else []
        return found + [Use(mount.input, None if mount.kept else Selection(paths=(mount.source,), wildcards=False))
                        for mount in op.mounts if mount.input is not None]
    if isinstance(op, graph.FileOp):
        found = [Use(0, None)] if op.has_base and inputs else []
        return found + [
            Use(action.input, _selection(action))
            for action in op.actions if isinstance(action, graph.CopyAction)]
    return [Use(number, None) for number in range(inputs)]


def _selection(action: graph.CopyAction) -> Selection:
    """What a copy looks at: with patterns of what it takes, what it leaves out counts as well."""
    return Selection(paths=action.paths, exclude=() if action.include else action.exclude,
                     wildcards=action.wildcards, parents=action.parents, follow=action.follow, lenient=action.lenient)


def in_order(targets: Sequence[graph.Vertex]) -> list[graph.Vertex]:
    """Every vertex that ``targets`` need, inputs first; without recursion, as graphs may be deep."""
    found: dict[graph.Vertex, None] = {}
    pending = [(target, False) for target in reversed(targets)]
    while pending:
        vertex, ready = pending.pop()
        if vertex in found:
            continue
        if ready:
            found[vertex] = None
            continue
        pending.append((vertex, True))
        pending += [(below, False) for below in reversed(vertex.inputs) if below not in found]
    return list(found)
