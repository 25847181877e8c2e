"""cli/build: outputs that break off leave nothing half written."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pallet.cli.build.outputs import target_of
from pallet.cli.build.talk import BuildFailedError, Conversation, Sources
from pallet.cli.errors import CommandError
from pallet.client import wire
from pallet.spec.own import buildwire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ASKED = buildwire.frame(buildwire.QUESTION, wire.encode({"id": 1, "ask": "output", "name": "0"}))
PIECE = buildwire.frame(buildwire.OUTPUT, (1).to_bytes(4, "big") + b"half")
EVENTS = buildwire.frame(buildwire.EVENTS, wire.encode([]))
END = buildwire.frame(buildwire.OUTPUT, (1).to_bytes(4, "big"))
FAILED = buildwire.frame(buildwire.ERROR, wire.encode({"message": "no"}))


def talk(frames: bytes, kind: str, dest: Path, on_events: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """A build whose daemon says ``frames`` and goes away."""
    sources = Sources()
    sources.outputs["0"] = target_of(kind, str(dest))
    ours, theirs = socket.socketpair()
    transport = SimpleNamespace(fileno=ours.fileno, recv=ours.recv, sendall=ours.sendall, pending=lambda: False)
    view = SimpleNamespace(events=lambda _events: on_events(), tick=lambda: None)
    with ours, theirs:
        theirs.sendall(frames)
        theirs.shutdown(socket.SHUT_WR)
        return Conversation(cast("Any", SimpleNamespace(transport=transport, buffer=b"")), sources,
                            cast("Any", view)).run()


@pytest.mark.parametrize("kind", ["tar", "local"])
@pytest.mark.parametrize(("frames", "error"), [(FAILED, BuildFailedError), (b"", CommandError)], ids=["failed", "gone"])
def test_an_output_that_breaks_off_leaves_no_file(
    tmp_path: Path, kind: str, frames: bytes, error: type[Exception],
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        talk(ASKED + PIECE + frames, kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_output_whose_name_is_taken_leaves_no_file(tmp_path: Path) -> None:
    """The directory appears while the build runs."""
    with pytest.raises(BuildFailedError):
        talk(ASKED + PIECE + EVENTS + END + FAILED, "tar", tmp_path / "out", (tmp_path / "out").mkdir)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_whole_output_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError):
        talk(ASKED + PIECE + END + FAILED, "tar", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"half"
