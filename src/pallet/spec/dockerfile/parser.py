"""Dockerfile text to a list of nodes: one instruction each, with flags, arguments and here-documents.

Owns   lines: directives, comments, continuations, here-documents, the shapes of arguments. What an
       instruction means is ``interpret.py``'s.
Runs   anywhere; pure. Linear in the length of the text.
Spec   Dockerfile reference "Format", "Parser directives", "Here-Documents".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace

from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile.errors import DockerfileError

_MAX_LINE_BYTES = 64 * 1024
_SPACE = "\t\v\f\r "
_COMMAND_END = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*", re.DOTALL)
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)", re.DOTALL)
_HEREDOC_APART = re.compile(r"(\d*)<<")
"""``<< EOF``: the delimiter is the word after it."""
_HEREDOC_STYLE = expand.Style(raw_quotes=True, raw_escapes=True, keep_unset=True)
_WORD_STYLE = expand.Style(keep_unset=True)
_WITH_HEREDOC = frozenset({"add", "copy", "run"})
_JSON_FORMS = frozenset({"add", "cmd", "copy", "entrypoint", "run", "shell", "volume"})
_LISTS = frozenset({"add", "copy", "volume", "from", "expose"})
_PAIRS = frozenset({"env", "label"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """One here-document."""

    name: str
    """Delimiter, and the file's name in COPY."""
    text: str
    expand: bool
    """Variables in it count: its delimiter was not quoted."""
    chomp: bool
    """``<<-``: leading tabs go."""
    fd: int = 0

    @property
    def content(self) -> str:
        """The text, without leading tabs where ``<<-`` asked for that."""
        return re.sub(r"^\t+", "", self.text, flags=re.MULTILINE) if self.chomp else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One instruction, not yet understood."""

    command: str
    """As written."""
    original: str
    """The whole logical line, continuations joined, without here-documents."""
    flags: tuple[str, ...]
    """``--name=value`` words, quotes removed."""
    rest: str
    """Everything after the flags."""
    args: tuple[str, ...]
    """Words or JSON elements; for ENV and LABEL names and values in turn."""
    json: bool
    legacy_pair: bool = False
    """``ENV name value`` without an equals sign."""
    start: int
    end: int
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    """Comment lines right above, without their ``#``."""
    trigger: Node | None = None
    """The instruction in ONBUILD."""

    @property
    def name(self) -> str:
        """The command in lower case."""
        return self.command.lower()

    @property
    def lines(self) -> tuple[int, int]:
        """First and last line."""
        return self.start, self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole Dockerfile."""

    nodes: tuple[Node, ...]
    escape: str
    directives: dict[str, tuple[str, int]]
    """``syntax``, ``escape``, ``check`` to value and line."""
    empty_continuations: tuple[tuple[int, str], ...] = ()
    """Line and text of instructions with blank lines inside."""


@dataclass(slots=True)
class _Reader:
    lines: list[str]
    at: int = 0
    escape: str = "\\"
    directives: dict[str, tuple[str, int]] = field(default_factory=dict)
    in_directives: bool = True
    continuation: re.Pattern[str] = re.compile("")

    def __post_init__(self) -> None:
        self.set_escape("\\")

    def set_escape(self, char: str) -> None:
        self.escape = char
        quoted = re.escape(char)
        self.continuation = re.compile(rf"(?:(?<=[^{quoted}])|^){quoted}[ \t]*$")

    def next(self) -> str | None:
        """The next line with its line feed; None at the end."""
        if self.at >= len(self.lines):
            return None
        line = self.lines[self.at]
        self.at += 1
        if len(line) > _MAX_LINE_BYTES // 4 and len(line.encode()) > _MAX_LINE_BYTES:
            message = f"dockerfile line greater than max allowed size of {_MAX_LINE_BYTES - 1}"
            raise DockerfileError(message, (self.at - 1, self.at - 1) if self.at > 1 else None)
        return line


def parse(source: bytes) -> Document:
    """Take a Dockerfile apart.

    Raises:
        DockerfileError: with the line, in BuildKit's words.
    """
    text = source.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    lines = text.split("\n")
    reader = _Reader(lines=[line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else []))
    nodes: list[Node] = []
    empty: list[tuple[int, str]] = []
    comments: list[str] = []
    while (line := reader.next()) is not None:
        stripped = line.rstrip("\r\n").lstrip(_SPACE)
        if reader.in_directives and _directive(reader, stripped):
            continue
        if stripped.startswith("#"):
            comments.append(stripped[1:].strip())
            continue
        start = reader.at
        joined, more = _continued(reader, stripped)
        if not joined and not more:
            continue
        blank_inside, joined = _join(reader, joined, more=more)
        if blank_inside:
            empty.append((reader.at, joined))
        if joined:
            nodes.append(_node(reader, joined, start, tuple(comments)))
        comments = []
    if not nodes:
        message = "file with no instructions"
        raise DockerfileError(message, (reader.at, reader.at) if reader.at else None)
    return Document(nodes=tuple(nodes), escape=reader.escape, directives=reader.directives,
                    empty_continuations=tuple(empty))


def _directive(reader: _Reader, line: str) -> bool:
    """Take a line that is a directive; whether it is one."""
    match = _DIRECTIVE.fullmatch(line)
    key = match[1].lower() if match is not None else ""
    if match is None or key not in _DIRECTIVES:
        reader.in_directives = False
        return False
    if key in reader.directives:
        message = f"only one {key} parser directive can be used"
        line_before = reader.directives[key][1]
        raise DockerfileError(message, (line_before, line_before))
    reader.directives[key] = (match[2], reader.at)
    if key == "escape":
        if match[2] not in ("\\", "`"):
            message = f"invalid escape token '{match[2]}' does not match ` or \\"
            raise DockerfileError(message)
        reader.set_escape(match[2])
    return True


def _continued(reader: _Reader, line: str) -> tuple[str, bool]:
    """The line without its continuation character, and whether there was one."""
    match = reader.continuation.search(line) if reader.escape in line else None
    return (line, False) if match is None else (line[:match.start()], True)


def _join(reader: _Reader, first: str, *, more: bool) -> tuple[bool, str]:
    parts, blank_inside = [first], False
    while more and (line := reader.next()) is not None:
        line = line.rstrip("\r\n")
        stripped = line.lstrip(_SPACE)
        if stripped.startswith("#"):
            continue
        if not stripped:
            blank_inside = True
            continue
        part, more = _continued(reader, line)
        parts.append(part)
    return blank_inside, "".join(parts)


def _node(reader: _Reader, line: str, start: int, comments: tuple[str, ...]) -> Node:
    try:
        node = _simple(line, (start, reader.at), reader.escape)
    except DockerfileError as error:
        raise error.at((start, reader.at)) from None
    inner = node.trigger if node.name == "onbuild" else node
    heredocs: list[Heredoc] = []
    if inner is not None and inner.name in _WITH_HEREDOC and not inner.json and "<<" in line:
        heredocs = [_body(reader, opened, start) for opened in heredocs_in(line)]
    if not (heredocs or comments):
        return node
    return replace(node, heredocs=tuple(heredocs), comments=comments, end=reader.at)


def parse_line(text: str, escape: str = "\\") -> Node:
    """Parse one instruction that stands alone: an ONBUILD trigger, a ``--change``.

    Its here-documents follow on further lines.

    Raises:
        DockerfileError: as ``parse`` does.
    """
    lines = text.split("\n")
    reader = _Reader(lines=[f"{line}\n" for line in lines], at=1)
    reader.set_escape(escape)
    return _node(reader, lines[0].strip(), 1, ())


def _simple(line: str, lines: tuple[int, int], escape: str) -> Node:
    command, _, rest = _partition(line.strip())
    flags, rest = _flags(rest)
    rest = rest.strip()
    name = command.lower()
    args: tuple[str, ...] = ()
    is_json = legacy = False
    trigger = None
    if name in _JSON_FORMS and (listed := json_list(rest)) is not None:
        args, is_json = tuple(listed), True
    elif name in _LISTS:
        args = tuple(rest.split())
    elif name in _PAIRS:
        args, legacy = _pairs(rest, name.upper(), escape)
    elif name == "arg":
        args = tuple(_words(rest, escape))
    elif name == "onbuild":
        trigger = _simple(rest, lines, escape) if rest else None
    elif name == "healthcheck":
        args, is_json = _healthcheck(rest)
    elif rest:
        args = (rest,)
    return Node(command=command, original=line.rstrip(), flags=flags, rest=rest, args=args,
                json=is_json, legacy_pair=legacy, start=lines[0], end=lines[1], trigger=trigger)


def _partition(text: str) -> tuple[str, str, str]:
    match = _COMMAND_END.search(text)
    return (text, "", "") if match is None else (text[:match.start()], match[0], text[match.end():])


def _flags(text: str) -> tuple[tuple[str, ...], str]:
    """Take the ``--flags`` off the front; quotes and backslashes in them are undone."""
    found: list[str] = []
    at, end = 0, len(text)
    while True:
        while at < end and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return tuple(found), text[at:]
        word, at = _flag_word(text, at)
        if word == "--":
            return tuple(found), text[at:]
        found.append(word)


def _flag_word(text: str, at: int) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if not quote and char.isspace():
            break
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\":
            at += 1
            word.append(text[at:at + 1])
        else:
            word.append(char)
        at += 1
    return "".join(word), at


def json_list(text: str) -> list[str] | None:
    """The strings of a JSON array; None when the text is not one.

    Raises:
        DockerfileError: it is an array with other things in it.
    """
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(item, str) for item in value):
        message = "when using JSON array syntax, arrays must be comprised of strings only"
        raise DockerfileError(message)
    return value


def _words(text: str, escape: str) -> list[str]:
    """Split at spaces outside of quotes; quotes and escapes stay."""
    words: list[str] = []
    start: int | None = None
    quote = ""
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if start is None:
            if not char.isspace():
                start = at
                continue
        elif char == escape and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            words.append(text[start:at])
            start = None
        at += 1
    if start is not None:
        words.append(text[start:])
    return words


def _pairs(text: str, command: str, escape: str) -> tuple[tuple[str, ...], bool]:
    words = _words(text, escape)
    if not words:
        return (), False
    if "=" not in words[0]:
        name, _, value = _partition(text)
        if not value:
            message = f"{command} must have two arguments"
            raise DockerfileError(message)
        return (name, value), True
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            message = (f"Syntax error - can't find = in {json.dumps(word)}. "
                       "Must be of the form: name=value")
            raise DockerfileError(message)
        result += [name, value]
    return tuple(result), False


def _healthcheck(text: str) -> tuple[tuple[str, ...], bool]:
    kind, _, command = _partition(text)
    if not command.strip():
        return ((kind,) if kind else ()), False
    listed = json_list(command.strip()) if kind.upper() == "CMD" else None
    if listed is not None:
        return (kind, *listed), True
    return (kind, command.strip()), False


def heredocs_in(line: str) -> list[Heredoc]:
    """Find the here-documents that a line opens, their text still empty; none where a quote is not closed."""
    found = []
    try:
        words = iter(expand.expand(line, {}, _HEREDOC_STYLE).words)
    except DockerfileError:
        return []
    for word in words:
        apart = _HEREDOC_APART.fullmatch(word)
        opened = heredoc_word(word) if apart is None else _opened(next(words, ""), apart[1])
        if opened is not None:
            found.append(opened)
    return found


def heredoc_word(word: str) -> Heredoc | None:
    """Read ``<<EOF``, ``3<<-"EOF"``; None when the word opens no here-document."""
    match = _HEREDOC.fullmatch(word)
    return None if match is None else _opened(match[3], match[1], chomp=bool(match[2]))


def _opened(delimiter: str, fd: str, *, chomp: bool = False) -> Heredoc | None:
    if not delimiter or "<" in delimiter:
        return None
    try:
        plain = expand.expand(delimiter, {}, _WORD_STYLE).words
        raw = expand.expand(delimiter, {}, _HEREDOC_STYLE).words
    except DockerfileError:
        return None
    if len(plain) != 1 or len(raw) != 1:
        return None
    return Heredoc(name=plain[0], text="", expand=plain[0] == raw[0], chomp=chomp, fd=int(fd[:9] or 0))


def _body(reader: _Reader, opened: Heredoc, start: int) -> Heredoc:
    text: list[str] = []
    while (line := reader.next()) is not None:
        candidate = line.rstrip("\r\n")
        if opened.chomp:
            candidate = candidate.lstrip("\t")
        if candidate == opened.name:
            return replace(opened, text="".join(text))
        text.append(line)
    message = "unterminated heredoc"
    raise DockerfileError(message, (start, reader.at))
