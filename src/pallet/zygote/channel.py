"""Messages between daemon, zygote and shims: a document, its payload and descriptors.

Owns   how a document and opaque bytes share one message; ``linux/packets.py`` frames it.
Runs   in the daemon, the zygote and its children.
"""

from __future__ import annotations

from pallet.linux.packets import DescriptorsLostError, enlarge, pair, receive, send

__all__ = ["DescriptorsLostError", "enlarge", "join", "pair", "receive", "send", "split"]


def join(document: bytes, payload: bytes = b"") -> bytes:
    """Return one body of a document and the opaque bytes that follow it."""
    return len(document).to_bytes(4, "little") + document + payload


def split(body: bytes) -> tuple[bytes, bytes]:
    """Undo ``join``."""
    end = 4 + int.from_bytes(body[:4], "little")
    return body[4:end], body[end:]
