"""A solved target to an image's config: root file system, history and times.

Owns   the composition of ``SolvedTarget``. Pure.
Runs   anywhere.
Spec   image-spec config.md; BuildKit's image exporter for times of steps without a layer.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from pallet.build.ports import SolvedTarget
from pallet.spec import image as spec
from pallet.spec.engine.wire import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.graph import HistoryStep, Target, Vertex
    from pallet.build.job import Solved
    from pallet.types import Digest

_COMMENT = "buildkit.exporter.image.v0"
_BUILDKIT = " # buildkit"


def solved_target(target: Target, results: Mapping[Vertex, Solved], *, epoch_s: int | None = None,
                  classic: bool = False, base_manifest: Digest | None = None) -> SolvedTarget:
    """Compose the image of a target.

    Args:
        results: of every vertex that was solved.
        epoch_s: SOURCE_DATE_EPOCH: no time is later.
        classic: history as the classic builder writes it.
    """
    solved = results[target.vertex]
    base = target.base_config
    base_history = list(base.history or ()) if base is not None else []
    layers = list(solved.layers)
    steps = [_entry(step, results, epoch_s) for step in target.steps]
    kept = not classic or not any(step.created_by.startswith(("CMD ", "ENTRYPOINT ")) for step in steps)
    if classic:
        steps = _classic(steps, target)
    if target.base_config is not None and target.made:
        base_history = _accounted(base_history, target.made, layers, results, epoch_s)
    covered = sum(1 for entry in [*base_history, *steps] if not entry.empty_layer)
    if covered < len(layers):
        # Layers that no step accounts for lie between the base's and the steps'.
        created = rfc3339_nano(_clamped(solved.created_ns, epoch_s)) if solved.created_ns else None
        base_history += [spec.History(created=created, comment=_COMMENT)] * (len(layers) - covered)
    history = _with_times([*base_history, *steps])
    created_at = history[-1].created if steps else base.created if base is not None else None
    if created_at is None and target.made:
        created_at = next((entry.created for entry in reversed(history) if entry.created), None)
    if created_at is None and epoch_s is not None:
        created_at = rfc3339_nano(epoch_s * 1_000_000_000)
    run = target.config.config
    if run is not None and not kept:
        run = msgspec.structs.replace(run, args_escaped=False)
    config = msgspec.structs.replace(
        target.config, config=run, created=created_at, rootfs=spec.RootFS(diff_ids=layers), history=history)
    return SolvedTarget(
        platform=target.platform, layers=tuple(layers), config=spec.encode(config), base_manifest=base_manifest,
        created_by=tuple(step.created_by for step in steps))


def _entry(step: HistoryStep, results: Mapping[Vertex, Solved], epoch_s: int | None) -> spec.History:
    """History of a step; without a time where it made no layer."""
    solved = results.get(step.vertex) if step.vertex is not None else None
    created: str | None = None
    if solved is not None and solved.created_ns:
        created = rfc3339_nano(_clamped(solved.created_ns, epoch_s))
    elif epoch_s is not None:
        created = rfc3339_nano(epoch_s * 1_000_000_000)
    return spec.History(created=created, created_by=step.created_by, comment=step.comment,
                        empty_layer=step.vertex is None)


def _accounted(history: Sequence[spec.History], made: Sequence[HistoryStep], layers: Sequence[str],
               results: Mapping[Vertex, Solved], epoch_s: int | None) -> list[spec.History]:
    """A history that others wrote, with the times of layers, and with lines for those that it lacks."""
    made = made[-len(layers):] if layers else ()
    makers: list[HistoryStep | None] = [None] * (len(layers) - len(made)) + list(made)
    found: list[spec.History] = []
    at = 0
    for entry in history:
        if not entry.empty_layer:
            if at == len(layers):
                entry = msgspec.structs.replace(entry, empty_layer=True)  # noqa: PLW2901
            elif (maker := makers[at]) is not None and entry.created is None:
                entry = msgspec.structs.replace(entry, created=_entry(maker, results, epoch_s).created)  # noqa: PLW2901
            at += not entry.empty_layer
        found.append(entry)
    return found + [spec.History(comment=_COMMENT) if maker is None else _entry(maker, results, epoch_s)
                    for maker in makers[at:]]


def _classic(steps: Sequence[spec.History], target: Target) -> list[spec.History]:
    """History as the classic builder writes it: commands bare, the rest behind ``#(nop)``."""
    base = target.base_config.config if target.base_config is not None else None
    shell = " ".join((base.shell if base is not None else None) or ("/bin/sh", "-c"))
    found, author = [], ""
    for step in steps:
        text = step.created_by.removesuffix(_BUILDKIT)
        name, _, rest = text.partition(" ")
        if name == "SHELL":
            shell = rest.strip("[]")
        if name == "MAINTAINER":
            author = rest
        if name == "RUN":
            text = rest
        elif name in {"COPY", "ADD"}:
            *sources, dest = rest.split(" ")
            key = hashlib.sha256(" ".join(sources).encode("utf-8", "surrogateescape")).hexdigest()
            text = f"{shell} #(nop) {name} {'multi' if len(sources) > 1 else 'file'}:{key} in {dest} "
        elif name == "WORKDIR":
            text = f"{shell} #(nop) {text}"
        else:
            text = f"{shell} #(nop)  {text}"
        found.append(msgspec.structs.replace(step, created_by=text, comment="", author=author))
    return found


def _with_times(history: Sequence[spec.History]) -> list[spec.History]:
    """Give entries without a time that of the layer before, the first ones that of the first new layer.

    So the same layers make the same image whenever it is built.
    """
    created: str | None = None
    lacking = False
    for entry in history:
        if entry.created is None:
            lacking = True
            continue
        created = entry.created
        if lacking:
            break
    found: list[spec.History] = []
    lacking = False
    for entry in history:
        if entry.created is None:
            lacking = True
            found.append(msgspec.structs.replace(entry, created=created))
            continue
        if lacking:
            created = entry.created
        found.append(entry)
    return found


def _clamped(time_ns: int, epoch_s: int | None) -> int:
    return time_ns if epoch_s is None else min(time_ns, epoch_s * 1_000_000_000)
