"""Detach keys: parsing, and finding the sequence in typed input.

The daemon recognises the sequence too, where it can; but it is told nothing about why a stream
ended, so the client watches as well to say "read escape sequence".
"""

from __future__ import annotations

from pallet.cli.errors import CommandError

DEFAULT = "ctrl-p,ctrl-q"


def parse(text: str) -> bytes:
    r"""Return the bytes of ``ctrl-p,ctrl-q`` or ``a,b``.

    Raises:
        CommandError: a key is neither one character nor ``ctrl-`` and one of ``a-z @ [ ] \ ^ _``.
    """
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            keys += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and (
                "a" <= key[5] <= "z" or key[5] in "@[\\]^_"):
            keys.append(ord(key[5].upper()) - 64)
        else:
            raise CommandError(f"Invalid detach keys ({text}) provided", hint="")
    return bytes(keys)


class DetachWatcher:
    """Passes input through, holding back what may be the start of the sequence."""

    def __init__(self, keys: bytes) -> None:
        """``keys`` empty watches for nothing."""
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return bytes to send on and whether the sequence was completed in ``data``."""
        if not self._keys:
            return data, False
        out = bytearray()
        for at in range(len(data)):
            byte = data[at:at + 1]
            candidate = self._held + byte
            if candidate == self._keys:
                self._held = b""
                return bytes(out), True
            if self._keys.startswith(candidate):
                self._held = candidate
            else:
                out += self._held
                self._held = byte if self._keys.startswith(byte) else b""
                if not self._held:
                    out += byte
        return bytes(out), False
