"""Prunes and disk usage: what goes, what stays, what they say they won."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.scratch import tar_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")




@pytest.fixture
def daemon(fresh_palletd: Callable[..., Daemon]) -> Daemon:
    return fresh_palletd()


def usage(daemon: Daemon, query: str = "") -> dict[str, object]:
    return daemon.api.call("GET", f"/system/df{query}").json


def test_images(daemon: Daemon) -> None:
    """Dangling ones by default, with -a all that no container has; the bytes are what df loses."""
    docker = daemon.cli()
    first = docker.ok("import", "-", "some:1", stdin=tar_of(a="x" * 1000))
    docker.ok("import", "-", "some:1", stdin=tar_of(b="y" * 500))
    docker.ok("tag", "busybox", "again")
    docker.ok("create", "--name", "holder", "busybox")
    before = usage(daemon)["LayersSize"]
    assert "Total reclaimed space: 0B" in docker.ok("image", "prune", "-f", "--filter", "until=1h")
    out = docker.ok("image", "prune", "-f")
    assert f"deleted: {first}" in out
    assert out.splitlines()[-1] == "Total reclaimed space: 1kB"
    assert before - usage(daemon)["LayersSize"] == 1000
    out = docker.ok("image", "prune", "-a", "-f")
    assert "untagged: some:1" in out
    assert out.splitlines()[-1] == "Total reclaimed space: 500B"
    assert "busybox" in docker.ok("images")
    docker.ok("rm", "holder")
    reply = daemon.api.call("POST", '/images/prune?filters={"dangling":{"false":true}}')
    assert reply.json["SpaceReclaimed"] > 0
    assert docker.ok("images", "-q") == ""
    assert usage(daemon)["LayersSize"] == 0
    empty = daemon.api.call("POST", "/images/prune").json
    assert empty == {"ImagesDeleted": None, "SpaceReclaimed": 0}


def test_shared_layers_do_not_count(daemon: Daemon) -> None:
    """A layer of two images is shared by both, and is not won when one goes."""
    docker = daemon.cli()
    same = tar_of(a="x" * 1000)
    docker.ok("import", "-c", "LABEL which=one", "-", "one:1", stdin=same)
    docker.ok("import", "-c", "LABEL which=two", "-", "two:1", stdin=same)
    rows = {row["RepoTags"][0]: row for row in usage(daemon, "?type=image")["Images"]}
    assert (rows["one:1"]["Size"], rows["one:1"]["SharedSize"]) == (1000, 1000)
    assert rows["busybox:latest"]["SharedSize"] == 0
    listed = {row["Id"]: row["SharedSize"]
              for row in daemon.api.call("GET", "/images/json?shared-size=1").json}
    assert listed == {row["Id"]: row["SharedSize"] for row in rows.values()}
    out = docker.ok("image", "prune", "-a", "-f", "--filter", "label=which=one")
    assert "untagged: one:1" in out
    assert out.splitlines()[-1] == "Total reclaimed space: 0B"
    assert "two:1" not in docker.ok("image", "prune", "-a", "-f", "--filter", "label!=which=two")
    out = docker.ok("image", "prune", "-a", "-f", "--filter", "label!=other")
    assert "untagged: two:1" in out


def test_containers(daemon: Daemon) -> None:
    """What runs or is paused stays; sparse files count as they look, hard links once."""
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "alive", "busybox", "sleep", "600")
    docker.ok("run", "--name", "done", "busybox", "sh", "-c",
              "dd if=/dev/zero of=/sparse bs=1 count=1 seek=99999 2>/dev/null; ln /sparse /again")
    docker.ok("create", "--name", "kept", "--label", "keep=yes", "busybox")
    row = next(row for row in usage(daemon, "?type=container")["Containers"] if row["Names"] == ["/done"])
    assert row["SizeRw"] == 100_000
    out = docker.ok("container", "prune", "-f", "--filter", "label!=keep=yes")
    assert out.splitlines()[-1] == "Total reclaimed space: 100kB"
    assert sorted(docker.ok("ps", "-a", "--format", "{{.Names}}").split()) == ["alive", "kept"]
    docker.ok("container", "prune", "-f")
    assert docker.ok("ps", "-a", "--format", "{{.Names}}") == "alive"


def test_system_and_events(daemon: Daemon) -> None:
    docker = daemon.cli()
    docker.ok("run", "--name", "done", "-v", "/data", "busybox", "sh", "-c", "echo 12345 > /data/x")
    assert usage(daemon, "?type=volume")["Volumes"][0]["UsageData"] == {"RefCount": 1, "Size": 6}
    out = docker.ok("system", "prune", "-a", "-f", "--volumes")
    assert "Deleted Containers:" in out
    assert "Deleted Volumes:" in out
    assert "untagged: busybox:latest" in out
    reply = daemon.api.call("GET", f'/events?since=0&until={time.time():.9f}&filters={{"event":["prune"]}}')
    events = [json.loads(line)["Type"] for line in reply.body.splitlines()]
    assert events == ["container", "network", "volume", "image"]
    assert usage(daemon) == {"LayersSize": 0, "Images": [], "Containers": [], "Volumes": [], "BuildCache": []}


def test_bad_filters(daemon: Daemon) -> None:
    for kind in ("containers", "images", "networks", "volumes"):
        reply = daemon.api.call("POST", f'/{kind}/prune?filters={{"nope":["1"]}}')
        assert (reply.status, reply.json) == (400, {"message": "invalid filter 'nope'"})
    for kind in ("containers", "images", "networks"):
        reply = daemon.api.call("POST", f'/{kind}/prune?filters={{"until":["1h","2h"]}}')
        assert (reply.status, reply.json) == (400, {"message": "more than one until filter specified"})


def test_pallet_prunes_as_docker(daemon: Daemon) -> None:
    """The same words from both command lines, also when the answer is no."""
    docker, pallet = daemon.cli(), daemon.cli(pallet_command())
    for words in (("container", "prune"), ("image", "prune", "-a"), ("network", "prune"),
                  ("system", "prune", "-a", "--volumes"), ("system", "prune", "--filter", "label=x"),
                  ("system", "prune", "--volumes", "--filter", "until=1h"),
                  ("image", "prune", "-f", "--filter", "nope=1"), ("system", "prune", "-f")):
        theirs = docker.run(*words, stdin="n\n")
        ours = pallet.run(*words, stdin="n\n")
        assert (ours.code, ours.out, ours.err) == (theirs.code, theirs.out, theirs.err), words


def without_ages(text: str) -> list[str]:
    """Words of a table, but for the ages that tick on between two calls."""
    return re.sub(r"(Less than a second|About a minute|\d+ (second|minute)s?) ago", "AGE", text).split()


def test_pallet_df_is_dockers(daemon: Daemon) -> None:
    """The same tables and formats; Pallet's own section comes last, and only from Pallet's daemon."""
    docker, pallet = daemon.cli(), daemon.cli(pallet_command())
    docker.ok("import", "-", "some:1", stdin=tar_of(a="x" * 1000))
    docker.ok("run", "--name", "done", "-v", "named:/data", "busybox", "sh", "-c", "echo 1 > /x; echo 12345 > /data/x")
    for words in ((), ("--format", "json"), ("--format", "{{.Type}} {{.Size}} {{.Reclaimable}}"),
                  ("--format", "table {{.Type}}\\t{{.TotalCount}}")):
        theirs, ours = docker.run("system", "df", *words), pallet.run("system", "df", *words)
        assert (ours.code, ours.out, ours.err) == (theirs.code, theirs.out, theirs.err), words
    docker.ok("tag", "busybox", "later:1")
    for layout in ("json", "{{range .Images}}{{.ID}} {{.Repository}}:{{.Tag}} {{.UniqueSize}}\\n{{end}}",
                   "{{range .Containers}}{{.Names}} {{.Size}} {{.LocalVolumes}}{{end}}{{len .BuildCache}}",
                   "table{{range .Images}}{{.ID}}\\t{{.CreatedSince}}{{end}}", "{{json .Images}}", "{{json .Volumes}}",
                   "{{.Nope}}", "{{range .Volumes}}{{.Nope}}{{end}}", "{{.Images"):
        first, second = (cli.run("system", "df", "-v", "--format", layout) for cli in (docker, pallet))
        assert (second.code, second.err) == (first.code, first.err), layout
        assert without_ages(second.out) == without_ages(first.out), layout
    for layout in ("{{.Nope}}", "{{.Type"):
        theirs, ours = (cli.run("system", "df", "--format", layout) for cli in (docker, pallet))
        assert (ours.code, ours.err) == (theirs.code, theirs.err), layout
    tables, both = docker.ok("system", "df", "-v"), pallet.ok("system", "df", "-v")
    same, _, own = both.partition("\n\nHidden by later layers:")
    assert without_ages(same) == without_ages(tables)
    assert "busybox:latest" in own
    assert "blobs" in own.splitlines()[-1]
