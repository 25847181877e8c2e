"""Broken Dockerfiles: the error, its places, and the findings that come with it, as dockerd 28.5.2's BuildKit tells them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.support import dockerfiles as df


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a client gets to see."""

    text: str
    error: str
    places: list[int] = field(default_factory=list)
    """First lines of the excerpts, in order."""
    rules: list[tuple[str, int]] = field(default_factory=list)
    ignore: str = ""


_CASING = [("FromAsCasing", 1)]
_MUST = 'failed to process "${V:?must}": V: must'
CASES = {
    "findings before what cannot be parsed": Told(
        text="FROM busybox as x\nMAINTAINER me\ncopy a b\nHEALTHCHECK --retries=-1 CMD x\nFROM busybox as Y\n",
        error="dockerfile parse error on line 4: --retries cannot be negative (-1)", places=[4],
        rules=[*_CASING, ("MaintainerDeprecated", 2)]),
    "no findings without a stage": Told(
        text="RUN x\nFROM busybox as X\n", error="no build stage in current context", places=[1]),
    "ignore file: order": Told(
        text="FROM busybox as x\nFROM $A AS y\n", ignore="!\n", error="base name ($A) should not be blank", places=[2],
        rules=[*_CASING, ("InvalidDefaultArgInFrom", 2), ("UndefinedArgInFrom", 2)]),
    "ignore file: pattern": Told(
        text="FROM busybox as x\nRUN true\n", ignore="a[\n", error="syntax error in pattern", rules=_CASING),
    "ignore file: exception": Told(
        text="FROM busybox as x\n", ignore="!\n", error='illegal exclusion pattern: "!"', rules=_CASING),
    "platform of a stage": Told(
        text="FROM --platform=foo busybox AS a\nFROM --platform=linux/arm64 busybox AS b\n", places=[1],
        error='failed to parse platform foo: "foo": unknown operating system or architecture: invalid argument'),
    "findings up to the stage that cannot be": Told(
        text="FROM --platform=linux/amd64 busybox AS a\nFROM $X AS b\nFROM --platform=linux/amd64 busybox AS c\n",
        error="base name ($X) should not be blank", places=[2],
        rules=[("InvalidDefaultArgInFrom", 2), ("FromPlatformFlagConstDisallowed", 1), ("UndefinedArgInFrom", 2)]),
    "a platform that does not expand": Told(
        text="FROM --platform=${V:?must} busybox\n", places=[1], rules=[("UndefinedArgInFrom", 1)],
        error=f"failed to process arguments for platform : {_MUST}"),
    "a base that does not expand": Told(
        text="FROM --platform=linux/amd64 ${V:?must}\n", error=_MUST, places=[1], rules=[("UndefinedArgInFrom", 1)]),
    "a base that is not closed": Told(
        text="FROM ${V\n", places=[1], error='failed to process "${V": unsupported modifier (\ufffd) in substitution'),
    "a global argument": Told(text="ARG A=${V:?must}\nFROM busybox\n", error=_MUST, places=[1]),
    "expansion before other findings": Told(
        text="FROM busybox\nENV PASSWORD ${V:?must}\n", error=_MUST, places=[2], rules=[("UndefinedVar", 2)]),
    "EXPOSE": Told(text="FROM busybox\nEXPOSE 80:80/TCP ${V:?must}\n", error=_MUST, places=[2]),
    "other errors after findings": Told(
        text="FROM busybox\nENV PASSWORD x\nCOPY --chmod=888 a $V\n", places=[3],
        error="invalid chmod parameter: '888'. it should be octal string and between 0 and 07777",
        rules=[("LegacyKeyValueFormat", 2), ("SecretsUsedInArgOrEnv", 2), ("UndefinedVar", 3)]),
    "a trigger": Told(
        text="FROM busybox AS a\nONBUILD HEALTHCHECK foo\nFROM a\n", places=[3],
        error='Unknown type "FOO" in HEALTHCHECK (try CMD)'),
    "a word with a tab": Told(
        text='FROM busybox\nCOPY ["a\'\\tb", "/x"]\n', places=[2],
        error='failed to process "a\'\\tb": unexpected end of statement while looking for matching single-quote'),
    "a stage's name": Told(
        text="FROM busybox as 9B\n", places=[1], rules=[*_CASING, ("StageNameCasing", 1)],
        error='dockerfile parse error on line 1: invalid name for build stage: "9B", '
              "name can't start with a number or contain symbols"),
    "a word too many": Told(
        text="FROM busybox as a b\n", places=[1], rules=_CASING,
        error="dockerfile parse error on line 1: FROM requires either one or three arguments"),
    "chown and chmod are expanded first": Told(
        text="FROM busybox\nCOPY --chmod=$A --chown=$B a\"b $C\n", places=[2],
        error='failed to process "a\\"b": unexpected end of statement while looking for matching double-quote',
        rules=[("UndefinedVar", 2), ("UndefinedVar", 2)]),
    "nothing but comments": Told(text="# a\n\n# b\n", error="file with no instructions", places=[3]),
    "a long line": Told(
        text="FROM busybox\n\nENV A=" + 70000 * "x" + "\n", places=[2],
        error="dockerfile line greater than max allowed size of 65535"),
    "ports that are none": Told(
        text='FROM busybox\nEXPOSE 80:\n', error='invalid port: "80:": no port specified', places=[2]),
    "circle of two": Told(
        text="FROM busybox AS a\nCOPY --from=b /x /\nRUN true\nCOPY --from=b /y /\nFROM a AS b\nCOPY --from=a /z /\n",
        error="circular dependency detected on stage: a", places=[6, 4]),
    "circle of three": Told(
        text="FROM busybox AS a\nCOPY --from=c /x /\nFROM busybox AS b\nCOPY --from=a /y /\n"
             "FROM busybox AS c\nCOPY --from=b /z /\n",
        error="circular dependency detected on stage: a", places=[4, 6, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_error_places_and_findings(name: str) -> None:
    case = CASES[name]
    error = df.failure(case.text, ignore=case.ignore)
    assert str(error) == case.error
    places = [error.lines, *error.further] if error.lines is not None else []
    assert [first for first, _ in places] == case.places
    found = [(warning.rule, warning.span.start) for warning in error.warnings]
    assert sorted(found) == sorted(case.rules)
    assert error.snippet().count("Dockerfile:") == len(case.places)


def test_directives_are_no_descriptions() -> None:
    text = "# check=experimental=all\n# escape=`\nARG A=1\nFROM busybox AS q\n"
    assert df.warnings(text) == []
    assert [(rule, line) for rule, _, line in df.warnings("# check=experimental=all\n# other\nARG A=1\nFROM busybox AS q\n")] == [
        ("InvalidDefinitionDescription", 3)]


def test_keyword_of_a_trigger_is_shown_in_capitals() -> None:
    names = df.names("FROM busybox AS a\nONBUILD copy a /\nFROM a\n")
    assert names[-1].endswith("ONBUILD COPY a /")
