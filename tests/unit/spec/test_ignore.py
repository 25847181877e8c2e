"""spec/ignore: the compiled matcher against a plain one, and its speed with hostile patterns."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallet.errors import InvalidParameterError
from pallet.spec.ignore import PathMatcher

ELEMENT = st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
PATHS = st.lists(ELEMENT, min_size=1, max_size=4).map("/".join)
PATTERN_ELEMENT = st.one_of(st.text(alphabet="ab*?.", min_size=1, max_size=4), st.sampled_from(["**", "*", "[ab]", "[^a]", "\\*"]))
PATTERNS = st.lists(PATTERN_ELEMENT, min_size=1, max_size=4).map("/".join).filter(
    lambda text: all(part == "**" or "**" not in part for part in text.split("/")) and not {".", ".."} & set(text.split("/")))


def matches_element(pattern: str, text: str) -> bool:
    """Go's filepath.Match for one element, by trying everything."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(matches_element(pattern[1:], text[count:]) for count in range(len(text) + 1))
    if pattern[0] == "[":
        end = pattern.index("]")
        body, negated = pattern[1:end].lstrip("^"), pattern[1] == "^"
        return bool(text) and (text[0] in body) != negated and matches_element(pattern[end + 1:], text[1:])
    if pattern[0] == "\\":
        return text[:1] == pattern[1] and matches_element(pattern[2:], text[1:])
    return bool(text) and pattern[0] in ("?", text[0]) and matches_element(pattern[1:], text[1:])


def matches(pattern: list[str], path: list[str]) -> bool:
    """The whole path, exactly."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return True
        return any(matches(pattern[1:], path[count:]) for count in range(len(path) + 1))
    return bool(path) and matches_element(pattern[0], path[0]) and matches(pattern[1:], path[1:])


def excludes(patterns: list[str], path: str) -> bool:
    parts = path.split("/")
    excluded = False
    for text in patterns:
        pattern = text.removeprefix("!").split("/")
        if any(matches(pattern, parts[:length]) for length in range(1, len(parts) + 1)):
            excluded = not text.startswith("!")
    return excluded


def folded(pattern: str) -> str:
    """A trailing ``**`` needs something below; ``a/**/**`` is ``a/**``."""
    parts = pattern.split("/")
    return "/".join(part for index, part in enumerate(parts) if part != "**" or index + 1 == len(parts) or parts[index + 1] != "**")


@settings(max_examples=200, deadline=None)
@given(patterns=st.lists(st.tuples(PATTERNS, st.booleans()), max_size=4), path=PATHS)
def test_as_the_plain_matcher(patterns: list[tuple[str, bool]], path: str) -> None:
    texts = [f"{'!' if negated else ''}{folded(pattern)}" for pattern, negated in patterns]
    texts = [text for text in texts if not text.endswith("/**")]
    assert PathMatcher(texts).excludes(path) == excludes(texts, path), texts


@settings(max_examples=100, deadline=None)
@given(patterns=st.lists(st.tuples(PATTERNS, st.booleans()), max_size=4), path=PATHS)
def test_no_exception_lies_where_none_may_be(patterns: list[tuple[str, bool]], path: str) -> None:
    matcher = PathMatcher([f"{'!' if negated else ''}{pattern}" for pattern, negated in patterns])
    parts = path.split("/")
    for length in range(1, len(parts)):
        directory = "/".join(parts[:length])
        if matcher.excludes(directory) and not matcher.may_hold_exceptions(directory):
            assert matcher.excludes(path)


def test_stars_do_not_multiply() -> None:
    before = time.process_time()
    for pattern in ("*a" * 40 + "b", "**/" + "*a" * 20 + "b/**/" + "*a" * 10 + "/x", "/".join(["**/a"] * 20) + "/b"):
        matcher = PathMatcher([pattern])
        assert not matcher.excludes("/".join(["a" * 250] * 16))
        matcher.excludes("a/" * 2000 + "c")
    assert time.process_time() - before < 5  # combinations would take longer than anybody waits


def test_nothing_excludes_nothing() -> None:
    matcher = PathMatcher([])
    assert not matcher
    assert not matcher.excludes("a")
    assert not PathMatcher(["**"]).excludes("")


@pytest.mark.parametrize("pattern", ["!", "!/", "! //"])
def test_an_exception_of_nothing_is_none(pattern: str) -> None:
    with pytest.raises(InvalidParameterError, match='illegal exclusion pattern: "!"'):
        PathMatcher([pattern])


def test_a_slash_may_be_escaped() -> None:
    assert PathMatcher(["a\\/b"]).excludes("a/b")
    assert not PathMatcher(["a\\\\/b"]).excludes("a/b")
    assert PathMatcher(["a\\\\/b"]).excludes("a\\/b")
