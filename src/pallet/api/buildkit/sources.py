"""LLB definitions of one remote source: what clients make themselves, for bake files and contexts at a URL.

Owns   reading them as the URL that they mean. Pure.
Spec   BuildKit's ``pb.SourceOp``: ``git://`` with ``git.fullurl``, ``http://`` and ``https://``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.buildkit.grpc import decode
from pallet.api.buildkit.wire import llb_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

_GIT = "git://"
_HTTP = ("http://", "https://")


def source_url(definition: llb_pb2.Definition) -> str:
    """URL of the one source that a definition is; "" for anything else."""
    operations = [decode(llb_pb2.Op, data) for data in getattr(definition, "def")]
    real = [op for op in operations if op.WhichOneof("op")]
    if len(real) != 1 or not real[0].HasField("source"):
        return ""
    source = real[0].source
    if source.identifier.startswith(_GIT):
        remote = source.attrs.get("git.fullurl", "") or f"https://{source.identifier.removeprefix(_GIT)}"
        _, sign, fragment = source.identifier.partition("#")
        return f"{remote.partition('#')[0]}{sign}{fragment}"
    return source.identifier if source.identifier.startswith(_HTTP) else ""


def remote_inputs(definitions: Mapping[str, llb_pb2.Definition]) -> dict[str, str]:
    """URLs of a front end's inputs that are such."""
    found = {name: source_url(definition) for name, definition in definitions.items()}
    return {name: url for name, url in found.items() if url}
