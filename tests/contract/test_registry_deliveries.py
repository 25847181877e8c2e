"""The queue of notifications on SQLite and PostgreSQL: taken by one, given back, given up, forgotten."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.registry.config import WebhookConfig
from pallet.registry.events import Events, envelope
from pallet.registry.messages import RegistryRequest
from pallet.registry.metadata.open import open_metadata
from pallet.registry.metadata.records import BlobRecord, Delivery
from pallet.registry.serving.bodies import MemoryBody
from pallet.registry.webhooks import back_off_s
from pallet.spec import digest as digests
from tests.support import registrystore as stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.metadata.open import MetadataStore

SQLITE = pytest.param("sqlite", id="sqlite")
POSTGRES = pytest.param("postgresql", id="postgresql", marks=pytest.mark.needs("postgresql"))
BLOB = digests.of_bytes(b"config")


@pytest.fixture(params=[SQLITE, POSTGRES])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return stores.new_database(request.getfixturevalue("postgres_server"))
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def metadata(url: str) -> Iterator[MetadataStore]:
    with contextlib.closing(open_metadata(url)) as made:
        yield made


def deliveries(*names: str, receiver: str = "r") -> list[Delivery]:
    return [Delivery(id=name, receiver=receiver, event=json.dumps(name).encode()) for name in names]


def test_taken_once_until_it_is_due_again(metadata: MetadataStore) -> None:
    """By order of age, only one's own, and again when the time of the taker is over (it was killed)."""
    queue = metadata.deliveries
    queue.add(deliveries("a", "b"))
    queue.add(deliveries("other", receiver="s"))
    queue.add(deliveries("c"))
    first = queue.take("r", 2, 60.0)
    assert [one.id for one in first] == ["a", "b"]
    assert envelope(first) == b'{"events": ["a", "b"]}'
    assert [one.id for one in queue.take("r", 9, -1.0)] == ["c"]
    again = queue.take("r", 9, 60.0)
    assert [(one.id, one.attempts) for one in again] == [("c", 2)]
    queue.delivered([*first, *again])
    assert queue.take("r", 9, -1.0) == []
    figures = metadata.garbage.figures()
    assert (figures.pending, figures.dead) == (1, 0)


def test_failures_wait_and_end(metadata: MetadataStore) -> None:
    """One tried again later is due later, one given up never; late word of an older attempt changes nothing."""
    queue = metadata.deliveries
    queue.add(deliveries("a", "b"))
    first, second = queue.take("r", 2, -1.0)
    queue.failed(first, "later", 60.0)
    (newer,) = queue.take("r", 2, 60.0)
    assert newer.id == second.id
    queue.failed(second, "late", None)
    assert metadata.garbage.figures().dead == 0
    queue.failed(newer, "no", None)
    figures = metadata.garbage.figures()
    assert (figures.pending, figures.dead) == (1, 1)
    assert queue.take("r", 9, 60.0) == []
    assert queue.purge(3600.0) == 0
    assert queue.purge(-1.0) == 2
    assert back_off_s(1) < back_off_s(5) <= 40
    assert back_off_s(1000) <= 750


def test_many_take_at_once(url: str) -> None:
    """Every delivery goes to exactly one of several processes' threads."""
    with contextlib.ExitStack() as stack:
        queues = [stack.enter_context(contextlib.closing(open_metadata(url))).deliveries for _ in range(3)]
        queues[0].add(deliveries(*(f"{number:03}" for number in range(60))))
        taken: list[str] = []

        def drain(number: int) -> None:
            while found := queues[number].take("r", 4, 60.0):
                taken.extend(one.id for one in found)

        threads = [threading.Thread(target=drain, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Rows that another one was just taking are passed over, not waited for.
        while found := queues[0].take("r", 9, 60.0):
            taken.extend(one.id for one in found)
    assert sorted(taken) == [f"{number:03}" for number in range(60)]


def test_queued_exactly_when_it_happened(metadata: MetadataStore) -> None:
    """A push that is refused, or a deletion of nothing, queues nothing."""
    content, record = metadata.content, stores.image([BLOB])
    with pytest.raises(Exception, match=BLOB):
        content.put_manifest("a", record, ["v1"], deliveries("refused"))
    assert not content.untag("a", "none", deliveries("nothing"))
    assert not content.delete_manifest("a", record.digest, deliveries("nothing"))
    content.add_blob("a", BlobRecord(digest=BLOB, size=6, location="x"), None)
    content.put_manifest("a", record, ["v1"], deliveries("push"))
    assert content.untag("a", "v1", deliveries("untag"))
    assert content.delete_manifest("a", record.digest, deliveries("delete"))
    assert [one.id for one in metadata.deliveries.take("r", 9, 60.0)] == ["push", "untag", "delete"]


def test_who_hears_of_what() -> None:
    """By action and repository; one event for each tag, or one without a tag."""
    events = Events([WebhookConfig(url="http://a", repositories=("team/*",), events=("push",)),
                     WebhookConfig(url="http://b", name="b", events=("push", "pull", "delete"))], "r:5000")
    request = RegistryRequest(method="PUT", path="/", query="", headers={"user-agent": "t/1"}, body=MemoryBody(),
                              base_url="https://r", peer="192.0.2.7", request_id="id-1")
    record = stores.image([BLOB])
    made = events.pushed(request, "ann", "team/app", record, ["1", "2"])
    assert [one.receiver for one in made] == ["http://a", "b", "http://a", "b"]
    event = json.loads(made[0].event)
    assert event["actor"] == {"name": "ann"}
    assert event["request"] == {"id": "id-1", "addr": "192.0.2.7", "method": "PUT", "host": "r", "useragent": "t/1"}
    assert event["target"]["url"] == f"https://r/v2/team/app/manifests/{record.digest}"
    assert event["source"]["addr"] == "r:5000"
    assert [json.loads(one.event)["target"].get("tag") for one in made] == ["1", "1", "2", "2"]
    (untagged,) = events.pushed(request, "", "other", record, [])
    assert "tag" not in json.loads(untagged.event)["target"]
    assert json.loads(untagged.event)["actor"] == {}
    assert events.wanted("pull", "team/app") == ["b"]
    assert events.deleted(request, "", "team/app", tag="1")[0].receiver == "b"
    assert Events().pushed(request, "", "a", record, ["1"]) == []
