"""Rows of dockerfile.tsv on instructions: what each is planned as, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.build.graph import (
    OR_ROOT,
    CopyAction,
    FileOp,
    GitSource,
    HttpSource,
    LocalSource,
    MakeDirectoryAction,
    MergeOp,
    RunOp,
)
from pallet.spec.image import Healthcheck, RunConfig
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.conformance

B = "FROM busybox\n"
SECOND = 10**9
SUM = "sha256:" + "a" * 64


def copied(text: str, **options: object) -> CopyAction:
    """The only copy of the last file operation."""
    operation = df.ops(B + text, FileOp, **options)[-1]
    (action,) = operation.actions
    assert isinstance(action, CopyAction)
    return action


def refused(text: str, words: str, **options: object) -> bool:
    message = str(df.failure(text, **options))
    assert words in message, message
    return True


def health(flags: str) -> Healthcheck:
    found = df.config(f"{B}HEALTHCHECK {flags} CMD true\n").healthcheck
    assert found is not None
    return found


def from_forms() -> None:
    assert df.names("FROM busybox AS Build\nFROM build\nRUN a\n")[0] == "[build 1/1] FROM docker.io/library/busybox:latest"
    assert df.names("FROM scratch\nENV A=b\n") == []
    assert refused("FROM\n", "dockerfile parse error on line 1: FROM requires either one or three arguments")
    assert refused("FROM busybox as 1a\n", 'invalid name for build stage: "1a", name can\'t start with a number or contain symbols')
    assert refused("LABEL a=b\nFROM busybox\n", "no build stage in current context")
    assert refused("FROM nosuch\n", "nosuch: docker.io/library/nosuch:latest: not found")
    assert refused("FROM BUSYBOX\n", 'failed to parse stage name "BUSYBOX": invalid reference format')
    assert refused("FROM $nothing\n", "base name ($nothing) should not be blank")
    shared = df.FakeImages({"build": RunConfig(cmd=["wrong"])})
    assert df.config("FROM busybox AS build\nFROM build\n", images=shared).cmd == ["sh"]


def from_platform() -> None:
    images = df.FakeImages()
    df.planned("FROM --platform=$BUILDPLATFORM busybox AS a\nFROM busybox\nCOPY --from=a /x /x\n",
               images=images, platforms=(df.ARM64,))
    asked = {platform for _, platform, _ in images.asked}
    assert "linux/arm64" in asked
    assert len(asked) == 2
    df.planned("ARG P=linux/s390x\nFROM --platform=$P busybox\n", images=images)
    assert images.asked[-1][1] == "linux/s390x"
    assert refused("FROM --platform=a busybox\n", 'failed to parse platform a: "a": unknown operating system or architecture')
    assert refused("FROM --platform=$TARGETPLATFORMS busybox\n",
                   "empty platform value from expression $TARGETPLATFORMS (did you mean TARGETPLATFORM?)")


def run_forms() -> None:
    assert df.run_op(B + "RUN make $A\n").args == ("/bin/sh", "-c", "make $A")
    assert df.run_op(B + 'ENV A=b\nRUN ["make", "$A"]\n').args == ("make", "$A")
    assert df.run_op(B + 'SHELL ["/bin/sh","-e","-c"]\nRUN a\n').args == ("/bin/sh", "-e", "-c", "a")
    assert df.run_op(B + "RUN <<EOF\na\nEOF\n").args == ("/bin/sh", "-c", "a\n")


def run_mount() -> None:
    mounts = df.run_op(B + "RUN --mount=target=/a --mount=type=cache,target=/b,ro true\n").mounts
    assert [(mount.kind, mount.readonly) for mount in mounts] == [("bind", True), ("cache", True)]
    assert refused(B + "RUN --mount=type=disk,target=/a true\n", 'unsupported mount type "disk"')


def run_network() -> None:
    assert df.run_op(B + "RUN a\n").network == "default"
    assert df.run_op(B + "RUN --network=none a\n").network == "none"
    assert df.run_op(B + "RUN a\n", network="none").network == "none"
    assert df.run_op(B + "RUN --network=host a\n", entitlements=frozenset({"network.host"})).network == "host"
    assert refused(B + "RUN --network=host a\n", "network.host is not allowed")
    assert refused(B + "RUN --network=x a\n", 'dockerfile parse error on line 2: invalid network mode "x"')


def run_security() -> None:
    assert df.run_op(B + "RUN --security=sandbox a\n").security == "sandbox"
    allowed = frozenset({"security.insecure"})
    assert df.run_op(B + "RUN --security=insecure a\n", entitlements=allowed).security == "insecure"
    assert refused(B + "RUN --security=insecure a\n", "security.insecure is not allowed")


def run_device() -> None:
    assert df.run_op(B + "RUN --device=vendor.com/gpu=all,required a\n").devices == ("vendor.com/gpu=all,required",)


def cmd() -> None:
    assert df.config(B + 'CMD ["a","b"]\n').cmd == ["a", "b"]
    shell = df.config(B + "CMD one\nCMD two $A\n")
    assert shell.cmd == ["/bin/sh", "-c", "two $A"]
    assert shell.args_escaped
    assert df.history(B + 'CMD echo "hi"\n') == ['CMD ["/bin/sh" "-c" "echo \\"hi\\""]']


def entrypoint() -> None:
    assert df.config(B + 'ENTRYPOINT ["x"]\n').cmd is None
    assert df.config(B + "CMD a\nENTRYPOINT x\n").cmd == ["/bin/sh", "-c", "a"]
    assert df.config(B + "CMD a\nENTRYPOINT x\n").entrypoint == ["/bin/sh", "-c", "x"]
    assert df.config("FROM busybox AS a\nCMD a\nFROM a\nENTRYPOINT x\n").cmd is None


def label() -> None:
    base = df.FakeImages({"labelled": RunConfig(labels={"k": "base", "keep": "1"})})
    labels = df.config('FROM labelled\nLABEL k=v "k 2"="v 2"\nLABEL legacy one  two\n', images=base).labels
    assert labels == {"k": "v", "keep": "1", "k 2": "v 2", "legacy": "one  two"}
    assert refused(B + "LABEL a\n", "LABEL must have two arguments")


def maintainer() -> None:
    assert df.target(B + "MAINTAINER me <a@b>\n").config.author == "me <a@b>"
    assert df.target(B).config.author == "base"


def expose() -> None:
    text = B + "ENV P=90/UDP\nEXPOSE 80 70-72/sctp $P 127.0.0.1:1:2\n"
    assert sorted(df.config(text).exposed_ports or {}) == ["2/tcp", "70/sctp", "71/sctp", "72/sctp", "80/tcp", "90/udp"]
    assert refused(B + "EXPOSE a\n", "invalid containerPort: a")
    assert refused(B + "EXPOSE a:1:2\n", "invalid IP address: a")
    assert refused(B + "EXPOSE 1/icmp\n", "invalid proto: icmp")


def env() -> None:
    assert df.environment(B + "ENV A=1\nENV A=2 B=$A\nENV C one  two\n") == {"A": "2", "B": "1", "C": "one  two"}
    assert refused(B + "ENV a\n", "ENV must have two arguments")
    assert refused(B + "ENV a=b c\n", "Syntax error - can't find = in \"c\". Must be of the form: name=value")


def add_form() -> None:
    text = B + "ADD a.tar http://host/dir/f.txt https://github.com/a/b.git#main <<E /x/\nhi\nE\n"
    operation = df.ops(text, FileOp)[-1]
    assert [(action.paths, action.unpack) for action in operation.actions] == [
        (("/a.tar",), True), (("/f.txt",), False), (("/",), False), (("/E",), False)]
    assert df.ops(text, HttpSource)[0].url == "http://host/dir/f.txt"
    assert df.ops(text, GitSource)[0].ref == "main"
    assert copied('ADD ["a b", "/x y/"]\n').paths == ("/a b",)
    assert df.ops(B + "ADD http://host/dir/f.txt /name\n", HttpSource)[0].filename == "__unnamed__"


def chown_add() -> None:
    assert copied("ENV U=app\nADD --chown=$U:grp a /\n").owner == f"app{OR_ROOT}:grp{OR_ROOT}"
    assert copied("ADD a /\n").owner == ""


def chmod_add() -> None:
    assert copied("ADD --chmod=0640 a /\n").mode == "0640"
    assert copied("ARG M=u=rwX,go=rX\nADD --chmod=$M a /\n").mode == "u=rwX,go=rX"
    assert refused(B + "ADD --chmod=77777 a /\n", "invalid chmod parameter: '77777'. it should be octal string and between 0 and 07777")


def link_add() -> None:
    found = df.vertices(df.target(B + "ADD --link a /x\n"))
    assert isinstance(found[-1].op, MergeOp)
    assert not next(vertex.op for vertex in found if isinstance(vertex.op, FileOp)).has_base


def keep_git_dir() -> None:
    assert df.ops(B + "ADD --keep-git-dir=true https://h/a.git /x\n", GitSource)[0].keep_git_dir
    assert not df.ops(B + "ADD https://h/a.git /x\n", GitSource)[0].keep_git_dir


def checksum() -> None:
    assert df.ops(B + f"ADD --checksum={SUM} http://h/a /x\n", HttpSource)[0].checksum == SUM
    assert df.ops(B + "ADD --checksum=abcdef1 https://h/a.git /x\n", GitSource)[0].checksum == "abcdef1"
    assert refused(B + f"ADD --checksum={SUM}a http://h/a /x\n", "invalid checksum digest length")
    assert refused(B + "ADD --checksum=x http://h/a /x\n", "invalid checksum digest format")
    assert refused(B + f"ADD --checksum={SUM} a /x\n", "checksum requires HTTP(S) or Git sources")
    assert refused(B + f"ADD --checksum={SUM} http://h/a http://h/b /x/\n", "checksum can't be specified for multiple sources")


def unpack() -> None:
    assert copied("ADD a /\n").unpack
    assert not copied("ADD --unpack=false a /\n").unpack
    assert copied("ADD --unpack=true http://h/a.tar /\n").unpack
    assert not copied("ADD http://h/a.tar /\n").unpack


def exclude_add() -> None:
    assert copied("ADD --exclude=*.md --exclude=docs a /\n").exclude == ("*.md", "docs")


def copy_form() -> None:
    text = B + "WORKDIR /w\nCOPY a b* ../../c ./d/\n"
    operation = df.ops(text, FileOp)[-1]
    assert [(action.paths, action.dest) for action in operation.actions] == [
        (("/a",), "/w/d/"), (("/b*",), "/w/d/"), (("/c",), "/w/d/")]
    assert df.ops(text, LocalSource)[0].follow == ("a", "b*", "c")
    assert copied("COPY . .\n").dest == "/"
    assert refused(B + "COPY a\n", "COPY requires at least two arguments, but only one was provided. Destination could not be determined")
    assert refused(B + "COPY a <<E\nE\n", "COPY cannot accept a heredoc as a destination")


def copy_from() -> None:
    stage = df.vertices(df.target("FROM busybox AS one\nRUN a\nFROM scratch\nCOPY --from=One /a /a\nCOPY --from=0 /b /b\n"))
    assert sum(isinstance(vertex.op, RunOp) for vertex in stage) == 1
    images = df.FakeImages({"tools": RunConfig()})
    df.planned("FROM busybox\nCOPY --from=tools /a /a\n", images=images)
    assert "docker.io/library/tools:latest" in {reference for reference, _, _ in images.asked}
    assert refused(B + "COPY --from=5 a b\n", "invalid stage index 5")
    assert refused(B + "COPY --from=$X a b\n", "variable expansion is not supported for --from")
    assert refused(B + "COPY --from=0 a b\n", "circular dependency detected on stage: stage-0")
    assert refused("FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nFROM a\n",
                   'cannot copy from stage "b", it needs to be defined before current stage "a"')


def chown_copy() -> None:
    assert copied("COPY --chown=1:2 a /\n").owner == "1:2"
    assert copied("COPY --from=busybox a /\n").keep_owner
    assert not copied("COPY a /\n").keep_owner
    assert df.history(B + "COPY --chown=1:2 a /\n") == ["COPY --chown=1:2 a / # buildkit"]


def chmod_copy() -> None:
    assert copied("COPY --chmod=755 a /\n").mode == "755"
    assert copied("COPY --chmod=a+x a /\n").mode == "a+x"
    assert refused(B + "COPY --chmod=9 a /\n", "invalid chmod parameter")
    assert refused(B + "COPY --chmod=q a /\n", "invalid syntax")


def link_copy() -> None:
    merged = df.target(B + "COPY --link a /x\n").vertex
    assert isinstance(merged.op, MergeOp)
    assert merged.name == "[2/2] LINK COPY --link a /x"
    assert isinstance(df.target(B + "COPY --link --chmod=600 a /x\n").vertex.op, FileOp)


def parents() -> None:
    actions = df.ops(B + "COPY --parents ./a/./b/c d/**/e /x/\n", FileOp)[-1].actions
    assert [(item.paths, item.parents) for item in actions] == [(("/a/./b/c",), True), (("/d/**/e",), True)]


def exclude_copy() -> None:
    assert copied("ARG E=a\nCOPY --exclude=*.log --exclude=$E . /\n").exclude == ("*.log", "$E")


def volume() -> None:
    assert df.config(B + 'VOLUME /a /b\nVOLUME ["/c d"]\n').volumes == {"/a": {}, "/b": {}, "/c d": {}}
    assert refused(B + 'VOLUME [""]\n', "VOLUME specified can not be an empty string")


def user() -> None:
    assert df.config(B + "ENV U=app\nUSER $U:grp\n").user == "app:grp"
    assert df.run_op(B + "USER 1:2\nRUN a\n").user == "1:2"


def workdir() -> None:
    text = B + "USER app\nWORKDIR a\nWORKDIR ../b/c\nWORKDIR /\n"
    assert [action for operation in df.ops(text, FileOp) for action in operation.actions] == [
        MakeDirectoryAction(path=path, owner=f"app{OR_ROOT}") for path in ("/a", "/b/c")]
    assert df.config(text).working_dir == "/"
    assert [step.vertex is None for step in df.target(text).steps] == [True, False, False, True]
    assert df.run_op(B + "WORKDIR x\nRUN a\n").cwd == "/x"


def arg() -> None:
    text = "ARG G=g\nARG H=h\nFROM busybox AS a\nARG G\nARG A=1 B C=$A$G\nRUN x\nFROM a\nRUN y $H\n"
    assert df.history(text)[-1] == "RUN |4 G=g A=1 B= C=1g /bin/sh -c y $H # buildkit"
    assert set(df.run_op(text).env) == {df.PATH, "G=g", "A=1", "C=1g"}
    assert df.environment(text) == {}


def onbuild() -> None:
    assert df.config(B + "ONBUILD RUN  echo  hi\nONBUILD copy a /b\n").on_build == ["RUN  echo  hi", "copy a /b"]
    images = df.FakeImages({"parent": RunConfig(on_build=["ENV A=b", "RUN make $A"], env=[df.PATH])})
    text = "FROM parent\nRUN true\n"
    assert df.config(text, images=images).on_build is None
    assert df.names(text, images=images)[1:] == ["[2/4] ONBUILD RUN make b", "[3/4] RUN true"]
    for bad in ("ONBUILD RUN x", "FROM x", "MAINTAINER x"):
        assert refused(f"{B}ONBUILD {bad}\n", "isn't allowed")


def onbuild_from() -> None:
    images = df.FakeImages({"parent": RunConfig(on_build=["COPY --from=tools /a /a"])})
    found = df.vertices(df.target("FROM busybox AS tools\nRUN t\nFROM parent\n", images=images))
    assert any(isinstance(vertex.op, RunOp) for vertex in found)


def stop_signal() -> None:
    assert df.config(B + "ENV S=SIGRTMIN+3\nSTOPSIGNAL $S\n").stop_signal == "SIGRTMIN+3"
    assert df.config(B + "STOPSIGNAL 65\n").stop_signal == "65"
    assert refused(B + "STOPSIGNAL 0\n", "invalid signal: 0")
    assert refused(B + "STOPSIGNAL FOO\n", "invalid signal: FOO")


def health_cmd() -> None:
    assert df.config(B + "HEALTHCHECK CMD a $B\n").healthcheck == Healthcheck(test=["CMD-SHELL", "a $B"])
    assert df.config(B + 'HEALTHCHECK CMD a\nHEALTHCHECK CMD ["b"]\n').healthcheck == Healthcheck(test=["CMD", "b"])
    assert refused(B + "HEALTHCHECK CMD\n", "Missing command after HEALTHCHECK CMD")
    assert refused(B + "HEALTHCHECK FOO\n", 'Unknown type "FOO" in HEALTHCHECK (try CMD)')


def health_none() -> None:
    assert df.config(B + "HEALTHCHECK NONE\n").healthcheck == Healthcheck(test=["NONE"])
    assert refused(B + "HEALTHCHECK NONE a\n", "HEALTHCHECK NONE takes no arguments")


def shell() -> None:
    found = df.config(B + 'SHELL ["/bin/ash","-c"]\nCMD a\nENTRYPOINT b\n')
    assert (found.shell, found.cmd, found.entrypoint) == (["/bin/ash", "-c"], ["/bin/ash", "-c", "a"], ["/bin/ash", "-c", "b"])
    assert refused(B + "SHELL []\n", "SHELL requires at least one argument")
    assert refused(B + "SHELL a\n", "SHELL requires the arguments to be in JSON form")


def interval(name: str, field: str) -> Callable[[], None]:
    def check() -> None:
        assert getattr(health(f"--{name}=1m30s"), field) == 90 * SECOND
        assert getattr(health(f"--{name}=0s"), field) == 0
        assert refused(f"{B}HEALTHCHECK --{name}=1us CMD a\n", f'Interval "{name}" cannot be less than 1ms')
        assert refused(f"{B}HEALTHCHECK --{name}=x CMD a\n", 'time: invalid duration "x"')
    return check


def retries() -> None:
    assert health("--retries=4").retries == 4
    assert refused(B + "HEALTHCHECK --retries=-1 CMD a\n", "--retries cannot be negative (-1)")


ROWS: dict[str, Callable[[], None]] = {
    "inst-01": from_forms, "inst-02": from_platform, "inst-03": run_forms, "inst-04": run_mount,
    "inst-05": run_network, "inst-06": run_security, "inst-07": run_device, "inst-08": cmd,
    "inst-09": entrypoint, "inst-10": label, "inst-11": maintainer, "inst-12": expose, "inst-13": env,
    "inst-14": add_form, "inst-15": chown_add, "inst-16": chmod_add, "inst-17": link_add,
    "inst-18": keep_git_dir, "inst-19": checksum, "inst-20": unpack, "inst-21": exclude_add,
    "inst-22": copy_form, "inst-23": copy_from, "inst-24": chown_copy, "inst-25": chmod_copy,
    "inst-26": link_copy, "inst-27": parents, "inst-28": exclude_copy, "inst-29": volume, "inst-30": user,
    "inst-31": workdir, "inst-32": arg, "inst-33": onbuild, "inst-34": onbuild_from,
    "inst-35": stop_signal, "inst-36": health_cmd, "inst-37": health_none,
    "inst-38": interval("interval", "interval"), "inst-39": interval("timeout", "timeout"),
    "inst-40": interval("start-period", "start_period"),
    "inst-41": interval("start-interval", "start_interval"), "inst-42": retries, "inst-43": shell,
}


@pytest.mark.parametrize("row", ROWS)
def test_instruction(row: str) -> None:
    ROWS[row]()
