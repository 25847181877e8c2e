"""Plans of definitions that clients hand in: instead of a Dockerfile's.

Runs   on the event loop, in the builds that they are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.buildkit.llb import results
from pallet.api.buildkit.llb.definition import Translator
from pallet.build.graph import FrontEnd, Plan, ScratchOp, Vertex
from pallet.build.request import BuildRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.api.buildkit.wire import llb_pb2
    from pallet.build.graph import Target
    from pallet.build.ports import Planner, Planning


def of_definition(definition: llb_pb2.Definition) -> Planner:
    """What plans one definition, with no config but the platform's."""
    async def plan(planning: Planning) -> Plan:
        found = await Translator(planning).translate(definition)
        platform = next(iter(planning.request.options.platforms), None)
        return Plan(targets=(results.target(found.vertex, None, platform),), sources=dict(found.sources),
                    front_end=FrontEnd())

    return plan


def of_parts(parts: Mapping[str, llb_pb2.Definition | BuildRequest | None], metadata: Mapping[str, bytes]) -> Planner:
    """What plans a result that a client put together.

    Args:
        parts: by the ids of its references, what each stands for; None is no files at all.
        metadata: configs and platforms.
    """
    async def plan(planning: Planning) -> Plan:
        translator = Translator(planning)
        platforms = results.platforms_of(metadata)
        targets: list[Target] = []
        sources: dict[str, bytes] = {}
        for key in results.in_order(parts, platforms):
            part = parts[key]
            platform = results.platform_of(key, platforms)
            vertex, planned = Vertex(op=ScratchOp(), name=""), None
            if isinstance(part, BuildRequest):
                plan = await planning.dockerfile(part)
                planned = next((one for one in plan.targets if one.platform == platform), plan.targets[0])
                vertex = planned.vertex
                sources.update(plan.sources)
            elif part is not None:
                found = await translator.translate(part)
                vertex = found.vertex
                sources.update(found.sources)
            targets.append(results.target(vertex, results.config_of(metadata, key), platform, planned))
        return Plan(targets=tuple(targets), sources=sources, front_end=FrontEnd())

    return plan
