"""Dockerfiles that mean harm: refused early, or planned in time that grows with their length."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallet.errors import PalletError
from pallet.spec.dockerfile.expand import Budget, Style, expand
from pallet.spec.dockerfile.interpret import interpret
from pallet.spec.dockerfile.parser import parse
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import Iterator

B = "FROM busybox\n"
N = 3000

TOO_MUCH = {
    "doubling": B + "ENV A=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" + "ENV A=$A$A\n" * 40,
    "growing": B + "".join(f"ENV A{i}=x$A{i - 1}\n" for i in range(4000)),
    "environments": B + "".join(f"ENV A{i}=x\nRUN true\n" for i in range(1000)),
    "arguments": B + "".join(f"ARG A{i}=x\nRUN true\n" for i in range(1000)),
    "stages": "FROM busybox AS s0\n" + "".join(f"FROM s{i} AS s{i + 1}\nENV A{i}=1\n" for i in range(1000)),
    "ports": B + "EXPOSE" + " 1-65535" * 200 + "\n",
    "directories": B + "WORKDIR aaaaaaaaaaaaaaa\n" * 1200,
    "globs": B + f"ENV A={'a' * 8_000}\nENV B=${{A//a*b/}}\n",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_grows_without_bound_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # A sixteenth of the real bound, so that reaching it takes no time.
    monkeypatch.setattr("pallet.spec.dockerfile.expand.Budget", partial(Budget, left=4 << 20))
    assert "variables expand to too much text" in str(df.failure(TOO_MUCH[name]))


PLANNED = {
    "runs": B + "RUN true\n" * N, "labels": B + "".join(f"LABEL a{i}=$u{i}\n" for i in range(N)),
    "stages": "".join(f"FROM busybox AS s{i}\nRUN a\n" for i in range(N)),
    "one word": B + "ENV A=" + "'\"a\"'" * 10_000 + "\n", "dollars": B + "ENV A=" + "$" * 60_000 + "\n",
    "backslashes": B + "RUN " + "\\" * 60_000 + "\n", "continued": B + "RUN a \\\n" + "b \\\n" * 30_000 + "c\n",
    "comments": B + "# a\n" * 100_000 + "RUN a\n", "heredoc": B + "COPY <<E /x\n" + "x$PATH y\n" * N + "E\n",
    "heredocs": B + "COPY " + " ".join(f"<<E{i}" for i in range(N)) + " /x/\n" + "".join(f"a\nE{i}\n" for i in range(N)),
    "brackets": B + "RUN [" + "[" * 60_000 + "\n", "flags": B + "RUN " + "--mount=type=tmpfs,target=/a " * 2000 + "true\n",
    "checks": B + "HEALTHCHECK CMD a\n" * N,
}


@pytest.mark.parametrize("name", PLANNED)
def test_length_costs_no_more_than_its_share(name: str) -> None:
    assert df.planned(PLANNED[name]).targets


@pytest.mark.parametrize(("depth", "planned"), [(50, True), (5000, False)])
def test_nesting_is_bounded(depth: int, planned: bool) -> None:
    text = B + "ENV A=" + "${a:-" * depth + "x" + "}" * depth + "\n"
    if planned:
        assert df.environment(text) == {"A": "x"}
    else:
        assert "nested more than 64 deep" in str(df.failure(text))


@pytest.mark.parametrize("pattern", ["#{}", "##{}", "%{}", "%%{}", "/{}/x", "//{}/x"])
def test_stars_do_not_multiply(pattern: str) -> None:
    text = "${A" + pattern.format("*a" * 100 + "b") + "}"
    before = time.process_time()
    assert expand(text, {"A": "a" * 2000}).text == "a" * 2000
    assert time.process_time() - before < 5  # combinations would take longer than anybody waits


def test_the_loop_gets_its_turn() -> None:
    async def run() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        from pallet.build.dockerfile.plan import plan
        from pallet.build.ports import FrontendOptions

        await plan((B + "RUN true\n" * N).encode(), FrontendOptions(), resolver=df.FakeImages(), client=df.FakeClient(),
                   watch=lambda event: None)
        counting.cancel()
        return turns

    assert asyncio.run(run()) > 10


WORDS = st.text(alphabet="aA1_ $${}:-+?#%/\\'\"*[]<>=.\n\t-`", max_size=40)


@settings(max_examples=150, deadline=None)
@given(text=WORDS, style=st.builds(Style, escape=st.sampled_from("\\`"), raw_quotes=st.booleans(), raw_escapes=st.booleans(),
                                   keep_unset=st.booleans(), plain_quotes=st.booleans()))
def test_any_word_expands_or_says_why(text: str, style: Style) -> None:
    try:
        found = expand(text, {"a": "x y", "A": ""}, style, Budget())
    except PalletError:
        return
    assert isinstance(found.text, str)
    if not {"$", "\\", "`", "'", '"'} & set(text):
        assert found.text == text
        assert found.words == text.split()


LINES = st.lists(st.one_of(st.sampled_from(["FROM busybox", "RUN a \\", "COPY <<E /x", "E", "# syntax=a", "# escape=`", "ENV a=b", "CMD [\"a\"]", ""]),
                           st.text(alphabet="FROMRUNENV cdxE<>-=[]\"'\\`#$ \r\t\0ü", max_size=20)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(lines=LINES)
def test_any_text_parses_or_says_where(lines: list[str]) -> None:
    source = "\n".join(lines).encode()
    try:
        for node in parse(source).nodes:
            assert 1 <= node.start <= node.end <= len(lines)
            interpret(node)
    except PalletError:
        pass  # anything else is a fault


def candidates() -> Iterator[bytes]:
    yield b"FROM busybox\nRUN \0\xff\xfe\n"
    yield b"\xff\xfe" + "FROM busybox\n".encode("utf-16-le")
    yield b"FROM busybox\nCOPY <<\n"
    yield b"FROM busybox\nRUN --\n"
    yield b"FROM\nFROM\n"
    yield b"FROM busybox\nONBUILD ONBUILD <<E\n"


@pytest.mark.parametrize("source", list(candidates()))
def test_rubbish_is_an_error_at_worst(source: bytes) -> None:
    with suppress(PalletError):  # anything else is a fault
        df.planned(source)
