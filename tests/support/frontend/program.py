"""A front end for tests: runs in its image, reads a file of its own small language, drives the bridge.

The file's first line names the front end; each further one is a word with arguments:

    say TEXT            to standard error
    exec COMMAND        a step on busybox that writes to a mount, which is the result
    config KEY=VALUE    a label of the result's config
    file NAME TEXT      a file on top of the result
    inner FILE          the result of the built-in front end on another file
    input NAME          the result of an input
    read PATH           evaluate, read a file of the result, and put it into /read
    env                 the environment as the result's /env
    warn TEXT           a warning
    fail TEXT           return an error
    failing COMMAND     solve a step that fails, and return its error as it came
    crash CODE          end without a word
    hang                never end
    again IMAGE         ask another image
    platforms NAME…     a result for each of these platforms
    context PATH        a file of the client's context
    on                  go on with what ``inner`` came to
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from pallet.api.buildkit.grpc import Client
from pallet.api.buildkit.status import GrpcError
from pallet.api.buildkit.wire import gateway_pb2 as gw
from pallet.api.buildkit.wire import llb_pb2 as pb

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
SHELL = ["/bin/sh", "-c"]
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class Graph:
    """A definition that is being made."""

    def __init__(self) -> None:
        self.ops: list[bytes] = []
        self.names: dict[str, str] = {}

    def add(self, op: pb.Op, name: str = "") -> pb.Input:
        data = op.SerializeToString(deterministic=True)
        if data not in self.ops:
            self.ops.append(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if name:
            self.names[digest] = name
        return pb.Input(digest=digest)

    def merge(self, definition: pb.Definition) -> pb.Input:
        """Take a definition in; its result."""
        *ops, end = getattr(definition, "def")
        self.ops += [op for op in ops if op not in self.ops]
        return pb.Op.FromString(end).inputs[0]

    def end(self, result: pb.Input) -> pb.Definition:
        found = pb.Definition()
        getattr(found, "def").extend([*self.ops, pb.Op(inputs=[result]).SerializeToString(deterministic=True)])
        for data in getattr(found, "def"):
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            found.metadata[digest].SetInParent()
            if digest in self.names:
                found.metadata[digest].description["llb.customname"] = self.names[digest]
        return found


def source(identifier: str, **attrs: str) -> pb.Op:
    return pb.Op(source=pb.SourceOp(identifier=identifier, attrs={key.replace("_", "."): value
                                                                for key, value in attrs.items()}),
                 platform=pb.Platform(OS="linux", Architecture="amd64"))


def mkfile(base: pb.Input | None, path: str, data: bytes) -> pb.Op:
    action = pb.FileAction(input=0 if base else -1, secondaryInput=-1, output=0, mkfile=pb.FileActionMkFile(
        path=path, mode=0o644, data=data, timestamp=-1))
    return pb.Op(inputs=[base] if base else [], file=pb.FileOp(actions=[action]))


class Work:
    """One run."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.options: dict[str, str] = {}
        for name, value in os.environ.items():
            if name.startswith("BUILDKIT_FRONTEND_OPT_"):
                key, _, text = value.partition("=")
                self.options[key] = text
        self.graph = Graph()
        self.result: pb.Input | None = None
        self.reference = ""
        self.inner = pb.Definition()
        self.config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {"Env": ENV}}

    async def call(self, method: str, request: Any, kind: type[Any]) -> Any:
        return await self.client.unary(BRIDGE + method, request, kind)

    async def solve(self, **fields: Any) -> Any:
        reply = await self.call("Solve", gw.SolveRequest(allowResultReturn=True, allowResultArrayRef=True, **fields),
                                gw.SolveResponse)
        return reply.result

    async def read(self, reference: str, path: str) -> bytes:
        reply = await self.call("ReadFile", gw.ReadFileRequest(Ref=reference, FilePath=path), gw.ReadFileResponse)
        return bytes(reply.Data)

    async def run(self) -> None:
        await self.call("Ping", gw.PingRequest(), gw.PongResponse)
        name = self.options.get("filename", "Dockerfile")
        graph = Graph()
        local = graph.add(source("local://" + self.options.get("dockerfilekey", "dockerfile"),
                                 local_followpaths=json.dumps([name]), local_session=os.environ["BUILDKIT_SESSION_ID"],
                                 local_sharedkeyhint="dockerfile"), "[internal] load the front end's file")
        text = (await self.read((await self.solve(Definition=graph.end(local))).ref.id, name)).decode()
        if self.options.get("requestid"):
            await self.give_back(gw.Result(ref=gw.Ref(), metadata={
                "result.txt": f"asked {self.options['requestid']}\n".encode(), "result.json": b"{}", "version": b"1"}))
            return
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word and not word.startswith("#") and await getattr(self, f"do_{word}")(rest):
                return
        await self.finish()

    async def finish(self) -> None:
        if self.result is not None:
            self.reference = (await self.solve(Definition=self.graph.end(self.result))).ref.id
        result = gw.Result(ref=gw.Ref(id=self.reference), metadata={
            "containerimage.config": json.dumps(self.config).encode()})
        await self.give_back(result)

    async def give_back(self, result: gw.Result) -> None:
        await self.call("Return", gw.ReturnRequest(result=result), gw.ReturnResponse)

    async def give_error(self, message: str, details: Any = (), code: int = 2) -> None:
        request = gw.ReturnRequest()
        request.error.code, request.error.message = code, message
        request.error.details.extend(details)
        await self.call("Return", request, gw.ReturnResponse)

    # words

    async def do_say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    async def busybox(self) -> pb.Input:
        reply = await self.call("ResolveImageConfig", gw.ResolveImageConfigRequest(
            Ref="docker.io/library/busybox:latest", Platform=pb.Platform(OS="linux", Architecture="amd64"),
            ResolveMode="default", LogName="look at busybox"), gw.ResolveImageConfigResponse)
        self.config["config"]["Labels"] = {**self.config["config"].get("Labels", {}),
                                           "base.env": ",".join(json.loads(reply.Config)["config"].get("Env") or [])}
        pinned = f"@{reply.Digest}" if reply.Digest else ""
        return self.graph.add(source(f"docker-image://docker.io/library/busybox:latest{pinned}"))

    async def step(self, command: str) -> pb.Input:
        inputs = [await self.busybox()]
        mounts = [pb.Mount(input=0, dest="/", output=0)]
        if self.result is not None:
            inputs.append(self.result)
        mounts.append(pb.Mount(input=1 if self.result is not None else -1, dest="/out", output=1))
        run = self.graph.add(pb.Op(
            inputs=inputs, platform=pb.Platform(OS="linux", Architecture="amd64"), exec=pb.ExecOp(
                meta=pb.Meta(args=[*SHELL, command], env=ENV, cwd="/"), mounts=mounts)), f"step {command}")
        return pb.Input(digest=run.digest, index=1)

    async def do_exec(self, command: str) -> None:
        self.result = await self.step(command)

    async def do_failing(self, command: str) -> bool:
        try:
            await self.solve(Definition=self.graph.end(await self.step(command)), Evaluate=True)
        except GrpcError as error:
            await self.give_error(error.message, error.details, int(error.code))
            return True
        raise AssertionError

    async def do_config(self, text: str) -> None:
        key, _, value = text.partition("=")
        self.config["config"].setdefault("Labels", {})[key] = value

    async def do_file(self, text: str) -> None:
        name, _, content = text.partition(" ")
        self.result = self.graph.add(mkfile(self.result, name, f"{content}\n".encode()))

    async def do_env(self, _: str) -> None:
        shown = "".join(f"{key}={value}\n" for key, value in sorted(os.environ.items()))
        self.result = self.graph.add(mkfile(self.result, "/env", shown.encode()))

    async def do_inner(self, name: str) -> None:
        options = {**self.options, "filename": name, "cmdline": "dockerfile.v0"}
        options.pop("source", None)
        found = await self.solve(Frontend="dockerfile.v0", FrontendOpt=options)
        self.config = json.loads(found.metadata["containerimage.config"])
        self.reference = found.ref.id
        self.inner = getattr(found.ref, "def")

    async def do_on(self, _: str) -> None:
        self.result = self.graph.merge(self.inner)

    async def do_again(self, image: str) -> None:
        found = await self.solve(Frontend="gateway.v0", FrontendOpt={
            **self.options, "source": image, "cmdline": image, "filename": "Again"})
        self.config = json.loads(found.metadata["containerimage.config"])
        self.reference = found.ref.id

    async def do_input(self, name: str) -> None:
        reply = await self.call("Inputs", gw.InputsRequest(), gw.InputsResponse)
        name = self.options.get(f"context:{name}", f"input:{name}").partition(":")[2]
        self.result = self.graph.merge(reply.Definitions[name])

    async def do_context(self, path: str) -> None:
        local = self.graph.add(source("local://" + self.options.get("contextkey", "context"),
                                      local_session=os.environ["BUILDKIT_SESSION_ID"],
                                      local_sharedkeyhint="context"), "load the context")
        action = pb.FileAction(input=-1, secondaryInput=0, output=0, copy=pb.FileActionCopy(
            src=path, dest="/", mode=-1, timestamp=-1, createDestPath=True, dirCopyContents=True, followSymlink=True))
        self.result = self.graph.add(pb.Op(inputs=[local], file=pb.FileOp(actions=[action])))

    async def do_read(self, path: str) -> None:
        reference = self.reference
        if self.result is not None:
            reference = (await self.solve(Definition=self.graph.end(self.result), Evaluate=True)).ref.id
        data = await self.read(reference, path)
        stat = (await self.call("StatFile", gw.StatFileRequest(Ref=reference, Path=path), gw.StatFileResponse)).stat
        entries = (await self.call("ReadDir", gw.ReadDirRequest(Ref=reference, DirPath="/"), gw.ReadDirResponse)).entries
        shown = f"{data.decode()}{stat.size} {oct(stat.mode)} {' '.join(one.path for one in entries)}\n"
        self.result = self.graph.add(mkfile(self.result, "/read", shown.encode()))

    async def do_platforms(self, names: str) -> bool:
        """A result for each, with a file that names it."""
        result = gw.Result()
        told = []
        for name in names.split():
            system, _, architecture = name.partition("/")
            definition = self.graph.end(self.graph.add(mkfile(self.result, "/platform", name.encode())))
            result.refs.refs[name].id = (await self.solve(Definition=definition)).ref.id
            result.metadata[f"containerimage.config/{name}"] = json.dumps(
                {**self.config, "architecture": architecture}).encode()
            told.append({"ID": name, "Platform": {"os": system, "architecture": architecture}})
        result.metadata["refs.platforms"] = json.dumps({"Platforms": told}).encode()
        await self.give_back(result)
        return True

    async def do_warn(self, text: str) -> None:
        await self.call("Warn", gw.WarnRequest(digest=f"sha256:{'0' * 64}", level=1, short=text.encode()),
                        gw.WarnResponse)

    async def do_fail(self, text: str) -> bool:
        await self.give_error(text)
        return True

    async def do_crash(self, code: str) -> None:
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(int(code))

    async def do_hang(self, _: str) -> None:
        await asyncio.sleep(3600)


def relay(read: Callable[[int], bytes], write: Callable[[Any], int], end: Callable[[], None]) -> None:
    try:
        while data := read(65536):
            view = memoryview(data)
            while view:
                view = view[write(view):]
    except OSError:
        pass
    end()


async def main() -> None:
    here, there = socket.socketpair()
    threading.Thread(target=relay, daemon=True, args=(
        lambda size: os.read(0, size), there.send, lambda: there.shutdown(socket.SHUT_WR))).start()
    threading.Thread(target=relay, daemon=True, args=(
        there.recv, lambda data: os.write(1, data), lambda: None)).start()
    here.setblocking(False)
    work = Work(await Client.on_socket(here))
    try:
        await work.run()
    except GrpcError as error:
        await work.give_error(error.message, error.details, int(error.code))


asyncio.run(main())
