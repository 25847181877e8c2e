"""``# syntax=image``: which front end a build file asks for.

Owns   finding the directive in any of its forms.
Runs   anywhere; pure.
Spec   Dockerfile reference "syntax"; the forms for other languages' files are BuildKit's.
"""

from __future__ import annotations

import json
import re

_LINE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*", re.DOTALL)
_OURS = re.compile(r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?::[\w.-]+)?(?:@sha256:[0-9a-f]+)?")
_BEGINNING = 64 << 10


def detect_syntax(source: bytes) -> str:
    """The image of the front end, perhaps with arguments; "" where none is named.

    A first line ``#!…`` is skipped; ``//`` comments and a JSON object's ``syntax`` count as well.
    """
    text = source[:_BEGINNING].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    for mark in ("#", "//"):
        found = _in_comments(text, mark)
        if found:
            return found
    if text.lstrip().startswith("{"):
        try:
            value, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError):
            return ""
        found = value.get("syntax", "") if isinstance(value, dict) else ""
        return found if isinstance(found, str) else ""
    return ""


def _in_comments(text: str, mark: str) -> str:
    for line in text.split("\n"):
        match = _LINE.fullmatch(line.strip()[len(mark):].strip()) if line.lstrip().startswith(mark) else None
        if match is None:
            return ""
        if match[1].lower() == "syntax":
            return match[2]
    return ""


def syntax_line(source: bytes) -> int:
    """The line, from 1, that names the front end which ``detect_syntax`` found."""
    lines = source.decode("utf-8", "replace").split("\n")
    return next((number for number, line in enumerate(lines, 1) if "syntax" in line.lower()), 1)


def is_builtin(image: str) -> bool:
    """Whether an image is Docker's own front end, whose language is the one built in here."""
    image = image.partition(" ")[0]
    return image == "dockerfile.v0" or _OURS.fullmatch(image) is not None
