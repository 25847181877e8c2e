"""Rows of dockerfile.tsv on the text itself: lines, directives, here-documents, forms of arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.graph import FileOp, RunOp, WriteAction
from pallet.spec.dockerfile.parser import heredoc_word, parse
from pallet.spec.dockerfile.syntax import detect_syntax
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.conformance

B = "FROM busybox\n"


def shell(text: str | bytes) -> str:
    """The shell text of the last RUN."""
    plan = df.planned(text)
    return next(vertex.op.args[-1] for vertex in reversed(df.vertices(plan)) if isinstance(vertex.op, RunOp))


def fails(text: str | bytes, words: str, lines: tuple[int, int] | None) -> bool:
    error = df.failure(text)
    assert str(error) == words
    assert error.lines == lines
    return True


def directives() -> None:
    assert parse(b"# ESCAPE = ` \n#check=skip=all\nFROM a\n").directives == {"escape": ("`", 1), "check": ("skip=all", 2)}
    assert parse(b"# note\n# escape=`\nFROM a\n").escape == "\\"
    assert parse(b"\n# escape=`\nFROM a\n").escape == "\\"
    assert parse(b"# other=x\n# escape=`\nFROM a\n").escape == "\\"
    assert fails("# escape=`\n# escape=`\nFROM a\n", "only one escape parser directive can be used", (1, 1))


def syntax() -> None:
    assert detect_syntax(b"# syntax=docker/dockerfile:1\nFROM a") == "docker/dockerfile:1"
    assert detect_syntax(b"\xef\xbb\xbf#!/usr/bin/x\n// syntax=img\n") == "img"
    assert detect_syntax(b'{"syntax": "img"}') == "img"
    assert detect_syntax(b"FROM a\n# syntax=img\n") == ""
    assert df.names("# syntax=docker/dockerfile:1.7-labs\n" + B + "RUN a\n")
    assert "front end other/image is an image" in str(df.failure("# syntax=other/image\n" + B))
    assert df.planned("# syntax=other/image\n" + B, build_args={"BUILDKIT_SYNTAX": "dockerfile.v0"})
    assert df.planned("# syntax=other/image\n" + B, ignore_syntax=True)


def escape() -> None:
    text = "# escape=`\n" + B + "ENV A=x`$y B=c:\\d\nRUN a `\n  b\n"
    assert df.environment(text) == {"A": "x$y", "B": "c:\\d"}
    assert shell(text) == "a   b"
    assert fails("# escape=x\nFROM a\n", "invalid escape token 'x' does not match ` or \\", None)


def check() -> None:
    text = "CMD a\n"
    assert [rule for rule, _, _ in df.warnings(B + text)] == ["JSONArgsRecommended"]
    assert df.warnings("# check=skip=JSONArgsRecommended\n" + B + text) == []
    assert df.warnings("# check=skip=all\n" + B + text) == []
    args = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert df.warnings("# check=error=true\n" + B + text, build_args=args) == []
    assert fails("# check=error=true\n" + B + text, "lint violation found for rules: JSONArgsRecommended", None)
    assert fails("# check=foo=x\n" + B, 'failed to parse check options: invalid check option "foo"', None)


def comment() -> None:
    assert shell(B + "RUN a \\\n  # gone\n#gone too\n  b # stays\n") == "a   b # stays"
    assert shell(B + "# no \\\nRUN a\n") == "a"


def continuation() -> None:
    assert shell(B + "RUN a \\   \n\n   \n b\n") == "a  b"
    assert shell(B + "RUN a \\\\\n") == "a \\\\"


def leading_space() -> None:
    assert shell("  \t" + B + "   RUN   a   b\n") == "a   b"
    assert shell(B + "RUN <<E\n  indented\nE\n") == "  indented\n"


def case() -> None:
    assert df.history("from busybox\nEnv a=b\nrUN x\n") == ["ENV a=b", "RUN /bin/sh -c x # buildkit"]
    assert [line for rule, _, line in df.warnings(B + "RUN a\nrun b\n") if rule == "ConsistentInstructionCasing"] == [3]


def unknown() -> None:
    assert fails(B + "FOO a\n", "dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)", (2, 2))
    assert fails(B + "ABCDEFG a\n", "dockerfile parse error on line 2: unknown instruction: ABCDEFG", (2, 2))
    assert df.failure(B + "FOO a\n").snippet() == (
        "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> FOO a\n   3 |     \n--------------------\n")


def long_line() -> None:
    assert shell(B + "RUN " + "a" * 60_000 + "\n") == "a" * 60_000
    assert "greater than max allowed size of 65535" in str(df.failure(B + "RUN " + "a" * 70_000 + "\n"))


def encoding() -> None:
    source = "\ufeffFROM busybox\r\nRUN a \\\r\n  ü\r\nCOPY <<E /x\r\nhi\r\nE\r\n".encode()
    assert shell(source) == "a   ü"


def json_form() -> None:
    assert df.run_op(B + 'RUN [ "a" , "b c" ]\n').args == ("a", "b c")
    assert shell(B + "RUN ['a']\n") == "['a']"
    assert shell(B + 'RUN ["a"\n') == '["a"'
    assert fails(B + 'CMD ["a", 1]\n', "when using JSON array syntax, arrays must be comprised of strings only", (2, 2))


def flags() -> None:
    assert shell(B + "RUN --network=none -- --x\n") == "--x"
    assert fails(B + "COPY --link=x a b\n", "dockerfile parse error on line 2: expecting boolean value for flag --link, not: x", (2, 2))
    assert fails(B + "FROM --platform busybox\n", "dockerfile parse error on line 2: missing a value on flag: --platform", (2, 2))
    assert fails(B + "COPY --from=a --from=b a b\n", "dockerfile parse error on line 2: duplicate flag specified: --from", (2, 2))
    assert fails(B + "COPY --frm=a a b\n", "dockerfile parse error on line 2: unknown flag: --frm (did you mean from?)", (2, 2))


def empty() -> None:
    for text in ("", "\n\n", "# comment\n"):
        assert str(df.failure(text)) == "file with no instructions"


def first() -> None:
    assert df.names("ARG A=b\nFROM busybox\nRUN a\n")
    assert fails("RUN a\nFROM busybox\n", "no build stage in current context", (1, 1))


def stage_selection() -> None:
    text = "FROM busybox AS one\nRUN a\nFROM busybox AS two\nRUN b\nFROM busybox\nRUN c\n"
    assert df.names(text)[-1] == "[stage-2 2/2] RUN c"
    assert df.names(text, target="ONE")[-1] == "[one 2/2] RUN a"
    assert df.names(text, target="1")[-1] == "[two 2/2] RUN b"
    assert sum("RUN" in name for name in df.names(text)) == 1
    assert str(df.failure(text, target="tow")) == 'target stage "tow" could not be found (did you mean two?)'


def heredoc_open() -> None:
    opened = heredoc_word('3<<-"E F"')
    assert opened is not None
    assert (opened.name, opened.chomp, opened.expand, opened.fd) == ("E F", True, False, 3)
    assert heredoc_word("<<") is None
    assert heredoc_word("a<<E") is None
    assert shell(B + 'RUN echo "<<E"\n') == 'echo "<<E"'
    assert fails(B + "RUN <<E\nfoo\n", "unterminated heredoc", (2, 3))
    assert df.config(B + "ONBUILD RUN <<E\nhi\nE\n").on_build == ["RUN <<E\nhi\nE"]


def heredoc_strip() -> None:
    assert shell(B + "RUN <<-E\n\t\ta\n\tb\n\tE\n") == "a\nb\n"


def written(text: str, **options: object) -> dict[str, bytes]:
    actions = [action for operation in df.ops(B + text, FileOp, **options) for action in operation.actions]
    return {action.path: action.data for action in actions if isinstance(action, WriteAction)}


def heredoc_quoting() -> None:
    text = "ENV A=1\nCOPY <<E <<'F' /x/\n$A \"q\"\nE\n$A\nF\n"
    assert written(text) == {"/E": b'1 "q"\n', "/F": b"$A\n"}
    assert shell(B + "ENV A=1\nRUN <<E\n$A\nE\n") == "$A\n"


def heredoc_run() -> None:
    assert df.run_op(B + "RUN <<E\na\nb\nE\n").args == ("/bin/sh", "-c", "a\nb\n")
    script = df.run_op(B + "RUN <<E\n#!/bin/x\na\nE\n")
    assert script.args == ("/bin/sh", "-c", "/dev/pipes/E")
    assert script.heredocs == (("E", "#!/bin/x\na\n"),)
    assert df.names(B + "RUN <<E\na\nb\nE\n")[-1] == "[2/2] RUN <<E (a...)"


def heredoc_run_many() -> None:
    assert shell(B + "RUN cat <<A - <<B\n1\nA\n2\nB\n") == "cat <<A - <<B\n1\nA\n2\nB"


def heredoc_copy() -> None:
    text = "COPY --chmod=600 --chown=1 <<one <<two /dir/\n1\none\n2\ntwo\n"
    assert written(text) == {"/one": b"1\n", "/two": b"2\n"}
    copies = df.ops(B + text, FileOp)[-1].actions
    assert [(action.paths, action.dest, action.mode, action.owner) for action in copies] == [
        (("/one",), "/dir/", "600", "1"), (("/two",), "/dir/", "600", "1")]
    assert df.history(B + text) == ["COPY --chown=1 --chmod=600 <<one <<two /dir/ # buildkit"]


ROWS: dict[str, Callable[[], None]] = {
    "parser-01": directives, "parser-02": syntax, "parser-03": escape, "parser-04": check, "parser-05": comment,
    "parser-06": continuation, "parser-07": leading_space, "parser-08": case, "parser-09": unknown,
    "parser-10": long_line, "parser-11": encoding, "parser-12": json_form, "parser-13": flags,
    "parser-14": empty, "parser-15": first, "parser-16": stage_selection, "parser-17": heredoc_open,
    "parser-18": heredoc_strip, "parser-19": heredoc_quoting, "parser-20": heredoc_run,
    "parser-21": heredoc_run_many, "parser-22": heredoc_copy,
}


@pytest.mark.parametrize("row", ROWS)
def test_text(row: str) -> None:
    ROWS[row]()
