"""Go's text/template to a tree. Control structures: if, else if, with, range, variables, comments.

Spec   Go text/template "Actions", "Pipelines", "Variables". ``define``, ``template`` and ``block`` are
       refused: no docker format uses them.

Nodes are tuples, first element the kind:
``("text", s)``, ``("pipe", names, declares, commands)`` as an action,
``("if"|"with"|"range", names, pipe, body, otherwise)``, ``("break",)``, ``("continue",)``.
A command is a list of operands; operands are ``("field", path, offset)``, ``("variable", name, path,
offset)``, ``("value", v, offset)``, ``("call", name, offset)`` and ``("paren", pipe, path, offset)``.
"""

from __future__ import annotations

from pallet.cli.format.lexer import parse_error, split, tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from pallet.cli.format.lexer import Token

    Node = tuple[Any, ...]

_KEYWORDS = frozenset((
    "if", "else", "end", "range", "with", "break", "continue", "define", "template", "block"))


class Parser:
    """Parses one template."""

    def __init__(self, text: str, functions: Container[str]) -> None:
        """``functions`` are the known function names; others are an error, as in Go."""
        self._text = text
        self._functions = functions
        self._parts = split(text)
        self._at = 0
        self._tokens: list[Token] = []
        self._next = 0

    def parse(self) -> list[Node]:
        """Return the top-level nodes.

        Raises:
            TemplateError: with Go's words.
        """
        nodes, stop = self._nodes()
        if stop:
            raise parse_error(self._text, self._offset(), f"unexpected {{{{{stop}}}}}")
        return nodes

    def _offset(self) -> int:
        return self._parts[min(self._at, len(self._parts)) - 1][2] if self._parts else 0

    def _nodes(self) -> tuple[list[Node], str]:
        nodes: list[Node] = []
        while self._at < len(self._parts):
            kind, body, offset = self._parts[self._at]
            self._at += 1
            if kind == "text":
                nodes.append(("text", body))
                continue
            if body.strip().startswith("/*") and body.strip().endswith("*/"):
                continue
            self._tokens = tokens(self._text, body, offset)
            self._next = 0
            word = self._keyword()
            if word in ("else", "end"):
                return nodes, word
            if word in ("if", "with", "range"):
                nodes.append(self._control(word))
            elif word in ("break", "continue"):
                nodes.append((word,))
            elif word:
                raise parse_error(self._text, offset, f"unsupported action {word}")
            else:
                if self._peek()[0] == "end":
                    raise parse_error(self._text, offset, "missing value for command")
                nodes.append(self._pipeline("action"))
        return nodes, ""

    def _control(self, word: str) -> Node:
        pipe = self._pipeline(word)
        body, stop = self._nodes()
        otherwise: list[Node] = []
        if stop == "else":
            nested = self._keyword()
            if nested in ("if", "with"):
                return (word, pipe, body, [self._control(nested)])
            otherwise, stop = self._nodes()
        if stop != "end":
            raise parse_error(self._text, len(self._text), "unexpected EOF")
        return (word, pipe, body, otherwise)

    # -- tokens ---------------------------------------------------------------------------------

    def _peek(self, *, skip: bool = True) -> Token:
        while skip and self._next < len(self._tokens) and self._tokens[self._next][0] == "space":
            self._next += 1
        if self._next >= len(self._tokens):
            return ("end", "", len(self._text))
        return self._tokens[self._next]

    def _take(self, *, skip: bool = True) -> Token:
        token = self._peek(skip=skip)
        self._next += 1
        return token

    def _keyword(self) -> str:
        kind, value, _ = self._peek()
        if kind == "word" and value in _KEYWORDS:
            self._next += 1
            return value
        return ""

    def _pipeline(self, context: str) -> Node:
        names, declares = self._declaration()
        commands: list[list[Node]] = []
        while True:
            commands.append(self._command(context))
            kind, value, offset = self._take()
            if kind in ("end", ")"):
                break
            if kind != "|":
                raise parse_error(self._text, offset, f"unexpected {value!r} in {context}")
        if not commands[0]:
            raise parse_error(self._text, self._offset(), f"missing value for {context}"
                              if context != "action" else "missing value for command")
        return ("pipe", names, declares, commands)

    def _declaration(self) -> tuple[list[str], bool]:
        saved = self._next
        names: list[str] = []
        while True:
            kind, value, _ = self._take()
            if kind != "variable":
                break
            names.append(value)
            kind, value, _ = self._take()
            if kind in (":=", "="):
                return names, kind == ":="
            if kind != ",":
                break
        self._next = saved
        return [], False

    def _command(self, context: str) -> list[Node]:
        operands: list[Node] = []
        while True:
            kind, value, offset = self._peek()
            if kind in ("end", "|", ")"):
                return operands
            operands.append(self._operand(context, kind, value, offset))

    def _operand(self, context: str, kind: str, value: str, offset: int) -> Node:
        self._take()
        if kind == "field":
            return ("field", [value, *self._path()], offset)
        if kind == "dot":
            return ("field", [], offset)
        if kind == "variable":
            return ("variable", value, self._path(), offset)
        if kind == "string":
            return ("value", value, offset)
        if kind == "number":
            try:
                return ("value", float(value) if "." in value else int(value, 0), offset)
            except ValueError:
                raise parse_error(
                    self._text, offset, f'bad number syntax: "{value}"') from None
        if kind == "(":
            pipe = self._pipeline("parenthesized pipeline")
            return ("paren", pipe, self._path(), offset)
        if kind == "word":
            if value in ("true", "false", "nil"):
                return ("value", {"true": True, "false": False, "nil": None}[value], offset)
            if value not in self._functions:
                raise parse_error(self._text, offset, f'function "{value}" not defined')
            return ("call", value, offset)
        raise parse_error(self._text, offset, f'unexpected "{value}" in {context}')

    def _path(self) -> list[str]:
        path = []
        while self._peek(skip=False)[0] == "field":
            path.append(self._take(skip=False)[1])
        return path
