"""A plan becomes a part of another one."""

from __future__ import annotations

from pallet.build.graph import HistoryStep, LocalSource, MergeOp, Plan, ScratchOp, Target, Vertex
from pallet.build.inputs import as_base, foreign
from pallet.spec.image import History, ImageConfigFile
from pallet.spec.platform import Platform

PLATFORM = Platform(os="linux", architecture="amd64")


def plan() -> Plan:
    context = Vertex(op=LocalSource(name="context", exclude=("x",)), name="context")
    empty = Vertex(op=ScratchOp(), name="")
    top = empty
    for number in range(5000):  # deep, and everything on one context
        top = Vertex(op=MergeOp(), inputs=(top, context), name=str(number))
    config = ImageConfigFile(architecture="amd64", os="linux")
    base = ImageConfigFile(architecture="amd64", os="linux", history=[History(created_by="base")])
    steps = (HistoryStep(created_by="COPY a", vertex=top), HistoryStep(created_by="CMD x"))
    return Plan(targets=(Target(platform=PLATFORM, vertex=top, config=config, steps=steps, base_config=base),))


def test_local_sources_are_another_clients_and_the_rest_is_as_it_was() -> None:
    before, after = plan(), foreign(plan(), "input:base")
    vertex, old = after.targets[0].vertex, before.targets[0].vertex
    assert after.targets[0].steps[0].vertex is vertex
    seen = set()
    while vertex.inputs:
        assert vertex.name == old.name
        seen.add(vertex.inputs[1])
        vertex, old = vertex.inputs[0], old.inputs[0]
    [context] = seen
    assert context.op == LocalSource(name="input:base/context", exclude=("x",))


def test_a_target_as_a_base_has_the_history_it_will_have() -> None:
    history = as_base(plan().targets[0]).history
    assert history is not None
    assert [(entry.created_by, entry.empty_layer) for entry in history] == [
        ("base", False), ("COPY a", False), ("CMD x", True)]
