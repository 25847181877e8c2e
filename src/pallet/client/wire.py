"""JSON for the client, straight on CPython's C accelerator.

Owns   encoding of request bodies and decoding of replies. ``import json`` costs 8 ms at start-up
       because it brings ``re`` along; the scanner and encoder it wraps are in ``_json``.
Runs   in the CLI process only.
Spec   RFC 8259. Output is compact and keeps non-ASCII characters as they are.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False  # typing costs 6 ms; type checkers take this name as true
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\r\n"


class WireError(ValueError):
    """A reply is not the JSON it claims to be."""


class _Rules:
    """What ``make_scanner`` reads from ``json.JSONDecoder``."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the C scanner wants a plain attribute


_scan = _json.make_scanner(_Rules)  # type: ignore[arg-type]


def _refuse(value: object) -> None:
    message = f"cannot encode {type(value).__name__}"
    raise TypeError(message)


_encode = _json.make_encoder(
    None, _refuse, _json.encode_basestring, None, ":", ",", False, False, True  # type: ignore[arg-type, unused-ignore]
)


def decode(data: bytes | str) -> Any:
    """Return the value of one JSON text; blanks around it are ignored.

    Raises:
        WireError: the text is not JSON, or something follows the value.
    """
    text = (data if isinstance(data, str) else data.decode("utf-8", "replace")).strip(_BLANK)
    value, end = decode_first(text, 0)
    if end != len(text):
        message = f"unexpected data after JSON value at offset {end}"
        raise WireError(message)
    return value


def decode_first(text: str, start: int) -> tuple[Any, int]:
    """Return the value that starts at ``start`` and the offset behind it.

    Raises:
        WireError: no complete value starts there.
    """
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        message = f"invalid JSON at offset {stop.value}"
        raise WireError(message) from None
    except (ValueError, SystemError):
        # SystemError: the scanner wants to raise an exception of json.decoder, not imported here.
        message = f"invalid JSON after offset {start}"
        raise WireError(message) from None
    return value, end


def encode(value: object) -> bytes:
    """Return ``value`` (dict, list, str, int, float, bool, None) as compact UTF-8 JSON.

    Bytes of an argument that were no UTF-8 become U+FFFD, as in Go.
    """
    text = encode_text(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


def encode_text(value: object) -> str:
    """Return ``value`` as compact JSON text."""
    return "".join(_encode(value, 0))


def escape_html(text: str) -> str:
    r"""Escape ``<``, ``>`` and ``&`` in JSON text as ``\u003c``…, as Go's default encoder does."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def indent(text: str, unit: str = "    ", level: int = 0) -> str:
    """Re-indent compact or indented JSON without touching its keys, numbers or escapes.

    Args:
        text: valid JSON.
        unit: one level of indentation.
        level: level of the enclosing value; the first line is not indented.
    """
    out: list[str] = []
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char == '"':
            end = at + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[at:end + 1])
            at = end
        elif char in "{[":
            closing = at + 1
            while text[closing] in _BLANK:
                closing += 1
            if text[closing] in "}]":
                out.append(char + text[closing])
                at = closing
            else:
                level += 1
                out.append(char + "\n" + unit * level)
        elif char in "}]":
            level -= 1
            out.append("\n" + unit * level + char)
        elif char == ",":
            out.append(",\n" + unit * level)
        elif char == ":":
            out.append(": ")
        elif char not in _BLANK:
            out.append(char)
        at += 1
    return "".join(out)
