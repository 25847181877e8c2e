"""Executes Go templates on JSON values and on formatter rows.

Spec   Go text/template; a missing map key is an error, as docker sets ``missingkey=error``.
"""

from __future__ import annotations

from pallet.cli.format.lexer import TemplateError
from pallet.cli.format.parser import Parser
from pallet.cli.format.values import FUNCTIONS, Printed, show, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]


class _LoopSignal(Exception):  # noqa: N818 - control flow, not an error
    """``break`` or ``continue``."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        """Parse ``text``.

        Raises:
            TemplateError: with Go's words.
        """
        self._text = text
        self._nodes = Parser(text, FUNCTIONS).parse()

    def execute(self, data: Any) -> str:
        """Return the template's output for ``data``.

        Raises:
            TemplateError: a field does not exist or a function refuses its arguments.
        """
        out: list[str] = []
        self._run(self._nodes, data, {"$": data}, out)
        return "".join(out)

    def _run(self, nodes: list[Node], dot: Any, scope: dict[str, Any], out: list[str]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "pipe":
                value = self._pipe(node, dot, scope)
                if not node[1]:
                    out.append(show(value))
            elif kind == "range":
                self._range(node, dot, dict(scope), out)
            elif kind in ("break", "continue"):
                raise _LoopSignal(kind)
            else:
                inner = dict(scope)
                value = self._pipe(node[1], dot, inner)
                if truth(value):
                    self._run(node[2], value if kind == "with" else dot, inner, out)
                else:
                    self._run(node[3], dot, inner, out)

    def _range(self, node: Node, dot: Any, scope: dict[str, Any], out: list[str]) -> None:
        _, pipe, body, otherwise = node
        names = pipe[1]
        value = self._pipe(("pipe", [], False, pipe[3]), dot, scope)
        if isinstance(value, dict):
            pairs: list[tuple[Any, Any]] = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(at, at) for at in range(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif value is None:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {show(value)}")
        for key, item in pairs:
            if len(names) == 1:
                scope[names[0]] = item
            elif len(names) == 2:
                scope[names[0]], scope[names[1]] = key, item
            try:
                self._run(body, item, scope, out)
            except _LoopSignal as signal:
                if signal.word == "break":
                    break
        if not pairs:
            self._run(otherwise, dot, scope, out)

    def _pipe(self, pipe: Node, dot: Any, scope: dict[str, Any]) -> Any:
        _, names, _, commands = pipe
        value: Any = None
        for at, command in enumerate(commands):
            final = (value,) if at else ()
            value = self._command(command, dot, scope, final)
        for name in names:
            scope[name] = value
        return value

    def _command(
        self, operands: list[Node], dot: Any, scope: dict[str, Any], final: tuple[Any, ...]
    ) -> Any:
        head, *rest = operands
        if head[0] == "call":
            args = [self._operand(operand, dot, scope) for operand in rest]
            return self._call(head, [*args, *final])
        if head[0] == "field" and (rest or final) and hasattr(dot, "method"):
            args = [self._operand(operand, dot, scope) for operand in rest]
            return dot.method(head[1][-1], [*args, *final])
        if rest or final:
            raise self._error(head, "can't give argument to non-function")
        return self._operand(head, dot, scope)

    def _call(self, head: Node, args: list[Any]) -> Any:
        try:
            return FUNCTIONS[head[1]](*args)
        except TemplateError as error:
            raise self._error(head, str(error)) from None
        except (TypeError, AttributeError, ValueError):
            raise self._error(
                head, f"wrong number or type of args for {head[1]}: got {len(args)}") from None

    def _operand(self, operand: Node, dot: Any, scope: dict[str, Any]) -> Any:
        kind = operand[0]
        if kind == "value":
            return operand[1]
        if kind == "field":
            return self._walk(dot, operand[1], operand)
        if kind == "variable":
            if operand[1] not in scope:
                raise TemplateError(f'template: :1: undefined variable "{operand[1]}"')
            return self._walk(scope[operand[1]], operand[2], operand)
        if kind == "paren":
            return self._walk(self._pipe(operand[1], dot, scope), operand[2], operand)
        return self._call(operand, [])

    def _walk(self, value: Any, path: list[str], node: Node) -> Any:
        for depth, name in enumerate(path):
            if hasattr(value, "method"):
                try:
                    value = value.method(name, [])
                except TemplateError as error:
                    raise self._error(node, str(error), depth) from None
            elif isinstance(value, dict):
                if name in value:
                    value = value[name]
                elif isinstance(value, Printed) and (key := _go_field(value, name)):
                    value = value[key]
                else:
                    raise self._error(node, f'map has no entry for key "{name}"', depth)
            elif value is None:
                raise self._error(
                    node, f"nil pointer evaluating interface {{}}.{name}", depth)
            else:
                raise self._error(
                    node, f"can't evaluate field {name} in type interface {{}}", depth)
        return value

    def _error(self, node: Node, words: str, depth: int = 0) -> TemplateError:
        """Return an error at ``node``; ``depth`` is the failing element of its path."""
        offset = node[-1]
        if depth and node[0] == "field":
            offset += len("." + ".".join(node[1][:depth]))
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1)
        shown = _source(node)
        return TemplateError(f'template: :{line}:{column}: executing "" at <{shown}>: {words}')


def _go_field(value: Printed, name: str) -> str:
    """Return the JSON key of the Go field ``name``: they differ by case (``ID`` is ``Id``)."""
    lower = name.lower()
    return next((key for key in value if key.lower() == lower), "")


def _source(node: Node) -> str:
    if node[0] == "field":
        return "." + ".".join(node[1])
    if node[0] == "variable":
        return ".".join([node[1], *node[2]])
    return str(node[1]) if node[0] != "paren" else "(...)"
