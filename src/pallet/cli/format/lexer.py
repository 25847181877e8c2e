"""Tokens of Go's text/template: the text between actions, and what is inside ``{{ }}``.

Spec   Go text/template "Actions", "Text and spaces", "Arguments".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Token = tuple[str, str, int]

_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b",
            "f": "\f", "v": "\v"}


class TemplateError(ValueError):
    """A template does not parse or execute; the message is Go's."""


def parse_error(text: str, at: int, words: str) -> TemplateError:
    """Return an error that names the line of offset ``at``."""
    return TemplateError(f"template: :{text.count(chr(10), 0, at) + 1}: {words}")


def split(text: str) -> list[tuple[str, str, int]]:
    """Return ``("text", s, offset)`` and ``("action", s, offset)`` parts, blanks trimmed as marked.

    Raises:
        TemplateError: an action is not closed.
    """
    parts: list[tuple[str, str, int]] = []
    at, trim_next = 0, False
    while True:
        start = text.find("{{", at)
        literal = text[at:] if start < 0 else text[at:start]
        if trim_next:
            literal = literal.lstrip(_SPACE)
        if start < 0:
            if literal:
                parts.append(("text", literal, at))
            return parts
        inner = start + 2
        if text.startswith("- ", inner) or text.startswith("-\t", inner):
            literal = literal.rstrip(_SPACE)
            inner += 1
        if literal:
            parts.append(("text", literal, at))
        end = _action_end(text, inner)
        body_end = end
        trim_next = text[end - 1] == "-" and end - 1 > inner and text[end - 2] in _SPACE
        if trim_next:
            body_end -= 1
        parts.append(("action", text[inner:body_end], inner))
        at = end + 2


def _action_end(text: str, at: int) -> int:
    start = at
    while at < len(text):
        char = text[at]
        if text.startswith("}}", at):
            return at
        if text.startswith("/*", at):
            end = text.find("*/", at)
            if end < 0:
                raise parse_error(text, start, "unclosed comment")
            at = end + 2
            continue
        if char == '"':
            at = _string_end(text, at)
        elif char == "`":
            end = text.find("`", at + 1)
            if end < 0:
                raise parse_error(text, at, "unterminated raw quoted string")
            at = end
        at += 1
    raise parse_error(text, start, "unclosed action")


def _string_end(text: str, at: int) -> int:
    start = at
    at += 1
    while at < len(text) and text[at] != "\n":
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            return at
        at += 1
    raise parse_error(text, start, "unterminated quoted string")


def tokens(text: str, body: str, offset: int) -> list[Token]:
    """Return the tokens of one action as ``(kind, value, offset)``.

    Kinds: ``field`` (``.Name``), ``dot``, ``variable`` (``$x``), ``string``, ``number``, ``word``, and
    the punctuation ``| ( ) , := =``. A ``space`` token separates arguments.

    Raises:
        TemplateError: a character does not belong there.
    """
    found: list[Token] = []
    at = 0
    while at < len(body):
        char, start = body[at], at
        if char in _SPACE:
            while at < len(body) and body[at] in _SPACE:
                at += 1
            found.append(("space", " ", offset + start))
            continue
        if body.startswith("/*", at):
            at = body.find("*/", at) + 2
        elif char == '"':
            at = _string_end(body, at) + 1
            found.append(("string", unquote(body[start + 1:at - 1]), offset + start))
        elif char == "`":
            at = body.index("`", at + 1) + 1
            found.append(("string", body[start + 1:at - 1], offset + start))
        elif char == "'":
            end = body.find("'", at + 2 if body[at + 1:at + 2] == "\\" else at + 1)
            if end < 0:
                raise parse_error(text, offset + at, "unterminated character constant")
            at = end + 1
            found.append(("number", str(ord(unquote(body[start + 1:end]))), offset + start))
        elif char.isdigit() or (char in "+-" and body[at + 1:at + 2].isdigit()):
            at += 1
            while at < len(body) and (body[at].isalnum() or body[at] in "._"):
                at += 1
            found.append(("number", body[start:at], offset + start))
        elif char in "|(),=":
            at += 1
            found.append((char, char, offset + start))
        elif body.startswith(":=", at):
            at += 2
            found.append((":=", ":=", offset + start))
        elif char in ".$" or char.isalpha() or char == "_":
            at = _word_end(body, at)
            found.append(_word(text, body[start:at], offset + start))
        else:
            raise parse_error(text, offset + at, f"unrecognized character in action: U+{ord(char):04X} '{char}'")
    return found


def _word_end(body: str, at: int) -> int:
    at += 1
    while at < len(body) and (body[at].isalnum() or body[at] == "_"):
        at += 1
    return at


def _word(text: str, word: str, offset: int) -> Token:
    if word == ".":
        following = text[offset + 1:offset + 2]
        if following and following not in _SPACE + "|)},":
            raise parse_error(text, offset, f"bad character U+{ord(following):04X} '{following}'")
        return ("dot", ".", offset)
    if word[0] == ".":
        return ("field", word[1:], offset)
    if word[0] == "$":
        return ("variable", word, offset)
    return ("word", word, offset)


def unquote(text: str) -> str:
    """Return the inside of a Go string literal with its escapes replaced."""
    out, at = [], 0
    while at < len(text):
        if text[at] != "\\" or at + 1 >= len(text):
            out.append(text[at])
            at += 1
            continue
        code = text[at + 1]
        width = {"x": 2, "u": 4, "U": 8}.get(code, 0)
        if width:
            out.append(chr(int(text[at + 2:at + 2 + width], 16)))
        else:
            out.append(_ESCAPES.get(code, code))
        at += 2 + width
    return "".join(out)
