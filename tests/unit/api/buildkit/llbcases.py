"""Definitions of every kind, and what dockerd 28.5.2's BuildKit makes of them (``tests/e2e/golden/llb.json``).

``python -m tests.unit.api.buildkit.llbcases SOCKET`` records them again from an engine that has ``busybox:latest``.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pallet.api.buildkit.status import GrpcError
from pallet.api.buildkit.wire import llb_pb2 as pb
from tests.unit.api.buildkit.llbclient import Graph, LlbClient, copy, link, mkdir, mkfile, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Case = Callable[[Graph], pb.Input]

GOLDEN = Path(__file__).parents[3] / "e2e/golden/llb.json"
DAY = 86400 * 10**9 * 100
BUSYBOX = "docker-image://docker.io/library/busybox:latest"
OUT = pb.Mount(input=-1, dest="/out", output=1)
_PATHS = re.compile(r"/\S*?/(?:diff|merged)(?=/)")
_REFS = re.compile(r"ref \S+::\S+:")
_BIG = {"bin", "dev", "home", "proc", "root", "srv", "sys", "tmp", "usr", "var", "lib", "lib64"}


def root(**fields: Any) -> pb.Mount:
    """The first input as the root."""
    return pb.Mount(input=0, dest="/", output=0, **fields)


def tree(graph: Graph) -> pb.Input:
    """Files to copy."""
    return graph.file([], mkdir("/s/in/deep", makeParents=True, output=-1, mode=0o750),
                      mkfile("/s/a.txt", "a", base=0, output=-1, mode=0o640),
                      mkfile("/s/in/b.txt", "b", base=1, output=-1),
                      mkfile("/s/in/deep/c.md", "c", base=2, output=-1), link("a.txt", "/s/l", base=3, output=-1),
                      link("in", "/s/ld", base=4, output=-1), mkfile("/s/x y", "sp", base=5, time_ns=DAY))


def _copies() -> dict[str, Case]:
    def case(src: str, dest: str, below: pb.FileAction | None = None, **fields: Any) -> Case:
        def make(graph: Graph) -> pb.Input:
            source = tree(graph)
            if below is None:
                return graph.file([source], copy(0, src, dest, **fields))
            return graph.file([graph.file([], below), source], copy(1, src, dest, base=0, **fields))

        return make

    wild = {"allowWildcard": True, "createDestPath": True}
    return {
        "plain": case("/s/a.txt", "/z"), "into": case("/s/a.txt", "/z/"),
        "into what is there": case("/s/a.txt", "/z", mkdir("/z")),
        "no parent": case("/s/a.txt", "/y/z"), "parent": case("/s/a.txt", "/y/z", createDestPath=True),
        "directory": case("/s", "/z"), "directory into": case("/s", "/z/", createDestPath=True),
        "directory into what is there": case("/s", "/z", mkdir("/z", mode=0o711)),
        "directory onto its like": case("/s", "/z", mkdir("/z/s", mode=0o711, makeParents=True)),
        "directory onto a file": case("/s", "/z", mkfile("/z", "f")),
        "file onto a directory": case("/s/a.txt", "/z", mkdir("/z/a.txt", makeParents=True)),
        "directory onto a file, replacing": case("/s", "/z", mkfile("/z", "f"), alwaysReplaceExistingDestPaths=True),
        "file onto a directory, replacing": case("/s/a.txt", "/z", mkdir("/z/a.txt", makeParents=True),
                                                 alwaysReplaceExistingDestPaths=True),
        "contents over a file, replacing": case("/s", "/", mkfile("/in", "f"), dirCopyContents=True,
                                                alwaysReplaceExistingDestPaths=True),
        "contents over directories, replacing": case("/s", "/z", mkdir("/z/a.txt/b", makeParents=True),
                                                     dirCopyContents=True, alwaysReplaceExistingDestPaths=True),
        "contents": case("/s", "/z/w", dirCopyContents=True, createDestPath=True),
        "the root": case("/", "/r"), "the root's contents": case("/", "/", dirCopyContents=True),
        "link": case("/s/l", "/z"), "link followed": case("/s/l", "/z", followSymlink=True),
        "link of a directory": case("/s/ld", "/z"),
        "link of a directory followed": case("/s/ld", "/z", followSymlink=True),
        "contents behind a link": case("/s/ld", "/z", followSymlink=True, dirCopyContents=True),
        "wildcards": case("/s/*.txt", "/z/", **wild), "wildcards of directories": case("/s/i*", "/z/", **wild),
        "wildcards for nothing": case("/s/*.nope", "/z/", **wild),
        "wildcards for nothing, allowed": case("/s/*.nope", "/z/", allowEmptyWildcard=True, **wild),
        "no wildcards": case("/s/*.txt", "/z/", createDestPath=True), "missing": case("/nope", "/z"),
        "include": case("/s", "/z", include_patterns=["**/*.md"], dirCopyContents=True),
        "include some": case("/s", "/z", include_patterns=["in/*", "*.txt"]),
        "include and exclude": case("/s", "/z", include_patterns=["**/*.txt"], exclude_patterns=["in"]),
        "include nothing": case("/s", "/z", include_patterns=["nope"], dirCopyContents=True),
        "exclude": case("/s", "/z", exclude_patterns=["**/*.txt"]),
        "mode": case("/s", "/z", mode=0o711), "symbolic mode": case("/s", "/z", modeStr="go-rwx"),
        "time": case("/s", "/z", time_ns=DAY),
        "owner": case("/s", "/z", owner=pb.ChownOpt(user=pb.UserOpt(byID=5), group=pb.UserOpt(byID=6)))}


def _files() -> dict[str, Case]:
    def one(*actions: pb.FileAction, index: int = 0) -> Case:
        return lambda graph: graph.file([], *actions, index=index)

    def owners(graph: Graph) -> pb.Input:
        seven, app = pb.UserOpt(byID=7), pb.UserOpt(byName=pb.NamedUserOpt(name="app", input=0))
        return graph.file([graph.source(BUSYBOX)], mkfile("/a", "x", base=0, output=-1, owner=pb.ChownOpt(user=seven)),
                          mkfile("/b", "x", base=1, output=-1, owner=pb.ChownOpt(user=app)),
                          mkdir("/c", base=2, output=-1, owner=pb.ChownOpt(user=seven, group=pb.UserOpt(byID=9))),
                          mkfile("/d", "x", base=3, owner=pb.ChownOpt(group=pb.UserOpt(byID=5))))

    def two_outputs(graph: Graph) -> pb.Input:
        actions = mkfile("/a", "x"), mkfile("/b", "y", output=1)
        return graph.file([graph.file([], *actions), graph.file([], *actions, index=1)], copy(1, "/b", "/c", base=0))

    def removed(graph: Graph) -> pb.Input:
        below = graph.file([], mkdir("/a/b/c", makeParents=True, output=-1), mkfile("/a/b/f", "x", base=0, output=-1),
                           mkfile("/k1", "y", base=1, output=-1), mkfile("/k2", "y", base=2, output=-1),
                           mkfile("/l", "z", base=3))
        return graph.file([below], remove("/a", output=-1), remove("/k*", base=1, allowWildcard=True))

    return {
        "files": one(mkdir("/d", output=-1), mkfile("/d/a", "one", base=0, output=-1, mode=0o600),
                     link("a", "/d/l", base=1, output=-1),
                     mkdir("/x/y/z", base=2, output=-1, makeParents=True, mode=0o700),
                     mkfile("/t", "t", base=3, time_ns=DAY)),
        "a file without its directory": one(mkfile("/no/a", "x")),
        "a directory without its parent": one(mkdir("/no/a")),
        "a directory that is there": one(mkdir("/a", output=-1, mode=0o700), mkdir("/a", base=0)),
        "a file that is there": one(mkfile("/a", "long text", output=-1, mode=0o600),
                                    mkfile("/a", "s", base=0, mode=0o755)),
        "a file where a directory is": one(mkdir("/a", output=-1), mkfile("/a", "s", base=0)),
        "a link where a file is": one(mkfile("/a", "x", output=-1), link("b", "/a", base=0)),
        "removing nothing": one(mkdir("/a", output=-1), remove("/b", base=0)),
        "removing nothing, allowed": one(mkdir("/a", output=-1), remove("/b", base=0, allowNotFound=True)),
        "removing the root": one(mkdir("/a", output=-1), remove("/", base=0)),
        "removing": removed, "owners": owners, "two outputs": two_outputs,
        "no such output": one(mkfile("/a", "x"), index=5), "no such input": one(mkfile("/a", "x", base=4))}


def _layers() -> dict[str, Case]:
    def pair(graph: Graph) -> list[pb.Input]:
        return [graph.file([], mkfile(f"/{name}", name, output=-1), mkfile("/s", name, base=0)) for name in "ab"]

    def merged(graph: Graph, *inputs: pb.Input) -> pb.Input:
        return graph.add(pb.Op(inputs=inputs, merge=pb.MergeOp(
            inputs=[pb.MergeInput(input=number) for number, _ in enumerate(inputs)])))

    def difference(graph: Graph, lower: pb.Input, upper: pb.Input) -> pb.Input:
        return graph.add(pb.Op(inputs=[lower, upper], diff=pb.DiffOp(
            lower=pb.LowerDiffInput(input=0), upper=pb.UpperDiffInput(input=1))))

    def grown(graph: Graph) -> pb.Input:
        base = graph.source(BUSYBOX)
        upper = graph.file([base], mkfile("/new", "y", base=0, output=-1), remove("/etc/group", base=1))
        return difference(graph, base, upper)

    def carried(graph: Graph) -> pb.Input:
        lower, _ = pair(graph)
        upper = graph.file([lower], mkfile("/b", "y", base=0, output=-1), remove("/a", base=1))
        other = graph.file([], mkfile("/a", "other", output=-1), mkfile("/q", "1", base=0))
        return merged(graph, other, difference(graph, lower, upper))

    return {"merge": lambda graph: merged(graph, *pair(graph)),
            "merge on a shared base": lambda graph: merged(graph, *(
                graph.file([graph.file([], mkfile("/base", "b"))], mkfile(f"/{name}", name, base=0)) for name in "ab")),
            "difference of strangers": lambda graph: difference(graph, *pair(graph)),
            "difference to a base": grown, "difference carried elsewhere": carried}


def _commands() -> dict[str, Case]:
    def case(command: str, *mounts: pb.Mount, index: int = 1, inputs: Sequence[Case] = (), first: pb.Mount | None = None,
             **fields: Any) -> Case:
        return lambda graph: graph.run(command, [graph.source(BUSYBOX), *(one(graph) for one in inputs)],
                                       [first or root(), *mounts], index=index, **fields)

    def several(*, ignore_cache: bool) -> Case:
        def make(graph: Graph) -> pb.Input:
            base, mounts = graph.source(BUSYBOX), [root(), OUT, pb.Mount(input=-1, dest="/o2", output=2)]
            command = f"head -c 8 /dev/urandom | md5sum > /out/r; cp /out/r /o2/r; : {ignore_cache}"
            outputs = [graph.run(command, [base], mounts, index=index, ignore_cache=ignore_cache) for index in (1, 2)]
            return graph.run("cmp /a/r /b/r && echo same > /out/f", [base, *outputs], [
                root(), OUT, *(pb.Mount(input=number, dest=path, readonly=True, output=-1)
                               for number, path in ((1, "/a"), (2, "/b")))], index=1)

        return make

    def secret(name: str, **fields: Any) -> pb.Mount:
        return pb.Mount(input=-1, dest="/s", mountType=pb.SECRET, output=-1, secretOpt=pb.SecretOpt(ID=name, **fields))

    return {
        "a mount is the result": case("echo hi > /out/f; mkdir /out/d", OUT),
        "mounts of an input": case(
            "echo hi > /out/f; rm /out/s/a.txt; ls /ro > /out/ls; touch /ro/x 2>/dev/null || echo ro >> /out/ls",
            pb.Mount(input=1, dest="/out", output=1),
            pb.Mount(input=1, dest="/ro", selector="/s", readonly=True, output=-1), inputs=[tree]),
        "what nobody wants of a mount": case("echo x > /m/new; ls /m > /out/f", OUT,
                                             pb.Mount(input=1, dest="/m", output=-1), inputs=[tree]),
        "tmpfs": case('touch /t/x; mount | grep -c " /t " > /out/n', OUT,
                      pb.Mount(input=-1, dest="/t", mountType=pb.TMPFS, output=-1)),
        "valid exit codes": case("echo x > /out/a; exit 7", OUT, meta={"validExitCodes": [0, 7]}),
        "failure": case("exit 7", OUT),
        "hosts, name, limits": case("grep one /etc/hosts > /out/h; hostname >> /out/h; ulimit -n >> /out/h", OUT, meta={
            "extraHosts": [pb.HostIP(Host="one", IP="1.2.3.4")], "hostname": "hh",
            "ulimit": [pb.Ulimit(Name="nofile", Soft=99, Hard=100)]}),
        "user and directory": case("id -u > /out/u; id -g >> /out/u; pwd >> /out/u", OUT,
                                   meta={"user": "0:5", "cwd": "/tmp"}),
        "no network": case("ls /sys/class/net > /out/n", OUT, network=pb.NONE),
        "host's network": case("true", OUT, network=pb.HOST), "insecure": case("true", OUT, security=pb.INSECURE),
        "secret": case('cat /s > /out/s; stat -c "%a %u %g" /s >> /out/s; echo $E >> /out/s', OUT,
                       secret("one", mode=0o440, uid=3, gid=4), secretenv=[pb.SecretEnv(ID="one", name="E")]),
        "no secret": case("true", OUT, secret("no")),
        "no secret, allowed": case("ls /s > /out/x 2>&1 || true", OUT, secret("no", optional=True)),
        "cache": case("echo x >> /c/f; wc -l < /c/f > /out/n", OUT, pb.Mount(
            input=-1, dest="/c", mountType=pb.CACHE, output=-1, cacheOpt=pb.CacheOpt(ID="llb", sharing=pb.LOCKED))),
        "no such output of a command": case("true", index=3),
        "a read-only mount as an output": case("true", pb.Mount(input=1, dest="/r", readonly=True, output=1),
                                               inputs=[tree]),
        "the root is the result": case("echo x > /rootfile; rm /etc/group", index=0),
        "read-only root": case("touch /x 2>/out/e; true", OUT, first=root(readonly=True)),
        "two outputs of one run": several(ignore_cache=False), "two outputs, no cache": several(ignore_cache=True)}


def _sources() -> dict[str, Case]:
    def nested(graph: Graph) -> pb.Input:
        inner = Graph()
        data = inner.end(inner.file([], mkfile("/nested", "n"))).SerializeToString()
        made = graph.add(pb.Op(file=pb.FileOp(actions=[pb.FileAction(
            input=-1, secondaryInput=-1, output=0, mkfile=pb.FileActionMkFile(
                path="/buildkit.llb.definition", data=data, mode=0o644, timestamp=-1))])))
        return graph.add(pb.Op(inputs=[made], build=pb.BuildOp(builder=-1, inputs={
            "buildkit.llb.definition": pb.BuildInput(input=0)})))

    return {
        "no scheme": lambda graph: graph.source("nothing"), "unknown scheme": lambda graph: graph.source("magic://x"),
        "a client's tree": lambda graph: graph.source("local://ctx"),
        "a client's tree copied": lambda graph: graph.file([graph.source("local://ctx")], copy(
            0, "/", "/z", dirCopyContents=True, createDestPath=True)),
        "an input that is missing": lambda _: pb.Input(digest="sha256:" + "0" * 64),
        "a definition in a file": nested,
        "another builder": lambda graph: graph.add(pb.Op(inputs=[graph.file([], mkfile("/x", "x"))], build=pb.BuildOp(
            builder=3, inputs={"buildkit.llb.definition": pb.BuildInput(input=0)})))}


CASES: dict[str, Case] = {
    **{f"copy {name}": case for name, case in _copies().items()}, **_files(), **_layers(), **_commands(), **_sources()}


async def outcome(socket: Path, case: Case) -> Any:
    """What an engine makes of a case: entries by path (of an image only what is no part of it), or the error."""
    async with LlbClient(socket) as client:
        client.session.secrets["one"] = b"word"
        client.session.trees["ctx"] = {"a.txt": b"A", "b.md": b"B"}
        graph = Graph()
        try:
            found = await client.tree(graph.end(case(graph)))
        except GrpcError as error:
            return _REFS.sub("ref R:", _PATHS.sub("", error.message))
    if "bin/busybox" in found:
        found = {path: entry for path, entry in found.items() if path.split("/")[0] not in _BIG}
    return {path: [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in entry]
            for path, entry in sorted(found.items())}


async def _record(socket: Path) -> None:
    found = {name: await outcome(socket, case) for name, case in CASES.items()}
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(_record(Path(sys.argv[1])))
