"""What bake files say: variables, functions, groups and targets, evaluated.

Owns   the blocks of bake files in HCL and JSON; the meaning of names in them.
Spec   buildx docs/bake-reference.md.
"""

from __future__ import annotations

import inspect
import itertools
import re

from pallet.cli.bake import fields
from pallet.cli.bake.hcl.errors import HclError, Span
from pallet.cli.bake.hcl.functions import FUNCTIONS
from pallet.cli.bake.hcl.nodes import Inner
from pallet.cli.bake.hcl.types import typed, written
from pallet.cli.bake.hcl.values import as_bool, as_number, as_string, from_plain, is_number, plain
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.hcl.nodes import Scope
    from pallet.cli.bake.hcl.syntax import Block, Body

_TARGET_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_BUSY = object()


class Variable:
    """A variable as it is listed."""

    def __init__(self, name: str, value: Any, kind: str, description: str) -> None:
        self.name = name
        self.value = value
        self.type = kind
        self.description = description


class Group:
    """Targets under one name."""

    def __init__(self, targets: list[str], description: str = "") -> None:
        self.targets = targets
        self.description = description


class Definition:
    """All that the files say, before anything is inherited or overridden."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.targets: dict[str, dict[str, Any]] = {}
        self.variables: list[Variable] = []

    def add(self, name: str, target: dict[str, Any]) -> None:
        """A target, or more of it."""
        known = self.targets.get(name)
        self.targets[name] = target if known is None else fields.merged(known, target)


def evaluate(bodies: Sequence[Body], environment: Mapping[str, str], into: Definition) -> None:
    """Evaluate files, one after another as one.

    Args:
        environment: what overrides variables.

    Raises:
        HclError: something in them has no meaning.
    """
    names = Names(bodies, environment)
    names.check()
    for body in bodies:
        for block in body.blocks:
            if block.type == "group" and block.labels:
                into.groups[block.labels[0]] = _group(block, names)
    for body in bodies:
        for block in body.blocks:
            if block.type == "target" and block.labels:
                _targets(block, names, into)
    into.variables += names.listed()


def _group(block: Block, names: Names) -> Group:
    found = fields.from_attributes(block.body.attributes, names, fields.GROUP)
    _check_name(block.labels[0], block)
    return Group(found.get("targets", []), found.get("description", ""))


def _targets(block: Block, names: Names, into: Definition) -> None:
    attributes = block.body.attributes
    label = block.labels[0]
    if "matrix" not in attributes:
        if "name" in attributes:
            raise HclError("Invalid name", "name requires matrix", block.label_span)
        _check_name(label, block)
        into.add(label, fields.from_attributes(attributes, names, fields.TARGET))
        return
    made = []
    for combination in _combinations(block, names):
        scope = Inner(names, combination)
        name = as_string(attributes["name"].node.value(scope)) if "name" in attributes else label
        _check_name(name, block)
        if name in made:
            raise HclError("Duplicate name", f'the matrix gives the name "{name}" twice', block.span)
        made.append(name)
        into.add(name, fields.from_attributes(attributes, scope, fields.TARGET))
    if label not in made:
        into.groups[label] = Group(made)


def _combinations(block: Block, scope: Scope) -> Iterable[dict[str, Any]]:
    node = block.body.attributes["matrix"].node
    found = node.value(scope)
    if not isinstance(found, dict) or not all(isinstance(values, list) for values in found.values()):
        raise node.fail("Invalid matrix", "matrix must be a map of lists")
    for values in itertools.product(*found.values()):
        yield dict(zip(found, values, strict=True))


def _check_name(name: str, block: Block) -> None:
    if not _TARGET_NAME.fullmatch(name):
        raise HclError("Invalid name", 'only "[a-zA-Z0-9_-]+" are allowed', block.label_span)


class Names:
    """The outermost scope: variables, global attributes, functions, other blocks."""

    def __init__(self, bodies: Sequence[Body], environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._variables: dict[str, Block] = {}
        self._globals: dict[str, Any] = {}
        self._functions: dict[str, Block] = {}
        self._blocks: dict[tuple[str, str], list[Block]] = {}
        self._known: dict[str, Any] = {"BAKE_CMD_CONTEXT": environment.get("BAKE_CMD_CONTEXT", "cwd://"),
                                       "BAKE_LOCAL_PLATFORM": fields.local_platform()}
        self._calls = 0
        for body in bodies:
            self._globals |= body.attributes
            for block in body.blocks:
                if not block.labels:
                    continue
                if block.type == "variable":
                    self._variables[block.labels[0]] = block
                elif block.type == "function":
                    self._functions[block.labels[0]] = block
                else:
                    self._blocks.setdefault((block.type, block.labels[0]), []).append(block)

    def check(self) -> None:
        """Evaluate all variables and what is said of their values."""
        for name, attribute in self._globals.items():
            self.variable(name, attribute.span)
        for name, block in self._variables.items():
            self.variable(name, block.span)
            for rule in block.body.blocks:
                if rule.type == "validation" and "condition" in rule.body.attributes:
                    self._validate(rule)

    def _validate(self, rule: Block) -> None:
        node = rule.body.attributes["condition"].node
        if as_bool(node.value(self)):
            return
        message = rule.body.attributes.get("error_message")
        text = as_string(message.node.value(self)) if message else "This check failed, but no message was given."
        raise HclError("Validation failed", text, node.span)

    def listed(self) -> list[Variable]:
        """The variables by name."""
        found = []
        for name, block in sorted(self._variables.items()):
            attributes = block.body.attributes
            description = attributes["description"].node.value(self) if "description" in attributes else ""
            kind = _spoken(written(attributes["type"].node.span)) if "type" in attributes else ""
            found.append(Variable(name, self.variable(name, block.span), kind, description))
        return found

    # Scope

    def variable(self, name: str, span: Span) -> Any:
        """A variable's value; evaluated when it is first wanted."""
        if name not in self._known:
            if name not in self._variables and name not in self._globals:
                raise HclError("Unknown variable", f'There is no variable named "{name}".', span)
            self._known[name] = _BUSY
            self._known[name] = self._evaluated(name, span)
        if self._known[name] is _BUSY:
            raise HclError("Invalid expression", f"variable cycle not allowed for {name}", span)
        return self._known[name]

    def _evaluated(self, name: str, span: Span) -> Any:
        block = self._variables.get(name)
        if block is None:
            default = self._globals[name].node.value(self)
            kind = ""
        else:
            given = block.body.attributes.get("default")
            default = given.node.value(self) if given is not None else ""
            kind = written(block.body.attributes["type"].node.span) if "type" in block.body.attributes else ""
            if given is None and kind:
                default = None
        try:
            if (text := self._environment.get(f"{name}_JSON")) is not None and kind:
                return typed(_decoded(text), kind)
            if (text := self._environment.get(name)) is not None:
                return _overridden(text, default, kind)
            return typed(default, kind)
        except ValueError as error:
            raise HclError("Invalid value", f"failed to parse {name} as {kind or fields.kind_of(default)}: {error}",
                           span if block is None else block.brace) from None

    def member(self, name: str, steps: Sequence[str], span: Span) -> tuple[Any, int] | None:
        """``target.NAME.ATTRIBUTE``."""
        if name not in ("target", "group") or name in self._variables or name in self._globals or len(steps) < 2:
            return None
        for block in reversed(self._blocks.get((name, steps[0]), [])):
            attribute = block.body.attributes.get(steps[1])
            if attribute is not None:
                key = f"{name} {steps[0]} {steps[1]}"
                if self._known.get(key) is _BUSY:
                    raise HclError("Invalid expression", f"variable cycle not allowed for {name}.{steps[0]}", span)
                self._known[key] = _BUSY
                try:
                    return attribute.node.value(self), 2
                finally:
                    del self._known[key]
        if (name, steps[0]) in self._blocks:
            raise HclError("Unsupported attribute", f'This object does not have an attribute named "{steps[1]}".',
                           span)
        raise HclError("Unknown variable", f'There is no variable named "{name}".', span)

    def call(self, name: str, arguments: list[Any], span: Span, spans: Sequence[Span] = ()) -> Any:
        """A function of the files' or a known one."""
        block = self._functions.get(name)
        if block is not None:
            return self._own(name, block, arguments, span)
        function = FUNCTIONS.get(name)
        if function is None:
            raise HclError("Call to unknown function", f'There is no function named "{name}".', span)
        least, most = _counts(function)
        if len(arguments) < least:
            raise HclError("Not enough function arguments", f'Function "{name}" expects {least} argument(s).', span)
        if 0 <= most < len(arguments):
            raise HclError("Too many function arguments", f'Function "{name}" expects only {most} argument(s).',
                           spans[most] if most < len(spans) else span)
        try:
            return function(*arguments)
        except (ValueError, TypeError, ArithmeticError, OverflowError) as error:
            opened = Span(span.file, span.source, span.start, (span.end[0], span.end[1] + 1))  # with the bracket
            raise HclError("Error in function call", f'Call to function "{name}" failed: {error}.', opened) from None

    def _own(self, name: str, block: Block, arguments: list[Any], span: Span) -> Any:
        attributes = block.body.attributes
        params = fields.names_of(attributes.get("params"))
        rest = fields.names_of(attributes.get("variadic_params"))
        if "result" not in attributes:
            raise HclError("Missing required argument", 'The argument "result" is required, but no definition was '
                           "found.", block.span)
        if len(arguments) < len(params) or (len(arguments) > len(params) and not rest):
            raise HclError("Error in function call", f'Function "{name}" expects {len(params)} argument(s).', span)
        given = dict(zip(params, arguments, strict=False))
        if rest:
            given[rest[0]] = arguments[len(params):]
        self._calls += 1
        if self._calls > 100:
            raise HclError("Invalid expression", f"function cycle not allowed for {name}", span)
        try:
            return attributes["result"].node.value(Inner(self, given))
        finally:
            self._calls -= 1


def _counts(function: Any) -> tuple[int, int]:
    """Least and most arguments; -1 is any number."""
    parameters = inspect.signature(function).parameters.values()
    least = sum(1 for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD)
    return least, -1 if any(one.kind is one.VAR_POSITIONAL for one in parameters) else len(parameters)


def _spoken(kind: str) -> str:
    """``list of string`` of ``list(string)``."""
    outer, _, inner = kind.replace(" ", "").partition("(")
    if outer in ("list", "set", "map") and inner:
        return f"{outer} of {_spoken(inner[:-1])}"
    return {"any": "dynamic"}.get(outer, outer)


def _decoded(text: str) -> Any:
    from pallet.client import wire

    try:
        return from_plain(wire.decode(text))
    except ValueError as error:
        raise ValueError(f"invalid JSON: {error}") from None


def _overridden(text: str, default: Any, kind: str) -> Any:
    """What a variable of the environment means for one of the files."""
    kind = kind or fields.kind_of(default)
    if kind == "bool":
        if text not in ("true", "false", "1", "0", "t", "f", "T", "F", "TRUE", "FALSE", "True", "False"):
            raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
        return text in ("true", "1", "t", "T", "TRUE", "True")
    if kind == "number":
        try:
            return as_number(text)
        except ValueError:
            raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None
    if kind.startswith(("list", "set", "tuple")):
        from pallet.cli.build.request import csv

        return typed(csv(text) if text else [], kind)
    if kind.startswith(("map", "object")):
        from pallet.cli.build.request import csv

        parts = [part.partition(":") for part in csv(text)] if text else []
        if wrong := [name for name, colon, _ in parts if not colon]:
            raise ValueError(f"expected one k/v pair but got 1 pieces from {wrong[0]}")
        pairs = {name: value for name, _, value in parts}
        return typed(pairs, kind)
    return text


def shown(value: Any) -> str | None:
    """A value as ``--list=variables`` shows it; None for null."""
    if value is None:
        return None
    if isinstance(value, str) or is_number(value) or isinstance(value, bool):
        return as_string(value)
    from pallet.client import wire

    return wire.encode_text(plain(value))


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Names that a pattern of ``--set`` or of the command line means."""
    from fnmatch import fnmatchcase

    return [name for name in names if fnmatchcase(name, pattern)]


def unknown_target(name: str) -> CommandError:
    """A target that is not there."""
    return CommandError(f"failed to find target {name}")
