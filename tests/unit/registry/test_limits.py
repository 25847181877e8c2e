"""Rates and sizes: what is counted for whom, and what is refused."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.auth import OpenAccess
from pallet.registry.auth.guard import access_of
from pallet.registry.auth.limits import Buckets, Limits
from pallet.registry.auth.settings import LimitsConfig, Rate, RuleConfig, parse_rate
from pallet.registry.codes import RegistryHttpError
from pallet.registry.config import RegistryConfig
from pallet.registry.messages import RegistryRequest, RegistryResponse
from pallet.registry.routes import Routes
from pallet.registry.store import open_store
from pallet.spec import digest as digests
from tests.support.access import token_access
from tests.support.registry import basic
from tests.support.registrystore import image, push_blob, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.store import RegistryStore


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


class Body:
    def __init__(self, data: bytes = b"", *, announced: bool = True) -> None:
        self.length = len(data) if announced else None
        self._file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RegistryStore]:
    made = open_store(settings(tmp_path))
    yield made
    made.close()


@pytest.mark.parametrize(("text", "rate"), [
    ("", None), ("100/6h", Rate(count=100, period_s=21600)), ("20/s", Rate(count=20, period_s=1)),
    ("5 / 10m", Rate(count=5, period_s=600)), ("1/d", Rate(count=1, period_s=86400))])
def test_rates(text: str, rate: Rate | None) -> None:
    assert parse_rate(text, "x") == rate


@pytest.mark.parametrize("text", ["100", "0/s", "-1/s", "1/0s", "1/w", "1.5/s", "/s", "1/s\n2", "9999999999/s"])
def test_texts_that_are_no_rates(text: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"limits\.pulls"):
        Limits(LimitsConfig(pulls=text))


def test_buckets_refill_steadily() -> None:
    clock = Clock()
    buckets, rate = Buckets(now=clock), Rate(count=3, period_s=30)
    assert [buckets.take("x", "a", rate).remaining for _ in range(3)] == [2, 1, 0]
    refused = buckets.take("x", "a", rate)
    assert (refused.allowed, round(refused.retry_s, 6)) == (False, 10)
    assert buckets.take("x", "b", rate).allowed
    assert buckets.take("y", "a", rate).allowed
    clock.now += 10
    assert buckets.take("x", "a", rate).allowed
    assert not buckets.take("x", "a", rate).allowed
    clock.now += 1000
    assert buckets.take("x", "a", rate, amount=0).remaining == 3


def test_a_full_table_forgets_the_quietest() -> None:
    """It never refuses somebody for what another did."""
    clock = Clock()
    buckets, rate = Buckets(sets=1, now=clock), Rate(count=1, period_s=1000)
    for number in range(100):
        clock.now += 1
        assert buckets.take("x", str(number), rate).allowed
    assert not buckets.take("x", "99", rate).allowed
    assert buckets.take("x", "0", rate).allowed


def test_workers_count_together() -> None:
    """The table is the same memory in every forked worker, and its lock a process's."""
    buckets, rate = Buckets(), Rate(count=100, period_s=1e6)
    pids = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            for _ in range(25):
                buckets.take("x", "a", rate)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not buckets.take("x", "a", rate).allowed


def call(routes: Routes, method: str, path: str, data: bytes = b"", *, peer: str = "192.0.2.1", header: str = "",
         announced: bool = True, query: str = "") -> RegistryResponse:
    return routes.handle(RegistryRequest(
        method=method, path=path, query=query, headers={"authorization": header} if header else {},
        body=Body(data, announced=announced), base_url="http://r", peer=peer))


def refused(routes: Routes, *args: str, **more: str) -> RegistryHttpError:
    with pytest.raises(RegistryHttpError) as error:
        call(routes, *args, **more)  # type: ignore[arg-type]
    return error.value


def test_pulls_are_limited_as_on_docker_hub(store: RegistryStore) -> None:
    """code-14: a manifest's GET counts, its HEAD and blobs do not; the headers say what is left."""
    blob = push_blob(store, "a", b"x")
    store.put_manifest("a", image([blob]), ["1"])
    limits = LimitsConfig(anonymous_pulls="2/6h", pulls="5/6h")
    routes = Routes(store, token_access(anonymous=["pull"], limits=limits))
    for left in ("2", "2"):
        headers = call(routes, "HEAD", "/v2/a/manifests/1").headers
        assert headers["RateLimit-Remaining"] == f"{left};w=21600"
    for left in ("1", "0"):
        reply = call(routes, "GET", "/v2/a/manifests/1")
        assert reply.headers["RateLimit-Limit"] == "2;w=21600"
        assert reply.headers["RateLimit-Remaining"] == f"{left};w=21600"
        assert reply.headers["Docker-RateLimit-Source"] == "192.0.2.1"
        assert reply.keep_s == 0
    error = refused(routes, "GET", "/v2/a/manifests/1")
    assert (error.status, error.code) == (429, "TOOMANYREQUESTS")
    assert str(error).startswith("You have reached your unauthenticated pull rate limit.")
    assert 0 < int(error.headers["Retry-After"]) <= 10800
    assert "RateLimit-Limit" not in call(routes, "GET", f"/v2/a/blobs/{blob}").headers
    call(routes, "GET", "/v2/a/manifests/1", peer="192.0.2.2")
    call(routes, "GET", "/v2/a/manifests/1", peer="2001:db8::1")
    call(routes, "GET", "/v2/a/manifests/1", peer="2001:db8::2")
    assert refused(routes, "GET", "/v2/a/manifests/1", peer="2001:db8::3").status == 429
    joe = call(routes, "GET", "/v2/a/manifests/1", header=basic("joe", "secret"))
    assert joe.headers["RateLimit-Remaining"] == "4;w=21600"
    assert joe.headers["Docker-RateLimit-Source"] == "joe"
    named = Limits(limits).pull("jö\r\nX: y", "192.0.2.1", counted=False)
    assert named["Docker-RateLimit-Source"] == "j%C3%B6%0D%0AX: y"


def test_requests_are_limited(store: RegistryStore) -> None:
    limits = LimitsConfig(anonymous_requests="2/1h")
    access = access_of(RegistryConfig(limits=limits))
    assert not access.is_open
    routes = Routes(store, access)
    call(routes, "GET", "/v2/")
    assert call(routes, "POST", "/v2/a/blobs/uploads/").status == 202
    assert refused(routes, "GET", "/v2/").code == "TOOMANYREQUESTS"
    call(routes, "GET", "/v2/", peer="192.0.2.2")
    assert isinstance(access_of(RegistryConfig()), OpenAccess)


def test_wrong_passwords_are_limited(store: RegistryStore) -> None:
    """Then none is looked at, right ones neither, but for those that were right lately."""
    routes = Routes(store, token_access({"joe": "secret", "ann": "secret"}, limits=LimitsConfig(login_failures="2/1h")))
    joe, ann = basic("joe", "secret"), basic("ann", "secret")
    call(routes, "GET", "/v2/", header=joe)
    for password in ("a", "b"):
        assert refused(routes, "GET", "/token", header=basic("joe", password)).status == 401
    for path in ("/token", "/v2/"):
        error = refused(routes, "GET", path, header=ann)
        assert (error.status, error.headers["Retry-After"]) == (429, "1800")
    call(routes, "GET", "/v2/", header=joe)
    call(routes, "GET", "/v2/", header=ann, peer="192.0.2.2")


def test_a_blob_s_size_is_limited(store: RegistryStore) -> None:
    """413 before the body is read where its length is known; the session and what came are gone."""
    routes = Routes(store, OpenAccess(), limits=LimitsConfig(max_blob_bytes=10))
    for announced in (True, False):
        place = call(routes, "POST", "/v2/a/blobs/uploads/").headers["Location"]
        assert call(routes, "PATCH", place, b"123456").status == 202
        with pytest.raises(RegistryHttpError) as error:
            call(routes, "PATCH", place, b"12345", announced=announced)
        assert (error.value.status, error.value.code) == (413, "SIZE_INVALID")
        assert refused(routes, "GET", place).code == "BLOB_UPLOAD_UNKNOWN"
        data = b"12345678901"
        with pytest.raises(RegistryHttpError, match="at most 10 bytes"):
            call(routes, "POST", "/v2/a/blobs/uploads/", data, query=f"digest={digests.of_bytes(data)}",
                 announced=announced)
    assert list(store.driver.uploads()) == []
    data = b"1234567890"
    assert call(routes, "POST", "/v2/a/blobs/uploads/", data, query=f"digest={digests.of_bytes(data)}").status == 201


def test_a_manifest_s_size_is_limited(store: RegistryStore) -> None:
    routes = Routes(store, OpenAccess(), limits=LimitsConfig(max_manifest_bytes=100))
    with pytest.raises(RegistryHttpError) as error:
        call(routes, "PUT", "/v2/a/manifests/1", b" " * 101)
    assert (error.value.status, error.value.code) == (413, "SIZE_INVALID")


def test_a_manifest_that_nests_too_deep_is_invalid(store: RegistryStore) -> None:
    with pytest.raises(RegistryHttpError) as error:
        call(Routes(store, OpenAccess()), "PUT", "/v2/a/manifests/1", b"[" * 100_000)
    assert error.value.code == "MANIFEST_INVALID"


def test_a_repository_s_size_is_limited(store: RegistryStore) -> None:
    routes = Routes(store, OpenAccess(), limits=LimitsConfig(repository_bytes=10))

    def push(name: str, data: bytes) -> RegistryResponse:
        return call(routes, "POST", f"/v2/{name}/blobs/uploads/", data, query=f"digest={digests.of_bytes(data)}")

    assert push("a", b"1234567").status == 201
    with pytest.raises(RegistryHttpError, match="repository a is full") as error:
        push("a", b"7654")
    assert (error.value.status, error.value.code) == (403, "DENIED")
    assert push("a", b"765").status == 201
    assert push("b", b"7654").status == 201
    mount = f"mount={digests.of_bytes(b'1234567')}&from=a"
    with pytest.raises(RegistryHttpError, match="repository b is full"):
        call(routes, "POST", "/v2/b/blobs/uploads/", query=mount)
    assert call(routes, "POST", "/v2/c/blobs/uploads/", query=mount).status == 201
    assert list(store.driver.uploads()) == []


def test_mounts_need_the_right_to_pull_from_the_source(store: RegistryStore) -> None:
    """end-11: else a session opens, as for a blob that is not there."""
    blob = push_blob(store, "secret/a", b"x")
    rules = [RuleConfig(repository="secret/*", users=("ann",), allow=("pull",)),
             RuleConfig(repository="open/*", allow=("push",))]
    routes = Routes(store, token_access({"joe": "secret", "ann": "secret"}, rules=rules))
    named = f"mount={blob}&from=secret/a"
    for query, user, status in ((named, "joe", 202), (f"mount={blob}", "joe", 202), (named, "ann", 201)):
        assert call(routes, "POST", "/v2/open/b/blobs/uploads/", query=query,
                    header=basic(user, "secret")).status == status
    assert refused(routes, "GET", f"/v2/secret/a/blobs/{blob}", header=basic("joe", "secret")).code == "DENIED"


def test_who_may_push_may_cancel(store: RegistryStore) -> None:
    routes = Routes(store, token_access(rules=[RuleConfig(repository="*", allow=("push",))]))
    joe = basic("joe", "secret")
    place = call(routes, "POST", "/v2/a/blobs/uploads/", header=joe).headers["Location"]
    assert call(routes, "DELETE", place, header=joe).status == 204
    blob = push_blob(store, "a", b"x")
    assert refused(routes, "DELETE", f"/v2/a/blobs/{blob}", header=joe).code == "DENIED"


def test_the_catalog_is_filtered_and_paged(store: RegistryStore) -> None:
    """docker-catalog: pages hold what the caller sees, whatever lies between."""
    for name in ("a/1", "b/1", "a/2", "b/2", "a/3"):
        push_blob(store, name, name.encode())
    routes = Routes(store, token_access(rules=[RuleConfig(repository="a/*", allow=("catalog",))]))
    joe = basic("joe", "secret")
    reply = call(routes, "GET", "/v2/_catalog", header=joe, query="n=2")
    assert isinstance(reply.body, bytes)
    assert json.loads(reply.body) == {"repositories": ["a/1", "a/2"]}
    assert "last=a%2F2" in reply.headers["Link"]
    reply = call(routes, "GET", "/v2/_catalog", header=joe, query="n=2&last=a/2")
    assert isinstance(reply.body, bytes)
    assert json.loads(reply.body) == {"repositories": ["a/3"]}
    assert "Link" not in reply.headers
    assert refused(routes, "GET", "/v2/_catalog").status == 401
