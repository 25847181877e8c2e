"""Text of HCL's native syntax to blocks, attributes and expressions.

Owns   the grammar: bodies, operators, templates, here-documents. Pure.
Spec   hcl/hclsyntax/spec.md.
"""

from __future__ import annotations

import bisect
import re
from decimal import Decimal

from pallet.cli.bake.hcl import nodes
from pallet.cli.bake.hcl.errors import HclError, Span
from pallet.cli.bake.hcl.values import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.bake.hcl.nodes import Node

_NAME = re.compile(r"[^\W\d][\w-]*")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")
_HEREDOC = re.compile(r"<<(-?)([^\W\d][\w-]*)[ \t]*\r?\n")
_BLANK = re.compile(r"(?:[ \t\r]+|(?:#|//)[^\n]*|/\*.*?\*/)+", re.DOTALL)
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]+|(?:#|//)[^\n]*|/\*.*?\*/)+", re.DOTALL)
_OPERATORS = (("||",), ("&&",), ("==", "!="), ("<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "%"))
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_WORDS = {"true": True, "false": False, "null": None}
_MAX_DEPTH = 100


class Attribute:
    """``name = expression``."""

    __slots__ = ("name", "node", "span")

    def __init__(self, name: str, node: Node, span: Span) -> None:
        self.name = name
        self.node = node
        self.span = span


class Block:
    """``type "label" { … }``; ``span`` is of its head, ``label_span`` of its first label, ``brace`` before its body."""

    __slots__ = ("body", "brace", "label_span", "labels", "span", "type")

    def __init__(self, kind: str, labels: list[str], body: Body, span: Span, label_span: Span | None = None) -> None:
        self.type = kind
        self.labels = labels
        self.body = body
        self.span = span
        self.label_span = label_span or span
        self.brace = Span(span.file, span.source, span.end, span.end)


class Body:
    """What a file or a block holds."""

    __slots__ = ("attributes", "blocks")

    def __init__(self) -> None:
        self.attributes: dict[str, Attribute] = {}
        self.blocks: list[Block] = []


def parse(text: str, file: str) -> Body:
    """Read a whole file.

    Raises:
        HclError: it is no HCL.
    """
    parser = _Parser(text.removeprefix("\ufeff"), file)
    return parser.body(top=True)


def template(text: str, span: Span) -> Node:
    """Read a text as a template, as strings of HCL's JSON syntax are.

    Raises:
        HclError: an interpolation is wrong.
    """
    return _Parser(text, span.file, within=span).template("", raw=True)


class _Parser:
    def __init__(self, text: str, file: str, within: Span | None = None) -> None:
        self._text = text
        self._file = file
        self._within = within
        """Where the text comes from, if it is not the file's own."""
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        """Where lines begin."""
        self._at = 0
        self._lines = False
        """Whether a line's end is nothing but a blank here."""
        self._depth = 0
        self._trim = False
        """Whether blanks of a template are left out here."""

    # --- places

    def _place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, at)
        return line, at - self._starts[line - 1] + 1

    def _span(self, start: int, end: int | None = None) -> Span:
        if self._within is not None:
            return self._within
        return Span(self._file, self._text, self._place(start), self._place(self._at if end is None else end))

    def _fail(self, summary: str, detail: str) -> HclError:
        return HclError(summary, detail, self._span(self._at, min(self._at + 1, len(self._text))))

    # --- small parts

    def _blank(self) -> None:
        found = (_BLANK_LINES if self._lines else _BLANK).match(self._text, self._at)
        if found:
            self._at = found.end()

    def _looks(self, text: str) -> bool:
        self._blank()
        return self._text.startswith(text, self._at)

    def _took(self, text: str) -> bool:
        if not self._looks(text):
            return False
        self._at += len(text)
        return True

    def _expect(self, text: str, what: str) -> None:
        if not self._took(text):
            raise self._fail("Invalid expression" if what else "Missing item",
                             what or f'Expected "{text}".')

    def _name(self) -> str:
        self._blank()
        found = _NAME.match(self._text, self._at)
        if not found:
            return ""
        self._at = found.end()
        return found.group()

    # --- bodies

    def body(self, *, top: bool) -> Body:
        """Attributes and blocks up to the end, or up to the closing brace."""
        brace = self._at - 1
        made = Body()
        while True:
            self._lines = True
            self._blank()
            self._lines = False
            if self._at >= len(self._text):
                if top:
                    return made
                raise self._unclosed(brace)
            if not top and self._took("}"):
                return made
            self._item(made)
            if not top and self._looks("}"):
                continue
            if self._at < len(self._text) and not self._looks("\n") and self._at < len(self._text):
                raise self._fail("Missing newline after argument", "An argument definition must end with a newline.")

    def _item(self, made: Body) -> None:
        start = self._at
        name = self._name()
        self._blank()
        if not name or self._text[self._at:self._at + 1] in ("", "\n"):
            more = ' To set an argument, use the equals sign "=" to introduce the argument value.' if name else ""
            raise HclError("Argument or block definition required", "An argument or block definition is required here."
                           + more, self._span(start, start + max(len(name), 1)))
        if self._took("="):
            node = self.expression()
            if name in made.attributes:
                raise HclError("Attribute redefined", f'The argument "{name}" was already set at '
                               f"{made.attributes[name].span}. Each argument may be set only once.",
                               self._span(start, start + len(name)))
            made.attributes[name] = Attribute(name, node, self._span(start))
            return
        labels: list[str] = []
        label_span = None
        while not self._took("{"):
            self._blank()
            before = self._at
            if self._looks('"'):
                found = self.primary()
                labels.append(str(found.value(_Nothing())))
            elif label := self._name():
                labels.append(label)
            else:
                raise self._fail("Invalid block definition", "Either a quoted string block label or an opening brace "
                                 '("{") is expected here.')
            label_span = label_span or self._span(before)
        span = self._span(start, self._at - 1)
        self._nest()
        body = self.body(top=False) if self._looks("\n") else self._single()
        made.blocks.append(Block(name, labels, body, span, label_span))
        self._depth -= 1

    def _unclosed(self, brace: int) -> HclError:
        return HclError("Unclosed configuration block", "There is no closing brace for this block before the end of "
                        "the file. This may be caused by incorrect brace nesting elsewhere in this file.",
                        self._span(brace, brace + 1))

    def _single(self) -> Body:
        """A block on one line: nothing, or one argument."""
        made = Body()
        brace = self._at - 1
        if self._took("}"):
            return made
        self._blank()
        if self._at >= len(self._text):
            raise self._unclosed(brace)
        self._item(made)
        if not self._took("}"):
            raise self._fail("Invalid single-argument block definition", "An argument definition on the same line as "
                             "its containing block creates a single-line block definition, which must also be closed "
                             "on the same line. Place the block's closing brace immediately after the argument "
                             "definition.")
        return made

    def _nest(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fail("Invalid expression", "Too many levels of nesting.")

    # --- expressions

    def expression(self) -> Node:
        """A conditional or what is above it."""
        self._nest()
        self._blank()
        start = self._at
        found = self._binary(0)
        if self._took("?"):
            yes = self.expression()
            self._expect(":", "The conditional operator requires a false expression, delimited by a colon.")
            no = self.expression()
            found = nodes.Conditional(self._span(start), found, yes, no)
        self._depth -= 1
        return found

    def _binary(self, level: int) -> Node:
        if level == len(_OPERATORS):
            return self._unary()
        self._blank()
        start = self._at
        left = self._binary(level + 1)
        while True:
            operator = next((one for one in _OPERATORS[level] if self._looks(one)), "")
            if not operator:
                return left
            self._at += len(operator)
            right = self._binary(level + 1)
            left = nodes.Binary(self._span(start), operator, left, right)

    def _unary(self) -> Node:
        self._blank()
        start = self._at
        for operator in "-!":
            if self._looks(operator) and not self._looks("!="):
                self._at += 1
                self._nest()
                operand = self._unary()
                self._depth -= 1
                return nodes.Unary(self._span(start), operator, operand)
        return self._postfix(self.primary(), start)

    def _postfix(self, node: Node, start: int) -> Node:
        while self._at < len(self._text):
            if self._text.startswith("[*]", self._at) or self._text.startswith(".*", self._at):
                attributes_only = self._text[self._at] == "."
                self._at += 2 if attributes_only else 3
                return self._splat(node, start, attributes_only=attributes_only)
            if not (step := self._step(node, start)):
                return node
            node = step
        return node

    def _splat(self, node: Node, start: int, *, attributes_only: bool) -> Node:
        each: Node = nodes.Variable(self._span(start), nodes.SPLAT)
        while self._at < len(self._text) and not (attributes_only and self._text[self._at] == "["):
            if not (step := self._step(each, start)):
                break
            each = step
        return self._postfix(nodes.Splat(self._span(start), node, each), start)

    def _step(self, node: Node, start: int) -> Node | None:
        if self._text[self._at] == "[":
            self._at += 1
            outer, self._lines = self._lines, True
            key = self.expression()
            self._expect("]", "The index operator must end with a closing bracket.")
            self._lines = outer
            return nodes.Index(self._span(start), node, key)
        if self._text[self._at] == "." and not self._text.startswith("...", self._at):
            self._at += 1
            before = self._at
            if digits := re.compile(r"\d+").match(self._text, self._at):
                self._at = digits.end()
                return nodes.Index(self._span(start), node, nodes.Literal(self._span(before), int(digits.group())))
            if not (name := self._name()):
                raise self._fail("Invalid attribute name", "An attribute name is required after a dot.")
            return nodes.Index(self._span(start), node, nodes.Literal(self._span(before - 1), name))
        return None

    def primary(self) -> Node:
        """A literal, a name, a call, something in brackets."""
        self._blank()
        start = self._at
        char = self._text[start:start + 1]
        if char == '"':
            self._at += 1
            return self.template('"', raw=False)
        if found := _NUMBER.match(self._text, start):
            self._at = found.end()
            return nodes.Literal(self._span(start), number(Decimal(found.group())))
        if char in "([{" and char:
            self._at += 1
            outer, self._lines = self._lines, True
            made = {"(": self._group, "[": self._tuple, "{": self._object}[char](start)
            self._lines = outer
            made.span = self._span(start)
            return made
        if found := _HEREDOC.match(self._text, start):
            return self._heredoc(found)
        if name := self._name():
            return self._named(name, start)
        raise self._fail("Invalid expression", "Expected the start of an expression, but found an invalid expression "
                         "token.")

    def _named(self, name: str, start: int) -> Node:
        while self._text.startswith("::", self._at):
            self._at += 2
            name += "::" + self._name()
        if self._text.startswith("(", self._at):
            self._at += 1
            outer, self._lines = self._lines, True
            arguments, spread = [], False
            while not self._took(")"):
                arguments.append(self.expression())
                spread = self._took("...")
                if not self._took(","):
                    if not self._took(")"):
                        raise self._fail("Missing argument separator", "A comma is required to separate each function "
                                         "argument from the next.")
                    break
            self._lines = outer
            return nodes.Call(self._span(start), self._span(start, start + len(name)), name, arguments, spread=spread)
        if name in _WORDS:
            return nodes.Literal(self._span(start), _WORDS[name])
        return nodes.Variable(self._span(start), name)

    def _group(self, start: int) -> Node:
        del start
        found = self.expression()
        self._expect(")", "Expected a closing parenthesis to terminate the expression.")
        return found

    def _is_for(self) -> bool:
        at = self._at
        if self._name() == "for" and not self._looks("=") and not self._looks(",") and not self._looks("]"):
            return True
        self._at = at
        return False

    def _for(self, start: int, closing: str) -> Node:
        names = [self._name()]
        if self._took(","):
            names.append(self._name())
        if not all(names) or self._name() != "in":
            raise self._fail("Invalid 'for' expression", "For expression requires 'in' keyword after names.")
        many = self.expression()
        self._expect(":", "For expression requires a colon after the collection expression.")
        result, key = self.expression(), None
        if closing == "}":
            self._expect("=>", "For expression for an object requires a key and a value, separated by =>.")
            key, result = result, self.expression()
        group = self._took("...")
        at, condition = self._at, None
        if self._name() == "if":
            condition = self.expression()
        else:
            self._at = at
        self._expect(closing, "Extra characters after the end of the 'for' expression.")
        return nodes.For(self._span(start), names, many, key=key, result=result, condition=condition, group=group)

    def _tuple(self, start: int) -> Node:
        if self._is_for():
            return self._for(start, "]")
        items = []
        while not self._took("]"):
            items.append(self.expression())
            if not self._took(","):
                if not self._took("]"):
                    raise self._fail("Missing item separator", "Expected a comma to mark the beginning of the next "
                                     "item.")
                break
        return nodes.Tuple(self._span(start), items)

    def _object(self, start: int) -> Node:
        if self._is_for():
            return self._for(start, "}")
        items = []
        while not self._took("}"):
            self._blank()
            before = self._at
            name = self._name()
            key: Node
            if name and ((self._looks("=") and not self._looks("==")) or self._looks(":")):
                key = nodes.Literal(self._span(before), name)
            else:
                self._at = before
                key = self.expression()
            if not self._took("="):
                self._expect(":", "Expected an equals sign (\"=\") to mark the beginning of the attribute value.")
            self._lines = False
            items.append((key, self._value_in_lines()))
            self._lines = True
            self._took(",")
        return nodes.Object(self._span(start), items)

    def _value_in_lines(self) -> Node:
        """A value of an object: it ends with its line."""
        found = self.expression()
        self._blank()
        if self._at < len(self._text) and self._text[self._at] not in ",}\n":
            raise self._fail("Missing attribute separator", 'Expected a newline or comma to mark the beginning of '
                             "the next attribute.")
        return found

    # --- templates

    def _heredoc(self, found: re.Match[str]) -> Node:
        start = self._at
        end = re.compile(rf"^[ \t]*{re.escape(found[2])}[ \t]*\r?$", re.MULTILINE).search(self._text, found.end())
        if end is None:
            raise self._fail("Unterminated template string", "No closing marker was found for the string.")
        text = self._text[found.end():end.start()]
        if found[1]:
            text = _flush(text)
        self._at = end.end() - (1 if end.group().endswith("\r") else 0)
        span = self._span(start)
        return _Parser(text, self._file, within=span).template("", raw=True)

    def template(self, closing: str, *, raw: bool) -> Node:
        """Text up to ``closing``; ``raw`` has no backslashes."""
        start = self._at
        parts, stop = self._parts(closing, raw=raw, stops=())
        del stop
        span = self._span(max(start - len(closing), 0))
        if not parts:
            return nodes.Literal(span, "")
        if len(parts) == 1 and isinstance(parts[0], nodes.Literal):
            parts[0].span = span
            return parts[0]
        return nodes.Template(span, parts)

    def _parts(self, closing: str, *, raw: bool, stops: tuple[str, ...]) -> tuple[list[Node], str]:
        """Pieces of a template up to its end or to one of the directives ``stops``, whose name is returned."""
        parts: list[Node] = []
        text: list[str] = []
        start = self._at

        def flush() -> None:
            if "".join(text):
                parts.append(nodes.Literal(self._span(start), "".join(text)))
            text.clear()

        while True:
            if self._at >= len(self._text):
                if closing or stops:
                    raise self._fail("Unterminated template string", "No closing marker was found for the string.")
                flush()
                return parts, ""
            if closing and self._text.startswith(closing, self._at):
                if stops:
                    raise self._fail("Unexpected end of template", "The directive is not closed.")
                self._at += len(closing)
                flush()
                return parts, ""
            head = self._text[self._at:self._at + 2]
            if head not in ("${", "%{"):
                piece = self._piece(raw=raw)
                self._trim = self._trim and piece.isspace()
                text.append("" if self._trim else piece)
                if raw and piece == "\n":
                    self._trim = False  # a line of a here-document is a token of its own
                continue
            self._trim = False
            self._at += 2
            if self._text.startswith("~", self._at):
                self._at += 1
                text[:] = ["".join(text).rstrip(" \t" if raw else None)]
            flush()
            outer, self._lines = self._lines, True
            if head == "${":
                parts.append(self.expression())
                self._close()
                self._lines = outer
            else:
                word = self._name()
                if word in stops:
                    self._close()
                    self._lines = outer
                    return parts, word
                parts.append(self._directive(word, closing, raw=raw))
                self._lines = outer
            start = self._at

    def _close(self) -> None:
        """The end of ``${…}``; a tilde wants the blanks after it gone."""
        self._trim = self._took("~")
        self._expect("}", "Expected a closing brace to end the interpolation expression, but found extra characters.")

    def _piece(self, *, raw: bool) -> str:
        """A character, or what stands for one."""
        char = self._text[self._at]
        if self._text.startswith(("$${", "%%{"), self._at):
            self._at += 3
            return char + "{"
        self._at += 1
        if raw or char not in "\\\n":
            return char
        if char == "\n":
            self._at -= 1
            raise self._fail("Invalid multi-line string", "Quoted strings may not be split over multiple lines. To "
                             "produce a multi-line string, either use the \\n escape to represent a newline character "
                             'or use the "heredoc" multi-line template syntax.')
        letter = self._text[self._at:self._at + 1]
        self._at += 1
        if letter in ("u", "U"):
            size = 4 if letter == "u" else 8
            digits = self._text[self._at:self._at + size]
            self._at += size
            if len(digits) == size and re.fullmatch("[0-9a-fA-F]+", digits) and int(digits, 16) < 0x110000:
                return chr(int(digits, 16))
        if letter not in _ESCAPES:
            raise self._fail("Invalid escape sequence", f"The symbol \"{letter}\" is not a valid escape sequence "
                             "selector.")
        return _ESCAPES[letter]

    def _directive(self, word: str, closing: str, *, raw: bool) -> Node:
        start = self._at
        if word == "if":
            condition = self.expression()
            self._close()
            yes, stop = self._parts(closing, raw=raw, stops=("else", "endif"))
            no: list[Node] = []
            if stop == "else":
                no, _ = self._parts(closing, raw=raw, stops=("endif",))
            span = self._span(start)
            empty: Node = nodes.Literal(span, "")
            return nodes.Conditional(span, condition, nodes.Template(span, [*yes, empty]),
                                     nodes.Template(span, [*no, empty]))
        if word != "for":
            raise self._fail("Invalid template directive", f'"{word}" is not a valid template control keyword.')
        names = [self._name()]
        if self._took(","):
            names.append(self._name())
        if self._name() != "in":
            raise self._fail("Invalid 'for' directive", "The 'for' directive requires the keyword 'in'.")
        many = self.expression()
        self._close()
        body, _ = self._parts(closing, raw=raw, stops=("endfor",))
        span = self._span(start)
        return nodes.TemplateFor(span, names, many, nodes.Template(span, [*body, nodes.Literal(span, "")]))


def _flush(text: str) -> str:
    """Take the indentation of a ``<<-``. Lines that a ``~}`` has joined to the one before keep theirs."""
    rows = text.split("\n")
    starts = [at for at, row in enumerate(rows) if not at or not rows[at - 1].rstrip().endswith("~}")]
    depth = min((len(rows[at]) - len(rows[at].lstrip(" \t")) for at in starts if rows[at].strip()), default=0)
    for at in starts:
        rows[at] = rows[at][depth:]
    return "\n".join(rows)


class _Nothing:
    """The scope of labels: no names."""

    def variable(self, name: str, span: Span) -> object:
        """See ``nodes.Scope``."""
        raise HclError("Variables not allowed", f'Variables may not be used here: "{name}".', span)

    def call(self, name: str, arguments: list[object], span: Span, spans: object = ()) -> object:
        """See ``nodes.Scope``."""
        del arguments, spans
        raise HclError("Function calls not allowed", f'Functions may not be called here: "{name}".', span)

    def member(self, name: str, steps: object, span: Span) -> None:
        """See ``nodes.Scope``."""
        del name, steps, span
