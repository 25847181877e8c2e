"""The platforms that programs of containers and build steps can be for, on this host as it is now.

Owns   the question to the worker ``host.platforms`` and what its answer means in platforms.
Runs   in the daemon.
Spec   BuildKit lists a processor's levels beside amd64, and arm as v7 and v6.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pallet.spec.platform import Platform, host
from pallet.zygote.platforms import Ask, Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import msgspec

Reply = TypeVar("Reply", bound="msgspec.Struct")

_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
"""Levels of amd64 by what the kernel calls their features; each has those before it (x86-64 psABI)."""


class Workers(Protocol):
    """The part of the supervisor that is used."""

    async def run_worker(self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
                         reply_type: type[Reply]) -> Reply: ...


def native() -> list[Platform]:
    """Those that this machine's processor is, the plain one first."""
    here = host()
    if here.architecture != "amd64":
        return [here]
    return [here, *(Platform(os="linux", architecture="amd64", variant=name) for name in levels(_features()))]


def levels(features: set[str]) -> list[str]:
    """Levels of amd64 that a processor with these features has."""
    found = []
    for name, needs in _LEVELS:
        if not needs <= features:
            break
        found.append(name)
    return found


def _features() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


async def runnable(workers: Workers) -> list[Platform]:
    """All that programs run for here, by emulators as well; the processor's first. Takes milliseconds."""
    found = native()
    answer = await workers.run_worker("host.platforms", Ask(), reply_type=Runs)
    for architecture in answer.architectures:
        if architecture != found[0].architecture:
            variants: Sequence[str] = ("v7", "v6") if architecture == "arm" else ("",)
            found += [Platform(os="linux", architecture=architecture, variant=variant) for variant in variants]
    return found


async def runs(platform: Platform, workers: Workers) -> bool:
    """Whether programs for one platform run here, as far as that can be told."""
    if platform.os != "linux":
        return False
    if platform.architecture == host().architecture:
        return True
    answer = await workers.run_worker("host.platforms", Ask(architectures=[platform.architecture]), reply_type=Runs)
    return platform.architecture in answer.architectures
