"""What a front end returns, as targets of a plan: file systems with the configs that it made for them.

Runs   anywhere; pure.
Spec   BuildKit's exporter keys: ``containerimage.config[/ID]``, ``refs.platforms``.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Final

import msgspec

from pallet.build.graph import FileOp, HistoryStep, RunOp, Target
from pallet.build.inputs import as_base
from pallet.errors import DataLossError, InvalidParameterError
from pallet.spec import image as spec
from pallet.spec.platform import Platform, host, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pallet.build.graph import Vertex

CONFIG: Final = "containerimage.config"
PLATFORMS: Final = "refs.platforms"
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMENT: Final = "buildkit.exporter.image.v0"


def platforms_of(metadata: Mapping[str, bytes]) -> dict[str, Platform]:
    """Platforms of a result by the ids of its references.

    Raises:
        InvalidParameterError: they cannot be read.
    """
    raw = metadata.get(PLATFORMS)
    if not raw:
        return {}
    try:
        return {one["ID"]: Platform(os=one["Platform"].get("os", ""),
                                    architecture=one["Platform"].get("architecture", ""),
                                    variant=one["Platform"].get("variant", ""),
                                    os_version=one["Platform"].get("os.version", ""))
                for one in json.loads(raw).get("Platforms") or ()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"failed to parse platforms passed to exporter: {error}"
        raise InvalidParameterError(message) from error


def platforms_document(platforms: Sequence[Platform]) -> bytes:
    """The same the other way round; ids are the platforms' texts."""
    return json.dumps({"Platforms": [
        {"ID": str(one), "Platform": {"architecture": one.architecture, "os": one.os,
                                      **({"variant": one.variant} if one.variant else {})}}
        for one in platforms]}).encode()


def config_of(metadata: Mapping[str, bytes], key: str) -> bytes | None:
    """Config of one reference: its own, or the one that there is."""
    return metadata.get(f"{CONFIG}/{key}") or metadata.get(CONFIG)


def target(vertex: Vertex, config: bytes | None, platform: Platform | None, planned: Target | None = None) -> Target:
    """Make a target.

    Args:
        config: as the front end has it; None is an empty one for the platform.
        platform: None takes the config's.
        planned: what the built-in front end had planned, if the vertex is of that.

    Raises:
        InvalidParameterError: the config cannot be read.
    """
    if config is None:
        if planned is not None:
            return planned
        return _plain(vertex, platform or host())
    try:
        document = spec.decode_config(config)
    except DataLossError as error:
        message = f"failed to parse image config: {error}"
        raise InvalidParameterError(message) from error
    if not document.os:
        asked = platform or host()
        document = msgspec.structs.replace(document, os=asked.os, architecture=asked.architecture,
                                           variant=asked.variant)
    platform = platform or document.platform
    bare = msgspec.structs.replace(document, rootfs=spec.RootFS(), history=None, created=None)
    if planned is not None and len(document.history or ()) == _length(planned):
        return dataclasses.replace(planned, config=bare)
    return Target(platform=platform, vertex=vertex, config=bare, steps=(), base_config=document,
                  made=_steps(_made(vertex)))


def planned_config(planned: Target) -> bytes:
    """The config of what the built-in front end planned, as front ends see it: with the whole history."""
    return spec.encode(as_base(planned))


def _length(planned: Target) -> int:
    below = planned.base_config.history if planned.base_config is not None else None
    return len(below or ()) + len(planned.steps)


def _plain(vertex: Vertex, platform: Platform) -> Target:
    config = spec.ImageConfigFile(
        architecture=platform.architecture, os=platform.os, variant=platform.variant,
        config=spec.RunConfig(env=[_PATH], working_dir="/"))
    return Target(platform=platform, vertex=vertex, config=config, steps=_steps(_made(vertex)))


def _made(vertex: Vertex) -> list[Vertex]:
    """What made the topmost layers, one on top of the other."""
    found: list[Vertex] = []
    while True:
        op = vertex.op
        base: int | None = 0
        if isinstance(op, RunOp):
            base = 0 if op.output is None else op.mounts[op.output].input
        elif isinstance(op, FileOp):
            base = 0 if op.has_base else None
        else:
            return found[::-1]
        found.append(vertex)
        if base is None:
            return found[::-1]
        vertex = vertex.inputs[base]


def _steps(made: Sequence[Vertex]) -> tuple[HistoryStep, ...]:
    return tuple(HistoryStep(created_by=_text(one), comment=_COMMENT, vertex=one) for one in made)


def _text(vertex: Vertex) -> str:
    """What BuildKit writes of a layer that nobody has a line for."""
    op = vertex.op
    if not isinstance(op, RunOp):
        return vertex.name
    return f"mount {'/' if op.output is None else op.mounts[op.output].target} from exec {' '.join(op.args)}"


def in_order(keys: Iterable[str], known: Mapping[str, Platform]) -> list[str]:
    """Ids of references in the order that their front end gave them: maps on the wire have none."""
    order = {key: number for number, key in enumerate(known)}
    return sorted(keys, key=lambda key: (order.get(key, len(order)), key))


def platform_of(key: str, known: Mapping[str, Platform]) -> Platform | None:
    """Platform of a reference by its id; None where nothing says."""
    if key in known:
        return known[key]
    if key:
        return parse(key)
    return next(iter(known.values()), None)
