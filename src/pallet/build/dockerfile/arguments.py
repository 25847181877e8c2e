"""Build arguments: the automatic platform ones, the proxies, and the global scope.

Owns   what has a value before the first FROM.
Runs   on the loop; pure.
Spec   Dockerfile reference "ARG", "Predefined ARGs", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.gotext import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.spec.dockerfile.instructions import Arg
    from pallet.spec.platform import Platform

PROXIES = tuple(name for word in ("HTTP", "HTTPS", "FTP", "NO", "ALL")
                for name in (f"{word}_PROXY", f"{word.lower()}_proxy"))
BUILTIN = frozenset({
    "BUILDKIT_BUILD_NAME", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK", "BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_SYNTAX", "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE", "SOURCE_DATE_EPOCH"})
"""Build arguments that mean something to the builder itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgFact:
    """What is known of one argument, for lint and outline."""

    name: str
    value: str | None
    description: str = ""
    lines: tuple[int, int] | None = None
    depends: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class GlobalScope:
    """Arguments before the first FROM."""

    values: dict[str, str]
    """Automatic, overridden and declared ones together."""
    automatic: frozenset[str]
    declared: dict[str, ArgFact] = field(default_factory=dict)


def automatic_arguments(build: Platform, target: Platform, target_stage: str) -> dict[str, str]:
    """``TARGETPLATFORM`` and its like."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values |= {f"{prefix}PLATFORM": str(platform), f"{prefix}OS": platform.os,
                   f"{prefix}OSVERSION": platform.os_version, f"{prefix}ARCH": platform.architecture,
                   f"{prefix}VARIANT": platform.variant}
    values["TARGETSTAGE"] = target_stage or "default"
    return values


def global_scope(build_args: Mapping[str, str], declared: Sequence[Arg], automatic: Mapping[str, str],
                 budget: expand.Budget, escape: str) -> GlobalScope:
    """Evaluate the ARGs before the first FROM.

    Raises:
        DockerfileError: a default cannot be expanded.
    """
    values = {name: build_args.get(name, value) for name, value in automatic.items()}
    scope = GlobalScope(values=values, automatic=frozenset(automatic))
    style = expand.Style(escape=escape)
    for instruction in declared:
        for argument in instruction.arguments:
            value = build_args.get(argument.name)
            used: frozenset[str] = frozenset()
            if value is None and argument.default is not None:
                try:
                    result = expand.expand(argument.default, values, style, budget)
                except DockerfileError as error:
                    message = f"failed to process {quote(argument.default)}: {error}"
                    raise DockerfileError(message, instruction.lines) from error
                value, used = result.text, frozenset(result.used)
            if value is not None:
                values[argument.name] = value
            scope.declared[argument.name] = ArgFact(
                name=argument.name, value=value, description=argument.comment,
                lines=instruction.lines, depends=used)
    return scope


def proxy_environment(build_args: Mapping[str, str]) -> tuple[str, ...]:
    """Proxies that the client gave, each in both spellings: set for commands, no part of what they are."""
    found: dict[str, str] = {}
    for name in PROXIES:
        if name in build_args:
            found[name.upper()] = found[name.lower()] = build_args[name]
    return tuple(f"{name}={value}" for name, value in found.items())
