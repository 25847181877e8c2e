"""Targets as command lines of ``pallet build``, names with their target, Compose's interpolation, newer functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pallet.cli.bake.board import Shared, TargetView, prefixed
from pallet.cli.bake.building import option_line
from pallet.cli.bake.hcl.functions import FUNCTIONS
from pallet.cli.bake.interpolation import interpolate
from pallet.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_target_as_options() -> None:
    line = option_line({
        "context": "sub", "dockerfile": "D", "args": {"A": "1"}, "tags": ["t"], "pull": True, "no-cache": False,
        "output": [{"type": "local", "dest": "a,b"}], "ssh": [{"id": "k", "paths": ["/s"]}], "network": "host",
        "attest": [{"type": "provenance", "disabled": True}], "contexts": {"c": "cwd://x", "d": "target:y"},
        "extra-hosts": {"h": "1,2"}})
    assert line == [
        "--build-arg=A=1", "--add-host=h=1", "--add-host=h=2", "--build-context=c=x", "--build-context=d=target:y",
        "--tag=t", '--output=type=local,"dest=a,b"', "--attest=type=provenance,disabled=true", "--ssh=k=/s",
        "--network=host", "--pull", "--allow=network.host", "--file=sub/D", "--", "sub"]


@pytest.mark.parametrize(("context", "dockerfile", "file"), [
    (".", "Dockerfile", "./Dockerfile"), ("a", "/x/D", "/x/D"), ("a", "cwd://D", "D"), ("cwd://", "D", "./D"),
    ("https://example.org/x.git", "D", "D")])
def test_dockerfiles_are_looked_for_in_the_context(context: str, dockerfile: str, file: str) -> None:
    assert f"--file={file}" in option_line({"context": context, "dockerfile": dockerfile})


def test_names_have_their_target() -> None:
    assert prefixed("[1/2] RUN a", "web") == "[web 1/2] RUN a"
    assert prefixed("exporting to image", "web") == "[web] exporting to image"
    assert prefixed("[1/2] RUN a", "") == "[1/2] RUN a"


class _Seen:
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        self.found += found

    def tick(self) -> float | None:
        return None

    def finish(self) -> None:
        """Nothing."""


def test_a_step_of_two_builds_is_told_once() -> None:
    seen = _Seen()
    shared = Shared(seen)
    one, other = (TargetView(shared, name, prefix=True) for name in ("one", "other"))
    one.events([{"vertex": {"digest": "d", "name": "[1/1] RUN a", "started": 1}}])
    other.events([{"vertex": {"digest": "d", "name": "[1/1] RUN a", "started": 1}},
                  {"log": {"vertex": "d", "stream": 1, "data": "", "timestamp": 2}}])
    one.events([{"log": {"vertex": "d", "stream": 1, "data": "", "timestamp": 2}}])
    assert [event["vertex"]["name"] for event in seen.found if "vertex" in event] == ["[one 1/1] RUN a"] * 2
    assert sum("log" in event for event in seen.found) == 1
    shared.cancelled = True
    with pytest.raises(CommandError):
        one.tick()


@pytest.mark.parametrize(("text", "found"), [
    ("$A-${A}", "1-1"), ("$$A", "$A"), ("${NO-d}${EMPTY-d}${EMPTY:-d}", "dd"), ("${A:+x}${NO+y}", "x"),
    ("${NO:-${A}}", "1"), ("${A?no}", "1"), ("${NO}", "")])
def test_interpolation(text: str, found: str) -> None:
    assert interpolate(text, {"A": "1", "EMPTY": ""}) == found


@pytest.mark.parametrize("text", ["${", "${1}", "${A!x}", "$-", "${NO:?why}"])
def test_interpolation_that_cannot_be(text: str) -> None:
    with pytest.raises(CommandError):
        interpolate(text, {"A": "1"})


@pytest.mark.parametrize(("version", "constraint", "found"), [
    ("1.2.3", ">= 1.0.0, < 2", True), ("1.2.3", "~1.2", True), ("1.3.0", "~1.2", False), ("2.0.0", "^1.2", False),
    ("0.2.5", "^0.2.3", True), ("0.3.0", "^0.2.3", False), ("1.0.0-rc1", "< 1.0.0", True), ("3", "=1 || =3", True)])
def test_semantic_versions(version: str, constraint: str, *, found: bool) -> None:
    assert FUNCTIONS["semvercmp"](version, constraint) is found


def test_unix_time() -> None:
    found = FUNCTIONS["unixtimestampparse"](1690328596)
    assert (found["rfc3339"], found["year_day"], found["weekday_name"], found["iso_week"]) == (
        "2023-07-25T23:43:16Z", 206, "Tuesday", 30)
