"""Removing, tagging and listing images: palletd and dockerd give the same answers and events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.networkless import beside
from tests.support.registry import Registry, build_image
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "dockerd", "registry")

V = "/v1.41"
BASE = layer_tar({"base": b"base"})
ONE = build_image([BASE, layer_tar({"one": b"1"})], Cmd=["sh"], Labels={"a": "1", "only": "one"})
TWO = build_image([BASE, layer_tar({"two": b"2"})], Cmd=["sh"], Labels={"a": "2"})
ONE_ID = next(key for key, data in ONE.blobs.items() if data.startswith(b'{"arch'))

# Steps by scenario: calls in order. {r} is the registry, {id} the id of image ONE, {short} its
# beginning, {digest} its manifest's digest. "pull X" and "container X" prepare.
SCENARIOS = {
    "one name": ["pull one:1", "DELETE {r}/rm/one:1"],
    "two tags of one repository": ["pull one:1", "tag {r}/rm/one:2", "DELETE {r}/rm/one:1",
                                   "DELETE {r}/rm/one:2"],
    "two repositories": ["pull one:1", "tag other:x", "DELETE {r}/rm/one:1", "DELETE other:x"],
    "by digest": ["pull one:1", "DELETE {r}/rm/one@{digest}", "DELETE {r}/rm/one:1"],
    "by digest with a tag elsewhere": ["pull one:1", "tag other:x", "DELETE {r}/rm/one@{digest}",
                                       "DELETE {r}/rm/one:1", "DELETE other"],
    "by id": ["pull one:1", "DELETE {id}"],
    "by short id": ["pull one:1", "DELETE {short}"],
    "by id with two tags": ["pull one:1", "tag {r}/rm/one:2", "DELETE {id}", "DELETE {id}?force=1"],
    "by id with two repositories": ["pull one:1", "tag other:x", "DELETE {id}", "DELETE {short}",
                                    "DELETE {id}?force=1"],
    "default tag": ["pull one:1", "tag plain:latest", "DELETE plain", "DELETE {r}/rm/one:1"],
    "shared layers": ["pull one:1", "pull two:1", "DELETE {r}/rm/one:1", "DELETE {r}/rm/two:1"],
    "no prune": ["pull one:1", "DELETE {r}/rm/one:1?noprune=1"],
    "unknown": ["DELETE nothing", "DELETE nothing:x?force=1", "DELETE sha256:12",
                "DELETE {id}", "DELETE abc@{digest}", "DELETE x?force=bogus"],
    "used": ["pull one:1", "container {r}/rm/one:1", "DELETE {r}/rm/one:1", "DELETE {id}",
             "DELETE {r}/rm/one@{digest}", "tag other:x", "DELETE {r}/rm/one:1", "DELETE other:x",
             "DELETE {short}", "DELETE other:x?force=1", "DELETE {id}", "DELETE {id}?force=1"],
    "used by id": ["pull one:1", "container {id}", "DELETE {id}?force=1"],
    "tag moves": ["pull one:1", "pull two:1", "tag name:x", "tag-two name:x", "DELETE name:x",
                  "DELETE {r}/rm/one:1", "DELETE {r}/rm/two:1"],
}

FILTERS: list[dict[str, list[str]]] = [
    {}, {"dangling": ["true"]}, {"dangling": ["false"]}, {"dangling": ["x"]}, {"label": ["a"]},
    {"label": ["a=1"]}, {"label": ["a=1", "only"]}, {"label": ["a=3"]}, {"label": ["a=1", "a=2"]},
    {"reference": ["{r}/rm/one"]}, {"reference": ["{r}/rm/*"]}, {"reference": ["{r}/*/one:1"]},
    {"reference": ["*"]}, {"reference": ["other"]}, {"reference": ["o*r:x"]}, {"reference": ["["]},
    {"reference": ["{r}/rm/one", "other"]}, {"reference": ["{r}/rm/one@{digest}"]},
    {"before": ["{r}/rm/one:1"]}, {"since": ["{r}/rm/one:1"]}, {"before": ["nothing"]},
    {"since": ["other:x"]}, {"bogus": ["1"]}, {"reference": ["one"]}, {"reference": ["?ther"]},
    {"reference": ["[a-p]ther"]}, {"reference": ["{r}/rm/one:2"], "label": ["a"]},
]


@pytest.fixture(scope="module")
def pair(engine: Daemon) -> Iterator[tuple[Daemon, Daemon]]:
    """palletd and dockerd."""
    with beside(engine) as both:
        yield both


@pytest.fixture(scope="module")
def names(registry: Registry) -> dict[str, str]:
    """What the scenarios' words stand for."""
    registry.push("rm/one", "1", ONE)
    registry.push("rm/two", "1", TWO)
    return {"r": registry.address, "id": ONE_ID, "short": ONE_ID[7:19], "digest": ONE.digest}


def step(daemon: Daemon, line: str, names: dict[str, str]) -> tuple[int, Any]:
    """Carry out one step: status and reply, an id left out where one is made."""
    verb, _, rest = line.format(**names).partition(" ")
    path, _, query = rest.partition("?")
    if verb == "pull":
        target = f"/images/create?fromImage={names['r']}/rm/{rest}"
        return daemon.api.call("POST", V + target).status, None
    if verb in ("tag", "tag-two"):
        source = ONE_ID if verb == "tag" else f"{names['r']}/rm/two:1"
        repository, colon, tag = path.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = path, ""
        query = f"repo={repository}&tag={tag}"
        return daemon.api.call("POST", f"{V}/images/{source}/tag?{query}").status, None
    if verb == "container":
        reply = daemon.api.call("POST", f"{V}/containers/create?name=t-rmi",
                                {"Image": path, "Cmd": ["true"]})
        return reply.status, None
    reply = daemon.api.call("DELETE", f"{V}/images/{quote(path, safe='/:@')}?{query}")
    return reply.status, reply.json


def container_id(daemon: Daemon) -> str:
    """Id of the scenario's container, "" when there is none."""
    reply = daemon.api.call("GET", f"{V}/containers/t-rmi/json")
    return str(reply.json["Id"]) if reply.status == 200 else ""


def clean(daemon: Daemon, names: dict[str, str]) -> None:
    """Remove what a scenario may have left."""
    daemon.api.call("DELETE", f"{V}/containers/t-rmi?force=1")
    for name in (ONE_ID, f"{names['r']}/rm/two:1", "name:x", "other:x"):
        daemon.api.call("DELETE", f"{V}/images/{name}?force=1")


def image_events(daemon: Daemon, since: float) -> list[tuple[str, str, str]]:
    """``(action, id, name)`` of what happened to images."""
    wanted = quote(json.dumps({"type": ["image"]}))
    reply = daemon.api.call(
        "GET", f"{V}/events?since={since:.9f}&until={time.time():.9f}&filters={wanted}")
    events = [json.loads(line) for line in reply.body.splitlines()]
    return [(event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"].get("name", ""))
            for event in events]


@pytest.mark.parametrize("title", list(SCENARIOS))
def test_removal(pair: tuple[Daemon, Daemon], names: dict[str, str], title: str) -> None:
    """Every reply of the scenario, and the events it makes."""
    outcomes = []
    for daemon in pair:
        since = time.time()
        replies = []
        try:
            for line in SCENARIOS[title]:
                status, answer = step(daemon, line, names)
                text = json.dumps(answer).replace(container_id(daemon)[:12] or "none", "CONTAINER")
                replies.append((line, status, json.loads(text)))
            outcomes.append((replies, image_events(daemon, since)))
        finally:
            clean(daemon, names)
    ours, theirs = outcomes
    for mine, other in zip(ours[0], theirs[0], strict=True):
        assert mine == other
    assert ours[1] == theirs[1]


def test_lists(pair: tuple[Daemon, Daemon], names: dict[str, str]) -> None:
    """Each filter: rows, their names and sizes, or the refusal."""
    try:
        for daemon in pair:
            for line in ("pull one:1", "pull two:1", "tag other:x", "tag {r}/rm/one:2"):
                assert step(daemon, line, names)[0] in (200, 201)
        for filters in FILTERS:
            wanted = json.dumps(filters)
            for word, value in names.items():
                wanted = wanted.replace("{" + word + "}", value)
            ours, theirs = (rows(daemon, f"filters={quote(wanted)}") for daemon in pair)
            assert ours == theirs, wanted
        for query in ("all=1", "digests=1", "shared-size=1"):
            ours, theirs = (rows(daemon, query) for daemon in pair)
            assert ours == theirs, query
    finally:
        for daemon in pair:
            clean(daemon, names)


def rows(daemon: Daemon, query: str) -> Any:
    """The rows of this module's images, or status and message."""
    reply = daemon.api.call("GET", f"{V}/images/json?{query}")
    if reply.status != 200:
        # 20.10 begins some with a capital letter and takes a bad pattern for its own failure.
        status = 400 if "pattern" in reply.message else reply.status
        return status, reply.message.lower()
    own = [row for row in reply.json
           if not any(tag.startswith("busybox") for tag in row["RepoTags"] or ())]
    return sorted(own, key=lambda row: str(row["Id"]))  # all were made at the same time
