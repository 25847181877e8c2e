"""Rows of dockerfile.tsv on .dockerignore, contexts and what ends up in an image's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.dockerfile.sources import git_source
from pallet.build.graph import FileOp, GitSource, HttpSource, ImageSource, LocalSource, OciLayoutSource
from pallet.errors import InvalidParameterError
from pallet.spec import image as images
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.ignore import PathMatcher, read_patterns
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.conformance

B = "FROM busybox\n"
TREE = ("a/b/c.txt", "a/x.md", "d/.git/config", "README.md", "src/main.go", "src/test/t.go", "foo1", "foo2", "#h", "sp ace/f")


def left(patterns: str) -> set[str]:
    """What of the tree the patterns leave in."""
    matcher = PathMatcher(read_patterns(patterns.encode()))
    return {path for path in TREE if not matcher.excludes(path)}


def lacking(patterns: str) -> set[str]:
    return set(TREE) - left(patterns)


def ignore_lines() -> None:
    assert read_patterns(b"\xef\xbb\xbf  a  \r\n\n   \n# c\n b/../d/ \n") == ["a", "d"]


def ignore_comments() -> None:
    assert lacking("# src\n#src\n") == set()
    assert lacking("\\#h\n") == {"#h"}
    assert lacking(" #h\n") == {"#h"}


def ignore_cleaned() -> None:
    for text in ("/a/", "a", "./a", "a//", "x/../a", "/a/./"):
        assert lacking(text) == {"a/b/c.txt", "a/x.md"}, text
    assert lacking("../a") == set()


def ignore_globs() -> None:
    assert lacking("foo?") == lacking("foo[12]") == lacking("f*") == {"foo1", "foo2"}
    assert lacking("*.md") == {"README.md"}
    assert lacking("*/*.md") == {"a/x.md"}
    assert lacking("foo[^1]") == {"foo2"}
    assert lacking("sp\\ ace") == {"sp ace/f"}
    with pytest.raises(InvalidParameterError, match="syntax error in pattern"):
        PathMatcher(["[a"])


def ignore_stars() -> None:
    assert lacking("**/*.go") == {"src/main.go", "src/test/t.go"}
    assert lacking("**/.git") == {"d/.git/config"}
    assert lacking("a/**/c.txt") == {"a/b/c.txt"}
    assert lacking("src/**/t.go") == {"src/test/t.go"}
    assert left("**") == set()


def ignore_negation() -> None:
    assert left("*\n!src\nsrc/test\n") == {"src/main.go"}
    assert lacking("!a\na\n") == {"a/b/c.txt", "a/x.md"}


def ignore_directories() -> None:
    matcher = PathMatcher(["a", "!a/b"])
    assert not matcher.excludes("a/b/c.txt")
    assert matcher.excludes("a/x.md")
    assert matcher.may_hold_exceptions("a")
    assert not matcher.may_hold_exceptions("d")


def ignore_dot() -> None:
    assert lacking(".\n") == set()
    with pytest.raises(InvalidParameterError, match='illegal exclusion pattern: "!"'):
        PathMatcher(read_patterns(b"!\n"))


def ignore_dockerfile() -> None:
    source = df.ops(B + "COPY . /\n", LocalSource, ignore="Dockerfile\n.dockerignore\n")[0]
    assert source.exclude == ("Dockerfile", ".dockerignore")
    matcher = PathMatcher(source.exclude)
    assert matcher.excludes("Dockerfile")
    assert matcher.excludes(".dockerignore")


def ignore_only_local() -> None:
    text = B + "COPY a /\nCOPY --from=busybox b /\n"
    assert df.ops(text, GitSource, ignore="a\n", remote_context="https://h/x.git")[0].remote == "https://h/x.git"
    assert df.ops(text, LocalSource, ignore="a\n", remote_context="https://h/x.git") == []


def ignore_copied() -> None:
    assert [rule for rule, _, _ in df.warnings("# check=experimental=all\n" + B + "COPY a /\n", ignore="a\n")] == ["CopyIgnoredFile"]


def ignore_followed() -> None:
    text = B + "COPY src/main.go a* /x/\nCOPY src /y/\nADD http://h/f /z\n"
    source = df.ops(text, LocalSource, ignore="*.md\n")[0]
    assert source == LocalSource(name="context", follow=("a*", "src"), exclude=("*.md",))
    assert df.ops(text + "COPY . /all\n", LocalSource)[0].follow == ()


def context_local() -> None:
    found = [vertex for vertex in df.vertices(df.target(B + "COPY a /\nCOPY b /\n")) if isinstance(vertex.op, LocalSource)]
    assert [vertex.name for vertex in found] == ["[internal] load build context"]
    assert df.ops(B + "RUN a\n", LocalSource) == []
    below = df.target(B + "COPY a /\n", context_subdirectory="x/../sub/dir")
    assert [vertex.op.follow for vertex in df.vertices(below) if isinstance(vertex.op, LocalSource)] == [("sub/dir",)]
    narrowed, copied = [vertex for vertex in df.vertices(below) if isinstance(vertex.op, FileOp)]
    assert narrowed.op.actions[0].paths == ("/sub/dir",)
    assert narrowed in copied.inputs


def context_remote_file() -> None:
    text = B + "COPY a /\n"
    source = df.ops(text, HttpSource, remote_context="http://h/x.tar.gz")[0]
    assert source.url == "http://h/x.tar.gz"
    unpacking = df.ops(text, FileOp, remote_context="http://h/x.tar.gz")[0]
    assert unpacking.actions[0].unpack
    assert not unpacking.has_base


def context_git() -> None:
    expected = {
        "https://host/x.git#ref:sub": GitSource(remote="https://host/x.git", ref="ref", subdirectory="sub"),
        "git://host/x": GitSource(remote="git://host/x"), "ssh://git@host/x#v1": GitSource(remote="ssh://git@host/x", ref="v1"),
        "git@host:user/x.git#:d": GitSource(remote="git@host:user/x.git", subdirectory="d"),
        "github.com/user/x": GitSource(remote="https://github.com/user/x"),
    }
    for text, source in expected.items():
        assert git_source(text) == source, text
    assert git_source("https://host/x") is None
    assert git_source("plain/path.git") is None


def context_git_query() -> None:
    found = git_source("https://h/x.git?tag=v1&subdir=a/../b&commit=abc&keep-git-dir=1&submodules=false&mtime=commit&fetch-by-commit=true")
    assert found == GitSource(remote="https://h/x.git", ref="refs/tags/v1", subdirectory="b", checksum="abc", keep_git_dir=True,
                              submodules=False, mtime="commit", fetch_by_commit=True)
    assert git_source("https://h/x.git?branch=main") == GitSource(remote="https://h/x.git", ref="refs/heads/main")
    assert git_source("https://h/x.git?ref=main") == GitSource(remote="https://h/x.git", ref="main")
    for bad, words in (("?foo=1", "unexpected query"), ("?mtime=x", "invalid mtime value"), ("?ref=a#b", "ref conflicts"),
                       ("?submodules=x", "invalid submodules value")):
        with pytest.raises(DockerfileError, match=words):
            git_source(f"https://h/x.git{bad}")


class Layout(df.FakeClient):
    """A client with an OCI layout of one image."""

    CONFIG = images.encode(images.ImageConfigFile(os="linux", architecture="amd64", config=images.RunConfig(cmd=["layout"])))
    MANIFEST = images.encode(images.Manifest(config=images.Descriptor(media_type=images.OCI_CONFIG, digest="sha256:c", size=1),
                                             layers=[], media_type=images.OCI_MANIFEST))

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        assert store.removeprefix("oci:") == "store"
        data = {"sha256:m": self.MANIFEST, "sha256:c": self.CONFIG}[digest]

        async def chunks() -> AsyncIterator[bytes]:
            yield data[:10]
            yield data[10:]

        return chunks()


def named_contexts() -> None:
    text = "FROM scratch\nCOPY --from=other a /\n"
    local = df.ops(text, LocalSource, contexts={"other": "local:dir"}, client=df.FakeClient({("dir", ".dockerignore"): b"x\n"}))
    assert local == [LocalSource(name="dir", exclude=("x",))]
    assert df.ops(text, GitSource, contexts={"other": "https://h/x.git#v"})[0].ref == "v"
    assert df.ops(text, HttpSource, contexts={"other": "https://h/file"})[0].url == "https://h/file"
    assert df.ops(text, ImageSource, contexts={"other": "docker-image://busybox"})[0].reference == "docker.io/library/busybox:latest"
    layout = {"contexts": {"other": "oci-layout://store:tag@sha256:m"}, "client": Layout()}
    assert df.ops(text, OciLayoutSource, **layout)[0].digest == "sha256:m"
    assert df.config("FROM other\n", **layout).cmd == ["layout"]
    copies = df.ops(text, FileOp, contexts={"other": "local:dir"})[-1].actions
    assert not copies[0].keep_owner
    assert "[context other] load from client" in df.names(text, contexts={"other": "local:dir"})


def context_override() -> None:
    for name in ("busybox", "busybox:latest", "docker.io/library/busybox:latest"):
        fake = df.FakeImages({"mine": images.RunConfig(cmd=["mine"])})
        assert df.config("FROM busybox\n", images=fake, contexts={name: "docker-image://mine"}).cmd == ["mine"], name
    fake = df.FakeImages({"mine": images.RunConfig(cmd=["mine"])})
    text = "FROM busybox AS base\nRUN gone\nFROM base\nENV A=b\n"
    assert df.config(text, images=fake, contexts={"base": "docker-image://mine"}).cmd == ["mine"]
    assert not any("gone" in name for name in df.names(text, images=fake, contexts={"base": "docker-image://mine"}))


def history_of_buildkit() -> None:
    text = B + 'ARG A=1\nENV B=2\nRUN x\nCOPY a /b\nWORKDIR /w\nCMD ["x"]\nHEALTHCHECK --interval=5s --retries=3 CMD t\nEXPOSE 80\n'
    steps = df.target(text).steps
    assert [(step.created_by, step.vertex is None) for step in steps] == [
        ("ARG A=1", True), ("ENV B=2", True), ("RUN |1 A=1 /bin/sh -c x # buildkit", False), ("COPY a /b # buildkit", False),
        ("WORKDIR /w", False), ('CMD ["x"]', True),
        ("HEALTHCHECK &{[\"CMD-SHELL\" \"t\"] \"5s\" \"0s\" \"0s\" \"0s\" '\\x03'}", True), ("EXPOSE [80/tcp]", True)]
    assert {step.comment for step in steps} == {"buildkit.dockerfile.v0"}


def default_path() -> None:
    assert df.config("FROM scratch\n").env == [df.PATH]
    fake = df.FakeImages({"bare": images.RunConfig(env=["A=b"])})
    assert df.config("FROM bare\n", images=fake).env == ["A=b", df.PATH]
    assert df.config("FROM scratch\nENV PATH=/x\n").env == ["PATH=/x"]


def inherited() -> None:
    base = images.RunConfig(user="u", exposed_ports={"1/tcp": {}}, env=["A=b", df.PATH], entrypoint=["e"], cmd=["c"], volumes={"/v": {}},
                            working_dir="/w", labels={"l": "1"}, stop_signal="9", shell=["s"], stop_timeout=7,
                            healthcheck=images.Healthcheck(test=["NONE"]), on_build=["ENV Z=1"])
    found = df.config("FROM full\n", images=df.FakeImages({"full": base}))
    assert found.on_build is None
    assert found.env == ["A=b", df.PATH, "Z=1"]
    for name in ("user", "exposed_ports", "entrypoint", "cmd", "volumes", "working_dir", "labels", "stop_signal", "shell", "stop_timeout", "healthcheck"):
        assert getattr(found, name) == getattr(base, name), name


def working_dir() -> None:
    assert df.config(B + "WORKDIR /\n").working_dir == "/"
    assert df.config(B).working_dir == ""
    assert df.config("FROM scratch\n").working_dir == "/"


def labels() -> None:
    assert df.config(B + "LABEL a=1 b=2\n", labels={"a": "cli", "c": "3"}).labels == {"a": "cli", "b": "2", "c": "3"}


def run_environment() -> None:
    run = df.run_op(B + "ARG A=1\nENV B=2\nRUN x\n", build_args={"HTTP_PROXY": "p"})
    assert run.env == (df.PATH, "A=1", "B=2")
    assert run.unkeyed_env == ("HTTP_PROXY=p", "http_proxy=p")


ROWS: dict[str, Callable[[], None]] = {
    "ignore-02": ignore_lines, "ignore-03": ignore_comments, "ignore-04": ignore_cleaned, "ignore-05": ignore_globs,
    "ignore-06": ignore_stars, "ignore-07": ignore_negation, "ignore-08": ignore_directories, "ignore-09": ignore_dot,
    "ignore-10": ignore_dockerfile, "ignore-11": ignore_only_local, "ignore-12": ignore_copied, "ignore-13": ignore_followed,
    "context-01": context_local, "context-05": context_remote_file, "context-06": context_git, "context-07": context_git_query,
    "context-08": named_contexts, "context-09": context_override,
    "config-01": history_of_buildkit, "config-03": default_path, "config-04": inherited, "config-05": working_dir,
    "config-06": labels, "config-07": run_environment,
}


@pytest.mark.parametrize("row", ROWS)
def test_context(row: str) -> None:
    ROWS[row]()
