"""What a scanner is shown besides the result: stages and the build context, where their arguments say so.

Runs   on the loop; pure.
Spec   ``BUILDKIT_SBOM_SCAN_STAGE`` and ``BUILDKIT_SBOM_SCAN_CONTEXT``: a truth or names of stages, in a stage, before
       the first one, or given with the build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.dockerfile.draft import Draft
    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.state import StageState

_STAGE, _CONTEXT = "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SBOM_SCAN_CONTEXT"
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})


def scanned(order: Sequence[StageState], target: StageState, scope: Scope) -> list[tuple[str, Draft]]:
    """Names and vertices of what a target is scanned with, in the order of the stages.

    Args:
        order: the stages that the target needs, carried out.
    """
    found: list[tuple[str, Draft]] = []
    stages = [state for state in order if state.index >= 0 and not state.replaced]
    if any(_wants(_CONTEXT, state, scope) for state in stages):
        found.append(("context", scope.context()))
        scope.paths.add("/")
    found += [(_name(state), state.root()) for state in stages if state is not target and _wants(_STAGE, state, scope)]
    return found


def _wants(argument: str, state: StageState, scope: Scope) -> bool:
    value = state.arguments.get(argument)
    if value is None:
        value = scope.globals.values.get(argument, scope.options.build_args.get(argument, ""))
    return value in _TRUE or _name(state) in value.split(",")


def _name(state: StageState) -> str:
    return state.name or f"stage-{state.index}"
