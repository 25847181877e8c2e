"""Definitions as graphs of the builder's own, and what front ends return as targets. Files and steps: ``test_llb`` of e2e."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.llb import results
from pallet.api.buildkit.llb.definition import Translator
from pallet.api.buildkit.wire import llb_pb2 as pb
from pallet.build import graph as own
from pallet.build.cachekey import Names, op_digest
from pallet.build.ports import FrontendOptions, ResolvedImage
from pallet.build.request import BuildRequest
from pallet.errors import InvalidParameterError, NotImplementedApiError
from pallet.spec.image import History, ImageConfigFile, encode
from pallet.spec.platform import Platform
from tests.unit.api.buildkit.llbcases import BUSYBOX, OUT, root
from tests.unit.api.buildkit.llbclient import ENV, Graph, copy, mkfile

if TYPE_CHECKING:
    from pallet.types import Digest

AMD = Platform(os="linux", architecture="amd64")
DIGEST: Digest = f"sha256:{'a' * 64}"  # type: ignore[assignment]


class Planning:
    """A build that knows one image, and files that results hold."""

    def __init__(self, *entitlements: str, files: dict[str, bytes] | None = None) -> None:
        self.request = BuildRequest(ref="r", options=FrontendOptions(entitlements=frozenset(entitlements)))
        self.asked: list[tuple[str, bool]] = []
        self.files = files or {}

    async def image(self, reference: str, platform: Platform, *, pull: bool = False) -> ResolvedImage:
        self.asked.append((reference, pull))
        return ResolvedImage(reference=reference, digest=DIGEST, config=ImageConfigFile(), local=True)

    async def layout(self, store: str, digest: str, platform: Platform) -> ResolvedImage:
        return ResolvedImage(reference=store, digest=digest, config=ImageConfigFile(), local=False)  # type: ignore[arg-type]

    async def read(self, vertex: own.Vertex, path: str, limit_bytes: int) -> bytes | None:
        return self.files.get(path)


async def translate(definition: pb.Definition, planning: Any = None) -> own.Vertex:
    return (await Translator(planning or Planning()).translate(definition)).vertex


async def test_a_command_has_the_key_that_a_dockerfile_gives_it() -> None:
    graph = Graph()
    made = await translate(graph.end(graph.run("make", [graph.source(BUSYBOX)], [root()])))
    base = own.Vertex(op=own.ImageSource(reference="x", digest=DIGEST, platform=AMD), name="FROM x")
    written = own.Vertex(op=own.RunOp(args=("/bin/sh", "-c", "make"), env=tuple(ENV)), inputs=(base,), name="RUN make",
                         platform=AMD)
    assert Names().digest(made) == Names().digest(written)


def test_fields_that_came_later_change_no_keys() -> None:
    """Keys of what caches hold since before there were definitions."""
    run = own.Vertex(op=own.RunOp(args=("a",), mounts=(own.RunMount(kind="bind", target="/b"),)), name="")
    copying = own.Vertex(op=own.FileOp(actions=(own.CopyAction(input=1, paths=("/a",), dest="/"), own.WriteAction(
        path="/x", data=b"y"), own.MakeDirectoryAction(path="/z"))), name="")
    assert op_digest(run) == "d854711d1ba2ed87ce2bf089792ef1f1c39404699d8d99067af2c31854894399"
    assert op_digest(copying) == "5075fcd91a280bca8a2d661bd0c4183e4ce203536a6dc24b058cb64ba5225c26"


async def test_actions_after_one_another_are_one_layer() -> None:
    graph = Graph()
    tree = graph.source("local://ctx")
    base = graph.source(BUSYBOX)
    made = await translate(graph.end(graph.file(
        [base, tree], mkfile("/a", "x", base=0, output=-1), copy(1, "/b", "/c/", base=2, output=-1),
        copy(2, "/a", "/d", base=3))))
    assert isinstance(made.op, own.FileOp)
    write, take, again = made.op.actions
    assert isinstance(write, own.WriteAction)
    assert isinstance(take, own.CopyAction)
    assert isinstance(again, own.CopyAction)
    assert (take.input, take.dest, take.keep_owner, take.follow, take.itself) == (1, "/c/", False, False, True)
    assert isinstance(made.inputs[1].op, own.LocalSource)
    # What an action reads of another one's result is a vertex of its own.
    assert isinstance(made.inputs[again.input].op, own.FileOp)
    assert len(made.inputs[again.input].op.actions) == 1


async def test_outputs_of_a_command_are_one_command() -> None:
    graph = Graph()
    base = graph.source(BUSYBOX)
    mounts = [root(), OUT, pb.Mount(input=-1, dest="/two", output=2)]
    one, two = (graph.run("x", [base], mounts, index=index) for index in (1, 2))
    made = await translate(graph.end(graph.file([one, two], copy(1, "/", "/", base=0))))
    first, second = made.inputs
    assert isinstance(first.op, own.RunOp)
    assert isinstance(second.op, own.RunOp)
    assert (first.op.output, second.op.output) == (0, 1)
    assert op_digest(first) == op_digest(second)
    assert Names().digest(first) != Names().digest(second)


async def test_a_tree_of_a_client_is_a_layer_where_something_stands_on_it() -> None:
    graph = Graph()
    tree = graph.source("local://ctx", {"local.includepattern": '["*.c"]', "local.followpaths": '["a"]'})
    made = await translate(graph.end(graph.run("x", [tree, tree], [root(), pb.Mount(
        input=1, dest="/ro", readonly=True, output=-1)])))
    below, mounted = made.inputs
    assert isinstance(below.op, own.FileOp)
    assert mounted.op == own.LocalSource(name="ctx", include=("*.c",), follow=("a",))


@pytest.mark.parametrize(("identifier", "attrs", "operation"), [
    ("git://h/r.git#main:sub", {"git.fullurl": "ssh://git@h/r.git", "git.keepgitdir": "true"},
     own.GitSource(remote="ssh://git@h/r.git", ref="main", subdirectory="sub", keep_git_dir=True)),
    ("git://h/r.git", {"git.checksum": "abc"}, own.GitSource(remote="https://h/r.git", checksum="abc")),
    ("https://h/d/f.tar?x=1", {"http.checksum": DIGEST},
     own.HttpSource(url="https://h/d/f.tar?x=1", filename="f.tar", checksum=DIGEST)),
    ("http://h/", {"http.filename": "n"}, own.HttpSource(url="http://h/", filename="n")),
    (f"oci-layout://store/name@{DIGEST}", {"oci.store": "s"},
     own.OciLayoutSource(store="s", reference="store/name", digest=DIGEST, platform=AMD)),
    ("docker-image://docker.io/x/y:1", {"image.resolvemode": "pull"},
     own.ImageSource(reference="docker.io/x/y:1", digest=DIGEST, platform=AMD)),
])
async def test_sources(identifier: str, attrs: dict[str, str], operation: own.Op) -> None:
    graph, planning = Graph(), Planning()
    assert (await translate(graph.end(graph.source(identifier, attrs)), planning)).op == operation
    assert planning.asked in ([], [("docker.io/x/y:1", True)])


@pytest.mark.parametrize("name", ["../x", "a/b", ".."])
async def test_downloads_stay_in_their_place(name: str) -> None:
    graph = Graph()
    with pytest.raises(InvalidParameterError, match="invalid file name"):
        await translate(graph.end(graph.source("http://h/x", {"http.filename": name})))


async def test_paths_of_mounts_stay_inside() -> None:
    graph = Graph()
    made = await translate(graph.end(graph.run("x", [graph.source(BUSYBOX)], [root(), pb.Mount(
        input=0, dest="../../etc/x", selector="../../a/../b", output=-1)], meta={"cwd": "/w"})))
    assert isinstance(made.op, own.RunOp)
    assert [(mount.target, mount.source) for mount in made.op.mounts] == [("/etc/x", "/b")]


@pytest.mark.parametrize("make", [
    lambda graph: graph.file([], mkfile("/a\0b", "")),
    lambda graph: graph.run("a\0b", [graph.source(BUSYBOX)], [root()]),
    lambda graph: graph.source("local://x", {"local.includepattern": "5"}),
    lambda graph: graph.source("local://x", {"local.followpaths": '["a", 1]'}),
    lambda graph: graph.source("http://h:99999/x"),
    lambda graph: graph.source("http://h/x", {"http.perm": "rw"}),
    lambda graph: graph.source("oci-layout://x"),
    lambda graph: graph.run("x", [graph.source(BUSYBOX)], [pb.Mount(input=7, dest="/")]),
    lambda graph: graph.run("x", [graph.source(BUSYBOX)], [OUT]),
    lambda graph: pb.Input(digest=graph.source(BUSYBOX).digest, index=-1),
])
async def test_what_makes_no_sense_is_refused(make: Any) -> None:
    graph = Graph()
    with pytest.raises(InvalidParameterError):
        await translate(graph.end(make(graph)))


async def test_other_builds_sources_are_not_to_be_had_by_name() -> None:
    graph = Graph()
    with pytest.raises(InvalidParameterError, match="invalid local source"):
        await translate(graph.end(graph.source("local://input:base/context")))


async def test_a_download_may_have_a_mode_and_an_owner() -> None:
    graph = Graph()
    made = await translate(graph.end(graph.source("http://h/x", {"http.perm": "0600", "http.uid": "5"})))
    assert isinstance(made.op, own.FileOp)
    (action,) = made.op.actions
    assert isinstance(action, own.CopyAction)
    assert (action.mode, action.owner, action.paths, action.dest) == ("600", "5:0", ("/x",), "/x")


async def test_deep_and_wide_graphs() -> None:
    graph = Graph()
    last = graph.file([], mkfile("/0", ""))
    for number in range(1, 4000):
        last = graph.file([last], mkfile(f"/{number}", "", base=0))
    made = await translate(graph.end(last))
    depth = 0
    while made.inputs:
        made, depth = made.inputs[0], depth + 1
    assert depth == 3999


async def test_equal_operations_are_one_vertex_also_across_definitions() -> None:
    translator = Translator(Planning())  # type: ignore[arg-type]
    graph = Graph()
    step = graph.run("x", [graph.source(BUSYBOX)], [root()])
    one = (await translator.translate(graph.end(step))).vertex
    two = (await translator.translate(graph.end(graph.file([step], mkfile("/a", "b", base=0))))).vertex
    assert two.inputs[0] is one
    assert (await translator.translate(pb.Definition())).vertex.op == own.ScratchOp()


async def test_names_places_and_no_cache() -> None:
    graph = Graph()
    step = graph.run("x", [graph.source(BUSYBOX)], [root()], ignore_cache=True)
    definition = graph.end(step)
    definition.metadata[step.digest].description["llb.customname"] = "[1/1] do x"
    definition.Source.infos.add(filename="F", data=b"one\ntwo\n")
    place = definition.Source.locations[step.digest].locations.add(sourceIndex=0)
    place.ranges.add().start.line = 2
    found = await Translator(Planning()).translate(definition)  # type: ignore[arg-type]
    assert (found.vertex.name, found.vertex.ignore_cache) == ("[1/1] do x", True)
    assert found.vertex.span == own.Span(filename="F", start=2, end=2)
    assert found.sources == {"F": b"one\ntwo\n"}
    assert found.vertex.inputs[0].name == BUSYBOX


async def test_what_is_not_allowed_is_refused_before_anything_is_asked_for() -> None:
    graph, planning = Graph(), Planning("network.host")
    step = graph.run("x", [graph.source(BUSYBOX)], [root()], security=pb.INSECURE, network=pb.HOST)
    with pytest.raises(InvalidParameterError, match=r"failed to load LLB: security\.insecure is not allowed"):
        await translate(graph.end(step), planning)
    assert not planning.asked


async def test_definitions_in_files_that_hold_themselves_come_to_an_end() -> None:
    graph = Graph()
    definition = graph.end(graph.add(pb.Op(
        inputs=[graph.source("http://h/x")], build=pb.BuildOp(builder=-1, attrs={"llb.definition.filename": "x"}, inputs={
            "buildkit.llb.definition": pb.BuildInput(input=0)}))))
    planning = Planning(files={"x": definition.SerializeToString()})
    with pytest.raises(InvalidParameterError, match="nested too deeply"):
        await translate(definition, planning)
    planning.files["x"] = b"\xff\xff"
    with pytest.raises(InvalidParameterError, match="failed to parse the definition in x"):
        await translate(definition, planning)


async def test_operations_of_no_kind_are_refused() -> None:
    graph = Graph()
    nothing = graph.add(pb.Op(platform=pb.Platform(OS="linux")))
    with pytest.raises(NotImplementedApiError, match="no operation"):
        await translate(graph.end(graph.file([nothing], mkfile("/a", "b", base=0))))


# --- results -------------------------------------------------------------------------------------


def test_configs_and_platforms_of_a_result() -> None:
    arm = Platform(os="linux", architecture="arm64")
    metadata = {results.PLATFORMS: results.platforms_document([AMD, arm]), f"{results.CONFIG}/linux/arm64": b"{}"}
    known = results.platforms_of(metadata)
    assert known == {"linux/amd64": AMD, "linux/arm64": arm}
    assert results.config_of(metadata, "linux/arm64") == b"{}"
    assert results.config_of(metadata, "linux/amd64") is None
    assert results.platform_of("", known) == AMD
    assert results.platform_of("linux/riscv64", {}) == Platform(os="linux", architecture="riscv64")
    with pytest.raises(InvalidParameterError, match="failed to parse platforms"):
        results.platforms_of({results.PLATFORMS: b'{"Platforms": [1]}'})


def _chain() -> own.Vertex:
    base = own.Vertex(op=own.ImageSource(reference="x", digest=DIGEST, platform=AMD), name="x")
    run = own.Vertex(op=own.RunOp(args=("a", "b")), inputs=(base,), name="step")
    return own.Vertex(op=own.FileOp(actions=(own.WriteAction(path="/x", data=b""),)), inputs=(run,), name="mkfile /x")


def test_a_target_without_a_config_has_the_platforms() -> None:
    found = results.target(_chain(), None, AMD)
    assert found.config.config is not None
    assert (found.config.architecture, found.config.config.working_dir) == ("amd64", "/")
    assert [step.created_by for step in found.steps] == ["mount / from exec a b", "mkfile /x"]


def test_what_made_layers_is_known_for_a_history_that_others_wrote() -> None:
    vertex = _chain()
    kept = dataclasses.replace(vertex.inputs[0], op=own.RunOp(args=("c",), mounts=(
        own.RunMount(kind="bind", target="/out", input=1, kept=True),), output=0), inputs=(vertex, vertex))
    config = encode(ImageConfigFile(architecture="arm64", os="linux", history=[History(created_by="by hand")]))
    found = results.target(kept, config, None)
    assert found.platform == Platform(os="linux", architecture="arm64")
    assert [step.created_by for step in found.made] == ["mount / from exec a b", "mkfile /x", "mount /out from exec c"]
    assert found.config.history is None
    with pytest.raises(InvalidParameterError, match="failed to parse image config"):
        results.target(kept, b"[", None)


def test_platform_documents_are_buildkits() -> None:
    assert json.loads(results.platforms_document([Platform(os="linux", architecture="arm", variant="v7")])) == {
        "Platforms": [{"ID": "linux/arm/v7", "Platform": {"architecture": "arm", "os": "linux", "variant": "v7"}}]}
