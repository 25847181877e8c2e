"""Dockerfiles in the manner of well-known projects: all are planned, the broken ones say where they are broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from pallet.build.graph import CopyAction, FileOp, GitSource, HttpSource, LocalSource, RunOp
from pallet.spec.image import RunConfig
from tests.support import dockerfiles as df

CORPUS = Path(__file__).resolve().parents[3] / "corpus/dockerfiles"
GOOD = sorted(path.name for path in CORPUS.glob("*.Dockerfile"))
BROKEN = {
    "broken-flag.bad": ("dockerfile parse error on line 2: unknown flag: --mnt (did you mean mount?)", (2, 2)),
    "broken-healthcheck.bad": ('dockerfile parse error on line 2: time: invalid duration "never"', (2, 2)),
    "broken-heredoc.bad": ("unterminated heredoc", (2, 5)),
    "broken-json.bad": ("when using JSON array syntax, arrays must be comprised of strings only", (2, 2)),
    "broken-mount.bad": ('invalid mount target "/"', (2, 2)),
    "broken-order.bad": ("no build stage in current context", (1, 1)),
    "broken-quotes.bad": ('failed to process "\\"one b=two": unexpected end of statement while looking for matching double-quote', (2, 2)),
    "broken-stage.bad": ("circular dependency detected on stage: a", (4, 4)),
}


def text(name: str) -> str:
    return (CORPUS / name).read_bytes().decode()


@pytest.mark.parametrize("name", GOOD)
def test_is_planned(name: str) -> None:
    plan = df.planned(text(name), platforms=(df.AMD64, df.ARM64))
    assert [str(target.platform) for target in plan.targets] == ["linux/amd64", "linux/arm64"]
    for target in plan.targets:
        assert target.steps
        for vertex in df.vertices(target):
            lines = text(name).count("\n") + 1
            assert vertex.span is None or 1 <= vertex.span.start <= vertex.span.end <= lines
            if isinstance(vertex.op, FileOp):
                for action in vertex.op.actions:
                    assert not isinstance(action, CopyAction) or action.input < len(vertex.inputs)


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("*.bad")))
def test_says_where_it_is_broken(name: str) -> None:
    message, lines = BROKEN[name]
    error = df.failure(text(name))
    assert (str(error), error.lines) == (message, lines)
    assert f"   {lines[0]} | >>> " in error.snippet()


def test_cross_compiling_shares_what_runs_on_the_builder() -> None:
    plan = df.planned(text("go-service.Dockerfile"), platforms=(df.AMD64, df.ARM64))
    downloads = {vertex.op for target in plan.targets for vertex in df.vertices(target)
                 if isinstance(vertex.op, RunOp) and "mod download" in vertex.op.args[-1]}
    assert len(downloads) == 1
    compiles = [vertex for target in plan.targets for vertex in df.vertices(target)
                if isinstance(vertex.op, RunOp) and "go build" in vertex.op.args[-1]]
    assert [next(item for item in vertex.op.env if item.startswith("TARGETARCH")) for vertex in compiles] == ["TARGETARCH=amd64", "TARGETARCH=arm64"]
    assert not any("go test" in vertex.name for vertex in df.vertices(plan))
    assert compiles[1].name.startswith(f"[{df.HOST}->arm64 build ")


def test_only_needed_stages_are_planned() -> None:
    names = df.names(text("bakery.Dockerfile"), target="lint", build_args={"VARIANT": "debug"})
    assert [name for name in names if "RUN" in name] == ["[base 1/1] RUN echo \"debug slow\"", "[lint 1/1] RUN echo lint"]


def test_triggers_run_in_the_child() -> None:
    parent = df.config(text("onbuild.Dockerfile"))
    images = df.FakeImages({"parent": RunConfig(on_build=parent.on_build, working_dir="/usr/src/app", env=[df.PATH])})
    assert df.history("FROM parent\n", images=images, build_args={"ENVIRONMENT": "test"}) == [
        "ARG ENVIRONMENT=test", "ENV NODE_ENV=test", "COPY package.json ./ # buildkit",
        'RUN |1 ENVIRONMENT=test /bin/sh -c install "$NODE_ENV" # buildkit', "COPY . . # buildkit",
        "HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"0s\" \"0s\" \"0s\" \"0s\" '\\x00'}"]


def test_environment_of_nested_arguments() -> None:
    found = df.environment(text("args-everywhere.Dockerfile"))
    assert found == {"OUT": "unset"}
    assert df.environment(text("args-everywhere.Dockerfile"), build_args={"TAG": "latest"}) == {"OUT": "latest"}


def test_sources_of_many_kinds() -> None:
    source = text("system-tools.Dockerfile")
    assert [found.filename for found in df.ops(source, HttpSource)] == ["tool-1.2.tar.gz", "__unnamed__"]
    git = df.ops(source, GitSource)[0]
    assert (git.ref, git.subdirectory, git.keep_git_dir) == ("refs/heads/main", "x", True)
    assert df.ops(source, LocalSource)[0].follow == ()
