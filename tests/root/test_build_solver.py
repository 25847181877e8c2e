"""The solver with real layers, workers and steps: what runs, what is cached, what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.errors import BuildError
from tests.root.buildlab import BuildLab, build_lab, context, copy, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[BuildLab]:
    """A daemon with busybox; nothing of a step may be left at the end."""
    async with build_lab(tmp_path) as started:
        yield started
        started.daemon.snapshotter.drain()
        assert started.leftovers() == []


async def test_steps_make_layers(lab: BuildLab, tmp_path: Path) -> None:
    """Each RUN and COPY is one layer; output is told; a second build runs nothing."""
    tree = tmp_path / "context"
    tree.mkdir()
    (tree / "a").write_text("one")
    lab.client.root = str(tree)

    def graph_of() -> object:
        made = run(lab.image(), "echo hello; echo oops >&2; mkdir /made; echo x > /made/file")
        return run(copy(made, context(), "a", dest="/made/"), "cat /made/a /made/file > /both")

    target = graph_of()
    (solved,) = await lab.solve(target)  # type: ignore[arg-type]
    assert lab.told.output() == b"hello\n"
    assert lab.told.output(2) == b"oops\n"
    assert len(solved.layers) == len(lab.base.diff_ids) + 3
    assert lab.read(solved.layers, "both") == b"onex\n"
    assert lab.told.cached() == ["FROM busybox"]
    assert sorted(lab.view(solved.layers[-1:])) == ["both"]
    (again,) = await lab.solve(graph_of())  # type: ignore[arg-type]
    assert again.layers == solved.layers
    assert lab.told.ran() == ["[internal] load build context"]
    (tree / "a").write_text("two")
    (other,) = await lab.solve(graph_of())  # type: ignore[arg-type]
    assert other.layers[:-2] == solved.layers[:-2]
    assert lab.read(other.layers, "both") == b"twox\n"


async def test_failure(lab: BuildLab) -> None:
    """A command that fails ends the build with BuildKit's words, and nothing of it is left."""
    with pytest.raises(BuildError, match='process "/bin/sh -c exit 7" did not complete successfully: exit code: 7') as e:
        await lab.solve(run(lab.image(), "exit 7"))
    assert e.value.exit_code == 7
    assert e.value.classic == "The command '/bin/sh -c exit 7' returned a non-zero code: 7"
