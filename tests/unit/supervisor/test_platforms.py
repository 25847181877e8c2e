"""Which platforms programs run for: tiny programs, and what the answers mean."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pallet.spec.platform import Platform, host
from pallet.supervisor import platforms
from pallet.zygote.platforms import PROGRAMS, Ask, Runs
from tests.support.probes import which

if TYPE_CHECKING:
    from pathlib import Path

_EMULATORS = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386", "mips64le": "mips64el", "loong64": "loongarch64"}
_V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3", "fpu"}
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}


@pytest.mark.needs("foreign")
@pytest.mark.parametrize("architecture", PROGRAMS)
def test_each_program_ends_with_0_on_its_processor(architecture: str, tmp_path: Path) -> None:
    emulator = which(f"qemu-{_EMULATORS.get(architecture, architecture)}-static")
    assert emulator
    program = tmp_path / "program"
    program.write_bytes(PROGRAMS[architecture].elf())
    program.chmod(0o755)
    done = subprocess.run([emulator, program], capture_output=True, check=False, cwd=os.fspath(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("features", "levels"), [
    (set(), []), (_V2 - {"cx16"}, []), (_V2, ["v2"]), (_V3, ["v2", "v3"]), (_V3 - {"ssse3"}, [])])
def test_levels(features: set[str], levels: list[str]) -> None:
    assert platforms.levels(features) == levels


class Workers:
    """The worker's answers without a worker."""

    def __init__(self, *architectures: str) -> None:
        self.architectures = list(architectures)

    async def run_worker(self, kind: str, request: Any, fds: Any = (), *, reply_type: Any) -> Any:
        assert (kind, reply_type) == ("host.platforms", Runs)
        assert isinstance(request, Ask)
        return Runs(architectures=[name for name in self.architectures
                                   if not request.architectures or name in request.architectures])


def test_what_an_answer_means() -> None:
    native = [str(one) for one in platforms.native()]
    here = host().architecture
    other = "arm64" if here != "arm64" else "amd64"
    found = asyncio.run(platforms.runnable(Workers(here, other, "arm")))
    assert [str(one) for one in found] == [*native, f"linux/{other}", "linux/arm/v7", "linux/arm/v6"]
    assert native[0] == str(host())


@pytest.mark.parametrize(("architecture", "runs"), [(host().architecture, True), ("riscv64", True), ("s390x", False),
                                                    ("pdp11", False)])
def test_one_platform(architecture: str, runs: bool) -> None:
    asked = Platform(os="linux", architecture=architecture)
    assert asyncio.run(platforms.runs(asked, Workers("riscv64"))) is runs


def test_another_system_never_runs() -> None:
    assert not asyncio.run(platforms.runs(Platform(os="windows", architecture=host().architecture), Workers()))
