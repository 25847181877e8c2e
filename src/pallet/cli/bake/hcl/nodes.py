"""Expressions of HCL and what they come to.

Owns   the nodes that ``syntax`` makes; ``Node.value(scope)``.
Spec   hcl/hclsyntax/spec.md, "Expressions" and "Templates". Numbers are ``int`` or ``Decimal``.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from decimal import Decimal

from pallet.cli.bake.hcl import types
from pallet.cli.bake.hcl.errors import HclError, Span
from pallet.cli.bake.hcl.values import as_bool, as_number, as_string, equal, number, unified

_CONVERTED = 2
"""Arguments of ``convert``."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Protocol

    class Scope(Protocol):
        """What names mean."""

        def variable(self, name: str, span: Span) -> Any:
            """The value of a variable.

            Raises:
                HclError: there is none.
            """

        def call(self, name: str, arguments: list[Any], span: Span, spans: Sequence[Span] = ()) -> Any:
            """Call a function, whose arguments are at ``spans``; raises as ``variable``."""

        def member(self, name: str, steps: Sequence[str], span: Span) -> tuple[Any, int] | None:
            """What ``name.step.…`` means as a reference to a block, and the number of steps that took."""


@dataclass(slots=True, eq=False)
class Node:
    """An expression."""

    span: Span

    def value(self, scope: Scope) -> Any:
        """What it comes to.

        Raises:
            HclError: a name is unknown, a type does not fit.
        """
        raise NotImplementedError

    def first_span(self) -> Span:
        """Where HCL says that it starts: a text without its quotes."""
        return self.span

    def fail(self, summary: str, detail: str) -> HclError:
        """An error here."""
        return HclError(summary, detail, self.span)


@dataclass(slots=True, eq=False)
class Literal(Node):
    """A number, a truth, null, a piece of text."""

    literal: Any

    def value(self, scope: Scope) -> Any:
        del scope
        return self.literal

    def first_span(self) -> Span:
        (line, first), (last_line, last) = self.span.start, self.span.end
        if not isinstance(self.literal, str) or line != last_line or last - first < 2:
            return self.span
        return Span(self.span.file, self.span.source, (line, first + 1), (line, last - 1))


@dataclass(slots=True, eq=False)
class Variable(Node):
    """A name."""

    name: str

    def value(self, scope: Scope) -> Any:
        return scope.variable(self.name, self.span)


@dataclass(slots=True, eq=False)
class Call(Node):
    """``name(argument, …)``; with ``spread`` the last argument is a list of arguments."""

    name_span: Span
    name: str
    arguments: list[Node]
    _: KW_ONLY
    spread: bool

    def value(self, scope: Scope) -> Any:
        if self.name in ("try", "can"):
            return self._attempt(scope)
        if self.name == "convert" and len(self.arguments) == _CONVERTED:
            return self._converted(scope)
        found = [argument.value(scope) for argument in self.arguments]
        if self.spread:
            last = found.pop()
            if not isinstance(last, list):
                raise self.fail("Invalid expanding argument value",
                                "The expanding argument (indicated by ...) must be of a tuple, list, or set type.")
            found += last
        spans = [argument.first_span() for argument in self.arguments]
        return scope.call(self.name, found, self.name_span, spans)

    def _converted(self, scope: Scope) -> Any:
        """``convert``, whose second argument is a type."""
        value, kind = self.arguments
        text = types.written(kind.span)
        if problem := types.problem_of(text):
            raise kind.fail("Invalid type specification", problem)
        try:
            return types.typed(value.value(scope), text)
        except ValueError as error:
            raise HclError("Invalid function argument", f'Invalid value for "value" parameter: {error}.',
                           value.first_span()) from None

    def _attempt(self, scope: Scope) -> Any:
        """``try`` and ``can``, which take what fails."""
        for argument in self.arguments:
            try:
                found = argument.value(scope)
            except HclError:
                continue
            return found if self.name == "try" else True
        if self.name == "can":
            return False
        raise self.fail("Error in function call", 'Call to function "try" failed: no expression succeeded.')


@dataclass(slots=True, eq=False)
class Tuple(Node):
    """``[a, b]``."""

    items: list[Node]

    def first_span(self) -> Span:
        line, column = self.span.start
        return Span(self.span.file, self.span.source, self.span.start, (line, column + 1))

    def value(self, scope: Scope) -> Any:
        return [item.value(scope) for item in self.items]


@dataclass(slots=True, eq=False)
class Object(Node):
    """``{a = b}``; a key that is a bare name is that name."""

    items: list[tuple[Node, Node]]

    def first_span(self) -> Span:
        line, column = self.span.start
        return Span(self.span.file, self.span.source, self.span.start, (line, column + 1))

    def value(self, scope: Scope) -> Any:
        found: dict[str, Any] = {}
        for key, node in self.items:
            name = key.value(scope)
            if name is None or isinstance(name, (list, dict)):
                raise key.fail("Incorrect key type", "Can't use this value as a key: string required.")
            found[as_string(name)] = node.value(scope)
        return found


@dataclass(slots=True, eq=False)
class For(Node):
    """``[for k, v in many : value if condition]`` and its form with braces, which has a key."""

    names: list[str]
    many: Node
    _: KW_ONLY
    key: Node | None
    result: Node
    condition: Node | None
    group: bool

    def value(self, scope: Scope) -> Any:
        listed: list[Any] = []
        keyed: dict[str, Any] = {}
        for inner in iterated(self.many, self.names, scope):
            if self.condition is not None and not as_bool(self.condition.value(inner)):
                continue
            found = self.result.value(inner)
            if self.key is None:
                listed.append(found)
                continue
            key = as_string(self.key.value(inner))
            if self.group:
                keyed.setdefault(key, []).append(found)
            elif key in keyed:
                raise self.fail("Duplicate object key", f'Two different items produced the key "{key}" in this '
                                "'for' expression. If duplicates are expected, use the ellipsis (...) after the "
                                "value expression to enable grouping by key.")
            else:
                keyed[key] = found
        return listed if self.key is None else dict(sorted(keyed.items()))


@dataclass(slots=True, eq=False)
class Conditional(Node):
    """``a ? b : c``; both sides become one type."""

    condition: Node
    yes: Node
    no: Node

    def value(self, scope: Scope) -> Any:
        try:
            chosen = as_bool(self.condition.value(scope))
        except ValueError as error:
            raise self.condition.fail("Incorrect condition type", f"The condition expression must be of type bool. "
                                      f"{error}") from None
        sides = unified([self.yes.value(scope), self.no.value(scope)])
        return sides[0] if chosen else sides[1]


@dataclass(slots=True, eq=False)
class Unary(Node):
    """``-a``, ``!a``."""

    operator: str
    operand: Node

    def value(self, scope: Scope) -> Any:
        found = self.operand.value(scope)
        try:
            return not as_bool(found) if self.operator == "!" else number(-as_number(found))
        except ValueError as error:
            raise self.operand.fail("Invalid operand", f"Unsuitable value for unary operand: {error}.") from None


@dataclass(slots=True, eq=False)
class Binary(Node):
    """An operator between two."""

    operator: str
    left: Node
    right: Node

    def value(self, scope: Scope) -> Any:
        left = self.left.value(scope)
        if self.operator in ("&&", "||"):
            first = self._truth(self.left, left, "left")
            second = self._truth(self.right, self.right.value(scope), "right")
            return first and second if self.operator == "&&" else first or second
        right = self.right.value(scope)
        if self.operator in ("==", "!="):
            return equal(left, right) == (self.operator == "==")
        return self._reckon(self._number(self.left, left, "left"), self._number(self.right, right, "right"))

    def _reckon(self, left: int | Decimal, right: int | Decimal) -> Any:
        operator = self.operator
        if operator in "<=>=":
            return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
        if operator in "/%" and not right:
            raise self.fail("Division by zero", "Cannot divide by zero.")
        one, other = Decimal(left), Decimal(right)
        return number({"+": lambda: one + other, "-": lambda: one - other, "*": lambda: one * other,
                       "/": lambda: one / other, "%": lambda: one % other}[operator]())

    @staticmethod
    def _number(node: Node, found: Any, side: str) -> int | Decimal:
        try:
            return as_number(found)
        except ValueError as error:
            raise node.fail("Invalid operand", f"Unsuitable value for {side} operand: {error}.") from None

    @staticmethod
    def _truth(node: Node, found: Any, side: str) -> bool:
        try:
            return as_bool(found)
        except ValueError as error:
            raise node.fail("Invalid operand", f"Unsuitable value for {side} operand: {error}.") from None


@dataclass(slots=True, eq=False)
class Index(Node):
    """``a.b``, ``a[b]``."""

    whole: Node
    key: Node

    def value(self, scope: Scope) -> Any:
        names = list(self._names())
        if names and (found := scope.member(names[0], names[1:], self.span)) is not None:
            value, taken = found
            for name in names[taken + 1:]:
                value = self._step(value, name)
            return value
        return self._step(self.whole.value(scope), self.key.value(scope))

    def _names(self) -> Iterator[str]:
        """The names of ``a.b.c``; nothing if it is anything else."""
        names: list[str] = []
        node: Node = self
        while isinstance(node, Index):
            if not isinstance(node.key, Literal) or not isinstance(node.key.literal, str):
                return
            names.append(node.key.literal)
            node = node.whole
        if isinstance(node, Variable):
            yield node.name
            yield from reversed(names)

    def _step(self, whole: Any, key: Any) -> Any:
        if whole is None:
            raise self.fail("Attempt to get attribute from null value",
                            "This value is null, so it does not have any attributes.")
        if isinstance(whole, dict):
            name = as_string(key)
            if name not in whole:
                raise self.key.fail("Unsupported attribute", f'This object does not have an attribute named "{name}".')
            return whole[name]
        if not isinstance(whole, list):
            raise self.fail("Unsupported attribute", "This value does not have any attributes.")
        try:
            at = as_number(key)
            return whole[int(at)] if at >= 0 and at == int(at) else whole[len(whole)]
        except (ValueError, IndexError):
            raise self.fail("Invalid index", "The given key does not identify an element in this collection "
                            "value.") from None


@dataclass(slots=True, eq=False)
class Splat(Node):
    """``a[*].b``: what ``each`` makes of every item, which is the variable `` item``."""

    whole: Node
    each: Node

    def value(self, scope: Scope) -> Any:
        whole = self.whole.value(scope)
        items = [] if whole is None else whole if isinstance(whole, list) else [whole]
        return [self.each.value(Inner(scope, {SPLAT: item})) for item in items]


SPLAT = " item"


@dataclass(slots=True, eq=False)
class Template(Node):
    """Text with interpolations. One that is nothing but an interpolation keeps its type."""

    parts: list[Node]

    def value(self, scope: Scope) -> Any:
        if len(self.parts) == 1 and not isinstance(self.parts[0], (Literal, TemplateFor)):
            return self.parts[0].value(scope)
        texts = []
        for part in self.parts:
            found = part.value(scope)
            if found is None:
                raise part.fail("Invalid template interpolation value",
                                "The expression result is null. Cannot include a null value in a string template.")
            if isinstance(found, (list, dict)):
                raise part.fail("Invalid template interpolation value",
                                "Cannot include the given value in a string template: string required, but have "
                                + ("tuple" if isinstance(found, list) else "object") + ".")
            texts.append(as_string(found))
        return "".join(texts)


@dataclass(slots=True, eq=False)
class TemplateFor(Node):
    """``%{for x in y}…%{endfor}``."""

    names: list[str]
    many: Node
    body: Node

    def value(self, scope: Scope) -> Any:
        return "".join(as_string(self.body.value(inner)) for inner in iterated(self.many, self.names, scope))


@dataclass(slots=True, eq=False)
class Inner:
    """A scope with some more names."""

    _outer: Scope
    _names: dict[str, Any]

    def variable(self, name: str, span: Span) -> Any:
        """See ``Scope``."""
        return self._names[name] if name in self._names else self._outer.variable(name, span)

    def call(self, name: str, arguments: list[Any], span: Span, spans: Sequence[Span] = ()) -> Any:
        """See ``Scope``."""
        return self._outer.call(name, arguments, span, spans)

    def member(self, name: str, steps: Sequence[str], span: Span) -> tuple[Any, int] | None:
        """See ``Scope``."""
        return None if name in self._names else self._outer.member(name, steps, span)


def iterated(many: Node, names: list[str], scope: Scope) -> Iterator[Inner]:
    """One scope for each item of a collection."""
    found = many.value(scope)
    if isinstance(found, list):
        pairs: list[tuple[Any, Any]] = list(enumerate(found))
    elif isinstance(found, dict):
        pairs = sorted(found.items())
    else:
        raise many.fail("Iteration over non-iterable value", "A value of this type cannot be used as the collection "
                        "in a 'for' expression.")
    for pair in pairs:
        yield Inner(scope, {names[0]: pair[1]} if len(names) == 1 else dict(zip(names, pair, strict=True)))
