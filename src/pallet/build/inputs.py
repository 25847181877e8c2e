"""Results of other builds as contexts of one: bake's ``target:`` contexts.

Owns   how a plan becomes a part of another one. Pure.
Runs   anywhere.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from pallet.build.graph import LocalSource, Plan
from pallet.spec.image import History

if TYPE_CHECKING:
    from pallet.build.graph import Target, Vertex
    from pallet.spec.image import ImageConfigFile


def foreign(plan: Plan, owner: str) -> Plan:
    """The same plan with its local sources marked as another client's: ``OWNER/context``."""
    made: dict[Vertex, Vertex] = {}

    def copy(top: Vertex) -> Vertex:
        pending = [top]
        while pending:
            vertex = pending[-1]
            missing = [below for below in vertex.inputs if below not in made]
            if missing:
                pending += missing
                continue
            pending.pop()
            if vertex not in made:
                operation = vertex.op
                if isinstance(operation, LocalSource):
                    operation = dataclasses.replace(operation, name=f"{owner}/{operation.name}")
                made[vertex] = dataclasses.replace(
                    vertex, op=operation, inputs=tuple(made[below] for below in vertex.inputs))
        return made[top]

    targets = tuple(dataclasses.replace(
        target, vertex=copy(target.vertex),
        steps=tuple(step if step.vertex is None else dataclasses.replace(step, vertex=copy(step.vertex))
                    for step in target.steps)) for target in plan.targets)
    return dataclasses.replace(plan, targets=targets)


def as_base(target: Target) -> ImageConfigFile:
    """The config of a target as one that others build on: with the history that it is going to have."""
    before = list(target.base_config.history or ()) if target.base_config is not None else []
    own = [History(created_by=step.created_by, comment=step.comment, empty_layer=step.vertex is None)
           for step in target.steps]
    return msgspec.structs.replace(target.config, history=[*before, *own])
