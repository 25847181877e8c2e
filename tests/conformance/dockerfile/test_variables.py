"""Rows of dockerfile.tsv on variables and build arguments: forms, scopes, precedence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.graph import GitSource
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.expand import expand
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.conformance

B = "FROM busybox\n"
ENV = {"A": "foo", "E": "", "P": "a/b/c.tar.gz"}

FORMS: dict[str, dict[str, str]] = {
    "var-01": {"$A": "foo", "$A.x": "foo.x", "$U": "", "$A-$A_$E": "foo-"},
    "var-02": {"${A}bar": "foobar", "${U}": ""},
    "var-03": {"${A:-w}": "foo", "${E:-w}": "w", "${U:-w}": "w"},
    "var-04": {"${A-w}": "foo", "${E-w}": "", "${U-w}": "w"},
    "var-05": {"${A:+w}": "w", "${E:+w}": "", "${U:+w}": ""},
    "var-06": {"${A+w}": "w", "${E+w}": "w", "${U+w}": ""},
    "var-07": {"${A:?m}": "foo", "${E:?is empty}": "!E: is empty", "${U:?}": "!U: is not allowed to be unset"},
    "var-08": {"${A?m}": "foo", "${E?m}": "", "${U?m m}": "!U: m m"},
    "var-09": {"${P#*/}": "b/c.tar.gz", "${A#x}": "foo", "${A#?}": "oo"},
    "var-10": {"${P##*/}": "c.tar.gz", "${A##*}": ""},
    "var-11": {"${P%.*}": "a/b/c.tar", "${A%o*}": "fo"},
    "var-12": {"${P%%.*}": "a/b/c", "${A%%o*}": "f"},
    "var-13": {"${A/o/0}": "f0o", "${A/?/x}": "xoo", "${A/o*/x}": "fx"},
    "var-14": {"${A//o/0}": "f00", "${P//\\//-}": "a-b-c.tar.gz"},
    "var-15": {"\\$A": "$A", "\\${A}": "${A}", '"\\$A"': "$A"},
    "var-16": {"'$A'": "$A", "'a\"b'": 'a"b', "'a": "!looking for matching single-quote"},
    "var-17": {'"$A b"': "foo b", '"a\'b"': "a'b", '"a': "!looking for matching double-quote"},
    "var-18": {"${U:-${A:-x}}": "foo", "${U:-'$A'}": "$A", '${U:-"$A "}': "foo ", "${U:+${A}}": ""},
    "var-19": {"${A:=w}": "!unsupported modifier (:=) in substitution", "${A^}": "!unsupported modifier (^) in substitution",
               "${}": "!bad substitution"},
    "var-20": {"$1": "", "$@": "", "$*": "", "$#": "", "$?": "", "$$": "", "$!": "", "${1}": ""},
}


@pytest.mark.parametrize("row", FORMS)
def test_form(row: str) -> None:
    for text, expected in FORMS[row].items():
        if not expected.startswith("!"):
            assert expand(text, ENV).text == expected, text
            continue
        with pytest.raises(DockerfileError) as caught:
            expand(text, ENV)
        assert expected[1:] in str(caught.value), text


def expanded_in() -> None:
    text = (B + "ARG D=/d\nARG E=$D/e\nENV F=$E\nLABEL l=$F\nEXPOSE 8${NO}0\nUSER u$NO\nVOLUME $F\nWORKDIR $F\nSTOPSIGNAL ${NO}9\n"
            "COPY --chown=$NO:1 $D/s $F/t\nADD $D $D/\nRUN --mount=type=cache,target=$D true $D\nCMD $D\nENTRYPOINT $D\nONBUILD RUN $D\n")
    found = df.config(text)
    assert (found.labels, found.exposed_ports, found.user, found.volumes) == ({"l": "/d/e"}, {"80/tcp": {}}, "u", {"/d/e": {}})
    assert (found.working_dir, found.stop_signal, found.on_build) == ("/d/e", "9", ["RUN $D"])
    assert (found.cmd, found.entrypoint) == (["/bin/sh", "-c", "$D"], ["/bin/sh", "-c", "$D"])
    run = df.run_op(text)
    assert run.args[-1] == "true $D"
    assert run.mounts[0].target == "/d"
    assert df.history(text)[9] == "COPY --chown=:1 /d/s /d/e/t # buildkit"


def environment_order() -> None:
    text = B + "ENV A=env\nARG A=arg\nRUN a\n"
    assert "A=arg" in df.run_op(text).env
    assert df.environment(text) == {"A": "env"}
    assert "A=env" in df.run_op(B + "ARG A=arg\nENV A=env\nRUN a\n").env


def precedence() -> None:
    text = "ARG G=global\nFROM busybox\nARG G\nARG S=stage\nARG N\nRUN a\n"
    assert {"G=global", "S=stage"} <= set(df.run_op(text).env)
    assert not any(item.startswith("N") for item in df.run_op(text).env)
    given = df.run_op(text, build_args={"G": "1", "S": "2", "N": "3"}).env
    assert {"G=1", "S=2", "N=3"} <= set(given)
    assert not any("X" in item for item in df.run_op(text, build_args={"X": "unused"}).env)


def proxy(name: str) -> Callable[[], None]:
    def check() -> None:
        text = B + "RUN a\n"
        with_proxy = df.run_op(text, build_args={name: "http://p"})
        assert set(with_proxy.unkeyed_env) == {f"{name.upper()}=http://p", f"{name.lower()}=http://p"}
        assert with_proxy.env == df.run_op(text).env
        assert df.history(text, build_args={name: "http://p"}) == ["RUN /bin/sh -c a # buildkit"]
        declared = f"{B}ARG {name}\nRUN a\n"
        assert f"{name}=http://p" in df.run_op(declared, build_args={name: "http://p"}).env
        assert f"{name}=http://p" in df.history(declared, build_args={name: "http://p"})[-1]
    return check


def automatic(name: str, value: str) -> Callable[[], None]:
    def check() -> None:
        text = f"FROM busybox\nRUN hidden\nARG {name}\nRUN shown\n"
        options = {"platforms": (df.ARM64,)}
        assert not any(item.startswith(f"{name}=") for item in df.ops(text, type(df.run_op(text)), **options)[0].env)
        assert f"{name}={value}" in df.run_op(text, **options).env
        assert df.environment(f"ARG {name}\nFROM busybox\nARG {name}\nENV X=${name}\n", **options) == {"X": value}
        assert f"{name}=mine" in df.run_op(text, build_args={name: "mine"}, **options).env
    return check


def target_stage() -> None:
    text = "FROM busybox AS one\nARG TARGETSTAGE\nRUN a\n"
    assert "TARGETSTAGE=one" in df.run_op(text).env
    assert "TARGETSTAGE=one" in df.run_op(f"{text}FROM busybox AS two\n", target="one").env
    assert "TARGETSTAGE=default" in df.run_op(text.replace(" AS one", "")).env


def builtin(name: str) -> Callable[[], None]:
    """It is no variable unless it is declared, and then it has the client's value."""
    def check() -> None:
        value = {"BUILDKIT_DOCKERFILE_CHECK": "skip=all", "BUILDKIT_SYNTAX": "docker/dockerfile:1"}.get(name, "1")
        args = {name: value}
        assert df.run_op(B + "RUN a\n", build_args=args).env == (df.PATH,)
        assert df.history(B + "RUN a\n", build_args=args) == ["RUN /bin/sh -c a # buildkit"]
        assert f"{name}={value}" in df.run_op(f"{B}ARG {name}\nRUN a\n", build_args=args).env
    return check


def check_argument() -> None:
    assert df.warnings(B + "CMD a\n", build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}) == []


def hostname() -> None:
    assert df.run_op(B + "RUN a\n", build_args={"BUILDKIT_SANDBOX_HOSTNAME": "box"}).hostname == "box"
    assert df.run_op(B + "RUN a\n", hostname="given").hostname == "given"


def syntax_argument() -> None:
    assert "front end my/frontend is an image" in str(df.failure(B, build_args={"BUILDKIT_SYNTAX": "my/frontend"}))


def cache_namespace() -> None:
    builtin("BUILDKIT_CACHE_MOUNT_NS")()
    text = B + "RUN --mount=type=cache,target=/c --mount=type=cache,id=x,target=/d a\n"
    assert [mount.id for mount in df.run_op(text, build_args={"BUILDKIT_CACHE_MOUNT_NS": "ns"}).mounts] == ["ns//c", "ns/x"]
    assert [mount.id for mount in df.run_op(text).mounts] == ["/c", "x"]


def keep_git_dir() -> None:
    builtin("BUILDKIT_CONTEXT_KEEP_GIT_DIR")()
    for value, kept in (("1", True), ("0", False)):
        source = df.ops(B + "COPY a /\n", GitSource, remote_context="https://h/x.git",
                        build_args={"BUILDKIT_CONTEXT_KEEP_GIT_DIR": value})[0]
        assert source.keep_git_dir is kept


def scanned(name: str) -> Callable[[], None]:
    def check() -> None:
        builtin(name)()
        assert df.warnings(f"{B}LABEL a=${name}\n") == []
    return check


ROWS: dict[str, Callable[[], None]] = {
    "var-21": expanded_in, "var-22": environment_order, "var-23": precedence,
    "proxy-01": proxy("HTTP_PROXY"), "proxy-02": proxy("https_proxy"), "proxy-03": proxy("FTP_PROXY"),
    "proxy-04": proxy("no_proxy"), "proxy-05": proxy("ALL_PROXY"),
    "auto-01": automatic("TARGETPLATFORM", "linux/arm64"), "auto-02": automatic("TARGETOS", "linux"),
    "auto-03": automatic("TARGETOSVERSION", ""), "auto-04": automatic("TARGETARCH", "arm64"),
    "auto-05": automatic("TARGETVARIANT", ""), "auto-06": automatic("BUILDPLATFORM", str(df.HOST)),
    "auto-07": automatic("BUILDOS", "linux"), "auto-08": automatic("BUILDOSVERSION", ""),
    "auto-09": automatic("BUILDARCH", df.HOST.architecture), "auto-10": automatic("BUILDVARIANT", df.HOST.variant),
    "auto-11": target_stage,
    "builtin-01": builtin("BUILDKIT_BUILD_NAME"), "builtin-02": cache_namespace,
    "builtin-03": keep_git_dir, "builtin-04": check_argument,
    "builtin-05": builtin("BUILDKIT_INLINE_CACHE"), "builtin-06": builtin("BUILDKIT_MULTI_PLATFORM"),
    "builtin-07": hostname, "builtin-08": syntax_argument, "builtin-09": scanned("BUILDKIT_SBOM_SCAN_CONTEXT"),
    "builtin-10": scanned("BUILDKIT_SBOM_SCAN_STAGE"), "builtin-11": builtin("SOURCE_DATE_EPOCH"),
}


@pytest.mark.parametrize("row", ROWS)
def test_argument(row: str) -> None:
    ROWS[row]()
