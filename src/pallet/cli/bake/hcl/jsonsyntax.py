"""Bake files in JSON: the same blocks, with texts that are templates.

Spec   hcl/json/spec.md.
"""

from __future__ import annotations

from pallet.cli.bake.hcl import nodes
from pallet.cli.bake.hcl.errors import HclError, Span
from pallet.cli.bake.hcl.syntax import Attribute, Block, Body, template
from pallet.cli.bake.hcl.values import from_plain
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.bake.hcl.nodes import Node

_LABELLED = ("variable", "function", "group", "target")
_NAMES = ("params", "variadic_params")


def parse(text: str, file: str) -> Body:
    """Read a whole file.

    Raises:
        CommandError: it is no JSON or no definition.
    """
    from pallet.client import wire

    span = Span(file, text, (1, 1), (1, 1))
    try:
        found = wire.decode(text)
    except ValueError as error:
        raise CommandError(f"failed to parse {file}: parsing json: {error}") from None
    if not isinstance(found, dict):
        raise HclError("Invalid JSON", "a JSON object is required", span)
    made = Body()
    for kind, blocks in found.items():
        if kind not in _LABELLED:
            made.attributes[kind] = Attribute(kind, _node(blocks, span), span)
            continue
        for several in blocks if isinstance(blocks, list) else [blocks]:
            if not isinstance(several, dict):
                raise HclError("Incorrect JSON value type", f"a JSON object is required for {kind}", span)
            for label, bodies in several.items():
                made.blocks += [Block(kind, [label], _body(body, span), span)
                                for body in (bodies if isinstance(bodies, list) else [bodies])]
    return made


def _body(found: Any, span: Span) -> Body:
    made = Body()
    if not isinstance(found, dict):
        raise HclError("Incorrect JSON value type", "a JSON object is required", span)
    for name, value in found.items():
        if name == "validation":
            made.blocks += [Block(name, [], _body(one, span), span)
                            for one in (value if isinstance(value, list) else [value])]
        elif name in _NAMES:
            items: list[Node] = [nodes.Literal(span, item) for item in value]
            made.attributes[name] = Attribute(name, nodes.Tuple(span, items), span)
        else:
            made.attributes[name] = Attribute(name, _node(value, span), span)
    return made


def _node(value: Any, span: Span) -> Node:
    if isinstance(value, str):
        return template(value, span)
    if isinstance(value, list):
        return nodes.Tuple(span, [_node(item, span) for item in value])
    if isinstance(value, dict):
        return nodes.Object(span, [(template(key, span), _node(item, span)) for key, item in value.items()])
    return nodes.Literal(span, from_plain(value))
