"""Rows of dockerfile.tsv on lint rules and subrequests: BuildKit's words, rule by rule."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pallet.build.dockerfile.rules import RULES
from pallet.errors import NotImplementedApiError
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.conformance

B = "FROM busybox\n"

# row: rule, then texts with (line, message) of each finding, then texts without any
FOUND: dict[str, tuple[str, list[tuple[str, list[tuple[int, str]]]], list[str]]] = {
    "lint-01": ("StageNameCasing", [("FROM busybox AS B_a\n", [(1, "Stage name 'B_a' should be lowercase")])], ["FROM busybox AS b\n"]),
    "lint-02": ("FromAsCasing", [("FROM busybox as a\n", [(1, "'as' and 'FROM' keywords' casing do not match")])],
                ["from busybox as a\n", "FROM busybox AS a\n"]),
    "lint-03": ("NoEmptyContinuation", [(B + "RUN a \\\n\n b\n", [(4, "Empty continuation line")])], [B + "RUN a \\\n # c\n b\n"]),
    "lint-04": ("ConsistentInstructionCasing", [
        (B + "run a\nEnv A=b\nRUN c\n", [(2, "Command 'run' should match the case of the command majority (uppercase)"),
                                         (3, "Command 'Env' should match the case of the command majority (uppercase)")]),
        ("from busybox\nrun a\nRUN b\n", [(3, "Command 'RUN' should match the case of the command majority (lowercase)")])],
        ["from busybox\nrun a\n"]),
    "lint-05": ("DuplicateStageName", [("FROM busybox AS a\nFROM busybox AS a\n", [(2, 'Duplicate stage name "a", stage names should be unique')])],
                ["FROM busybox AS a\nFROM busybox AS b\n"]),
    "lint-06": ("ReservedStageName", [(f"FROM busybox AS {name}\n", [(1, f'Stage name should not use the same name as reserved stage "{name}"')])
                                      for name in ("context", "scratch")], ["FROM busybox AS scratchy\n"]),
    "lint-07": ("JSONArgsRecommended", [
        (B + f"{name} a\n", [(2, f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals")])
        for name in ("CMD", "ENTRYPOINT")], [B + 'CMD ["a"]\n', B + 'SHELL ["sh","-c"]\nCMD a\n', B + "HEALTHCHECK CMD a\n"]),
    "lint-08": ("MaintainerDeprecated", [(B + "MAINTAINER a\n", [(2, "Maintainer instruction is deprecated in favor of using label")])], [B]),
    "lint-09": ("UndefinedArgInFrom", [
        ("ARG VERSIO\nFROM busybox${VERSION}\n", [(2, "FROM argument 'VERSION' is not declared (did you mean VERSIO?)")]),
        ("FROM --platform=${P:-linux/amd64} busybox\n", [(1, "FROM argument 'P' is not declared")])],
        ["ARG V\nFROM busybox$V\n", "FROM --platform=$BUILDPLATFORM busybox\n"]),
    "lint-10": ("WorkdirRelativePath", [
        (B + "WORKDIR a\nWORKDIR b\n", [(2, 'Relative workdir "a" can have unexpected results if the base image changes')]),
        (B + "ENV A=q\nWORKDIR $A\n", [(3, 'Relative workdir "q" can have unexpected results if the base image changes')])],
        [B + "WORKDIR /a\nWORKDIR b\n", "FROM busybox AS x\nWORKDIR /c\nFROM x\nWORKDIR q\n"]),
    "lint-11": ("UndefinedVar", [
        (B + "ENV NAME=a\nLABEL a=$NAMES b=$Q\n", [(3, "Usage of undefined variable '$NAMES' (did you mean $NAME?)"), (3, "Usage of undefined variable '$Q'")]),
        (B + "COPY $u/ /\n", [(2, "Usage of undefined variable '$u'")])],
        [B + "ARG A\nLABEL a=$A\n", B + "RUN $Q\n", B + "EXPOSE 80$Q\n", B + "LABEL a=${Q:-b}$PATH\n".replace("${Q:-b}", "")]),
    "lint-12": ("MultipleInstructionsDisallowed", [
        (B + f"{name} {first}\nRUN b\n{name} {second}\n",
         [(2, f"Multiple {name} instructions should not be used in the same stage because only the last one will be used")])
        for name, first, second in (("CMD", '["a"]', '["b"]'), ("ENTRYPOINT", '["a"]', '["b"]'), ("HEALTHCHECK", "CMD a", "NONE"))],
        ['FROM busybox AS a\nCMD ["a"]\nFROM a\nCMD ["a"]\n']),
    "lint-13": ("LegacyKeyValueFormat", [(B + f"{name} a b\n", [(2, f'"{name} key=value" should be used instead of legacy "{name} key value" format')])
                                         for name in ("ENV", "LABEL")], [B + "ENV a=b\n"]),
    "lint-15": ("RedundantTargetPlatform", [
        (f"FROM --platform={text} busybox\n", [(1, f"Setting platform to predefined {text} in FROM is redundant as this is the default behavior")])
        for text in ("$TARGETPLATFORM", "${TARGETPLATFORM}")], ["FROM --platform=$BUILDPLATFORM busybox\n"]),
    "lint-16": ("SecretsUsedInArgOrEnv", [
        (B + f"{word} {name}=1\n", [(2, f'Do not use ARG or ENV instructions for sensitive data ({word} "{name}")')])
        for word, name in (("ARG", "TOKEN"), ("ENV", "API_KEY"), ("ENV", "my_password"), ("ARG", "X_AUTH"), ("ENV", "apikey"),
                           ("ENV", "CREDENTIALS"), ("ENV", "passwd"), ("ENV", "PWORD"), ("ARG", "a_secret_b"))],
        [B + "ENV PUBLIC_KEY=1 KEY_FILE=1 SECRET_VERSION=1 monkey=1 authx=1\n", "ARG token=1\n" + B]),
    "lint-17": ("InvalidDefaultArgInFrom", [
        ("ARG T\nFROM busybox:$T\n", [(2, "Default value for ARG busybox:$T results in empty or invalid base image name")])],
        ["ARG T\nFROM busybox:${T:-latest}\n", "ARG T=latest\nFROM busybox:$T\n"]),
    "lint-18": ("FromPlatformFlagConstDisallowed", [
        ("FROM --platform=linux/amd64 busybox\n", [(1, 'FROM --platform flag should not use constant value "linux/amd64"')])],
        ["FROM --platform=linux/amd64 busybox AS x_amd64\n", "FROM --platform=linux/amd64 busybox AS linux\n", "FROM --platform=$BUILDPLATFORM busybox\n"]),
    "lint-19": ("CopyIgnoredFile", [
        (B + "COPY nope /\nADD nope/x /\n", [(2, 'Attempting to Copy file "nope" that is excluded by .dockerignore'),
                                             (3, 'Attempting to Add file "nope/x" that is excluded by .dockerignore')])],
        [B + "COPY a /\nCOPY . /\nCOPY --from=busybox nope /\nADD http://h/nope /\n"]),
    "lint-21": ("ExposeProtoCasing", [(B + "EXPOSE 80/TCP\n", [(2, "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase")])],
                [B + "EXPOSE 80/tcp 81\n"]),
    "lint-22": ("ExposeInvalidFormat", [
        (B + f"EXPOSE {port}\n", [(2, f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'")])
        for port in ("1:2", "127.0.0.1:1:2", "127.0.0.1::5/udp", "5-7:8", "[::1]:3:4")], [B + "EXPOSE 80-82/tcp\n"]),
}


@pytest.mark.parametrize("row", FOUND)
def test_rule(row: str) -> None:
    rule, texts, clean = FOUND[row]
    assert RULES[rule].url.startswith("https://docs.docker.com/go/dockerfile/rule/")
    for text, expected in texts:
        found = lint(text)
        assert [(line, message) for name, message, line in found if name == rule] == expected, text
        assert not [entry for entry in lint(text, f"skip={rule}") if entry[0] == rule], text
    for text in clean:
        assert not [entry for entry in lint(text) if entry[0] == rule], text


def lint(text: str, check: str = "experimental=CopyIgnoredFile") -> list[tuple[str, str, int]]:
    try:
        return df.warnings(text, ignore="nope\n", build_args={"BUILDKIT_DOCKERFILE_CHECK": check})
    except df.DockerfileError as error:
        return [(warning.rule, warning.message, warning.span.start) for warning in error.warnings]


def base_platform() -> None:
    found = df.planned(B, images=df.FakeImages(architecture="arm64")).warnings
    assert [(warning.rule, warning.message) for warning in found] == [
        ("InvalidBaseImagePlatform", 'Base image busybox was pulled with platform "linux/arm64", expected "linux/amd64" for current build')]
    assert found[0].url == ""


def description() -> None:
    text = "# check=experimental=InvalidDefinitionDescription\n# A is it\nARG A\n# wrong\nARG A\n# b stage\nFROM busybox AS b\n# x\nFROM busybox AS c\n"
    assert [(line, message) for _, message, line in df.warnings(text)] == [
        (5, "Comment for ARG should follow the format: `# A <description>`"),
        (9, "Comment for FROM should follow the format: `# c <description>`")]
    assert df.warnings("# wrong\n\n# more\nARG A\nFROM busybox\n") == []


TEXT = """# check=skip=FromAsCasing
# G the global
ARG G=g
ARG Z
# base is the base
FROM busybox AS base
ARG G
# X first
ARG X=$G
RUN --mount=type=secret,id=s1,required --mount=type=secret,target=/x/s2 --mount=type=ssh,id=k,required true
FROM base AS two
ARG TARGETARCH
ARG Q
CMD echo
FROM scratch AS last
COPY --from=two /bin/sh /
"""


def answer(name: str, text: str = TEXT, **options: Any) -> tuple[Any, str]:
    found = df.asked(text, name, **options)
    assert found["version"] == b"1.0.0"
    return json.loads(found["result.json"]), found["result.txt"].decode()


def at(line: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}


def outline() -> None:
    document, text = answer("frontend.outline", target="two", build_args={"Q": "1"})
    assert document["name"] == "two"
    assert document["args"] == [
        {"name": "G", "description": "the global", "value": "g", "location": at(3)},
        {"name": "X", "description": "first", "value": "g", "location": at(9)},
        {"name": "Q", "value": "1", "location": at(13)}]
    assert document["secrets"] == [{"name": "s1", "required": True, "location": at(10)}, {"name": "s2", "location": at(10)}]
    assert document["ssh"] == [{"name": "k", "required": True, "location": at(10)}]
    assert text.startswith("TARGET: two\n\nBUILD ARG   VALUE   DESCRIPTION\nG           g       the global\nX           g       first\nQ           1       \n")


def targets() -> None:
    document, text = answer("frontend.targets")
    assert document["targets"] == [
        {"name": "base", "description": "is the base", "base": "busybox", "location": at(6)},
        {"name": "two", "base": "base", "location": at(11)},
        {"name": "last", "default": True, "base": "scratch", "location": at(15)}]
    assert text.splitlines() == ["TARGET         DESCRIPTION", "base           is the base", "two            ", "last (default) "]


def checked() -> None:
    document, text = answer("frontend.lint")
    assert document["warnings"] == [{
        "ruleName": "JSONArgsRecommended", "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "description": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "detail": "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals", "location": at(14)}]
    assert "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n" in text
    assert "  14 | >>> CMD echo\n" in text
    assert df.asked(TEXT, "frontend.lint")["result.statuscode"] == b"1"
    assert "result.statuscode" not in df.asked(B, "frontend.lint")
    broken, _ = answer("frontend.lint", B + "FOO\n")
    assert broken["buildError"] == {
        "message": "dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)", "location": at(2)}
    unneeded = "FROM busybox AS a\nCMD a\nFROM busybox\n"
    assert len(answer("frontend.lint", unneeded)[0]["warnings"]) == 1
    assert df.warnings(unneeded) == []


def described() -> None:
    document, text = answer("frontend.subrequests.describe")
    assert [entry["name"] for entry in document] == ["frontend.outline", "frontend.targets", "frontend.subrequests.describe"]
    assert text.startswith("NAME                 VERSION DESCRIPTION\noutline              1.0.0   List all parameters")


def definition() -> None:
    with pytest.raises(NotImplementedApiError, match=r"unsupported request frontend\.convertllb"):
        df.asked(TEXT, "frontend.convertllb")


ROWS: dict[str, Callable[[], None]] = {
    "lint-14": base_platform, "lint-20": description, "sub-01": outline, "sub-02": targets, "sub-03": checked,
    "sub-04": described, "sub-05": definition,
}


@pytest.mark.parametrize("row", ROWS)
def test_answers(row: str) -> None:
    ROWS[row]()


def test_there_are_22_rules() -> None:
    assert len(RULES) == 22
