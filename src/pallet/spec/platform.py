"""Platforms: parsing, normalising, and which image a host can run.

Owns   ``os/arch/variant`` strings and the order of preference among an index's manifests. Pure.
Runs   anywhere.
Needs  ``os.uname`` for the host's own architecture.
Spec   image-spec image-index.md#image-index-property-descriptions; Go's GOOS and GOARCH names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MACHINE = {
    "x86_64": ("amd64", ""), "amd64": ("amd64", ""), "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""), "arm64": ("arm64", ""),
    "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""),
    "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"), "armv8l": ("arm", "v8"),
}
_ARCHITECTURES = frozenset({
    "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle",
    "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64",
    "s390", "s390x", "sparc", "sparc64", "wasm"})
_SYSTEMS = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux",
    "nacl", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows", "zos"})
_IMPLIED = frozenset({("arm64", "8"), ("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")})
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image was built for. Empty strings are "not said"."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] | None = msgspec.field(name="os.features", default=None)
    variant: str = ""

    def __str__(self) -> str:
        """``linux/arm/v7``: the form in Docker's messages."""
        parts = [self.os or "unknown", self.architecture, self.variant]
        return "/".join(part for part in parts if part)


def normalize(platform: Platform) -> Platform:
    """Use Go's names and leave out the variant that an architecture means by itself."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    if architecture in _MACHINE:
        architecture, implied = _MACHINE[architecture]
        variant = variant or implied
    if (architecture, variant) in _IMPLIED:
        variant = ""
    elif architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    system = platform.os.lower()
    return msgspec.structs.replace(
        platform, architecture=architecture, variant=variant,
        os="darwin" if system == "macos" else system)


def parse(text: str) -> Platform:
    """Parse ``os``, ``arch``, ``os/arch`` or ``os/arch/variant``; what is left out is the host's.

    Raises:
        InvalidParameterError: unknown or malformed parts, in Docker's words.
    """
    parts = text.split("/")
    if len(parts) > 3:
        message = f'"{text}": cannot parse platform specifier: invalid argument'
        raise InvalidParameterError(message)
    bad = next((part for part in parts if not part or not _WORD.issuperset(part)), None)
    if bad is not None:
        message = (f'"{bad}" is an invalid component of "{text}": platform specifier component '
                   'must match "^[A-Za-z0-9_.-]+$": invalid argument')
        raise InvalidParameterError(message)
    here = host()
    if len(parts) > 1:
        return normalize(Platform(os=parts[0], architecture=parts[1],
                                  variant=parts[2] if len(parts) == 3 else ""))
    word = parts[0].lower()
    if word in _SYSTEMS or word == "macos":
        return normalize(Platform(os=word, architecture=here.architecture, variant=here.variant))
    if word in _ARCHITECTURES or word in _MACHINE:
        return normalize(Platform(os=here.os, architecture=word))
    message = f'"{text}": unknown operating system or architecture: invalid argument'
    raise InvalidParameterError(message)


def host() -> Platform:
    """The platform this machine runs."""
    machine = os.uname().machine
    architecture, variant = _MACHINE.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant)


def _acceptable(wanted: Platform) -> list[tuple[str, str]]:
    """``(architecture, variant)`` pairs a CPU that runs ``wanted`` runs as well, best first."""
    wanted = normalize(wanted)
    architecture, variant = wanted.architecture, wanted.variant
    level = int(variant[1:]) if variant[:1] == "v" and variant[1:].isdigit() else 0
    if architecture == "arm" and level:
        return [("arm", f"v{n}") for n in range(level, 4, -1)] or [("arm", variant)]
    if architecture == "amd64" and level:
        return [("amd64", f"v{n}") for n in range(level, 1, -1)] + [("amd64", "")]
    if architecture == "amd64" and not variant:
        return [("amd64", ""), ("386", "")]
    if architecture == "arm64" and not variant:
        return [("arm64", ""), *(("arm", f"v{n}") for n in range(8, 4, -1))]
    return [(architecture, variant)]


def choose(wanted: Platform, offered: Sequence[Platform | None]) -> list[int]:
    """Indices of ``offered`` that ``wanted`` can run, best first; ties keep their order.

    An entry without a platform, or with ``unknown/unknown`` (attestations), never matches.
    """
    order = _acceptable(wanted)
    ranked: list[tuple[int, int]] = []
    for index, platform in enumerate(offered):
        if platform is None or (platform.os or "linux") != (wanted.os or "linux"):
            continue
        normal = normalize(platform)
        pair = (normal.architecture, normal.variant)
        if pair in order:
            ranked.append((order.index(pair), index))
    ranked.sort()
    return [index for _, index in ranked]


def matches(wanted: Platform, actual: Platform) -> bool:
    """Whether an image for ``actual`` serves a request for ``wanted``."""
    return bool(choose(wanted, [actual]))


def describe(platforms: Iterable[Platform]) -> str:
    """Comma list for messages."""
    return ", ".join(str(platform) for platform in platforms)
