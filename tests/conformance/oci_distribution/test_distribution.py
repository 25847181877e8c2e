"""distribution-spec v1.1 over HTTP: one test a rule, against Pallet's registry.

``PALLET_DISTRIBUTION_TARGET=host:port`` runs the same tests against another registry.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import secrets
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pallet.registry.server import RegistryServer
from tests.support.registry import PalletRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.conformance

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
STREAM = {"Content-Type": "application/octet-stream"}
UNKNOWN = "sha256:" + "0" * 64


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def code(self) -> str:
        """The first error's code; checks the form of error bodies."""
        errors = json.loads(self.body)["errors"]
        assert isinstance(errors[0]["message"], str)
        return str(errors[0]["code"])


class Client:
    """Plain requests to one repository with a name of its own."""

    def __init__(self, authority: str) -> None:
        self.authority = authority
        self.name = f"t/{secrets.token_hex(4)}"

    def call(self, method: str, path: str, body: Any = None,
             headers: dict[str, str] | None = None) -> Reply:
        host, _, port = self.authority.rpartition(":")
        if not path.startswith(("/", "http")):
            path = f"/v2/{self.name}/{path}"
        path = path.removeprefix(f"http://{self.authority}")
        with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
            connection.request(method, path, body, headers or {},
                               encode_chunked=headers is not None and "Transfer-Encoding" in headers)
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()},
                         reply.read())

    def begin(self, query: str = "") -> Reply:
        return self.call("POST", f"blobs/uploads/{query}", b"")

    def patch(self, location: str, data: bytes, start: int) -> Reply:
        return self.call("PATCH", location, data, {
            **STREAM, "Content-Range": f"{start}-{start + len(data) - 1}"})

    def finish(self, location: str, name: str, data: bytes = b"", **headers: str) -> Reply:
        joint = "&" if "?" in location else "?"
        return self.call("PUT", f"{location}{joint}digest={name}", data,
                         {**STREAM, **{key.replace("_", "-"): value for key, value in headers.items()}})

    def blob(self, data: bytes, algorithm: str = "sha256") -> dict[str, Any]:
        """Push a blob and return its descriptor."""
        name = digest(data, algorithm)
        reply = self.finish(self.begin().headers["location"], name, data)
        assert reply.status == 201, reply
        return {"mediaType": LAYER, "digest": name, "size": len(data)}

    def manifest(self, **changes: Any) -> dict[str, Any]:
        """An image manifest whose blobs are there."""
        config = {**self.blob(b'{"architecture":"amd64","os":"linux"}'), "mediaType": CONFIG}
        return {"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                "layers": [self.blob(b"a layer")], **changes}

    def put(self, reference: str, document: dict[str, Any] | bytes, kind: str = MANIFEST) -> Reply:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.call("PUT", f"manifests/{reference}", raw, {"Content-Type": kind})


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.fixture(scope="module", params=["server", "workers"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server in this process, and the command with two worker processes."""
    target = os.environ.get("PALLET_DISTRIBUTION_TARGET")
    if target:
        yield target
        return
    if request.param == "workers":
        with PalletRegistry(tmp_path_factory.mktemp("workers"), workers=2) as running:
            yield running.address
        return
    server = RegistryServer(("127.0.0.1", 0), tmp_path_factory.mktemp("registry"))
    server.start()
    yield server.authority
    server.stop()


@pytest.fixture
def client(authority: str) -> Client:
    return Client(authority)


def test_end1_ping(client: Client) -> None:
    assert client.call("GET", "/v2/").status == 200


def test_ct02_tag_list_of_nothing(client: Client) -> None:
    reply = client.call("GET", "tags/list")
    assert reply.status == 404
    assert reply.code() == "NAME_UNKNOWN"


def test_ct03_referrers_of_nothing(client: Client) -> None:
    reply = client.call("GET", f"referrers/{UNKNOWN}")
    assert reply.status == 200
    assert reply.headers["content-type"] == INDEX
    assert json.loads(reply.body) == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


@pytest.mark.parametrize("reference", [UNKNOWN, "nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ct04_ct05_missing_manifest(client: Client, reference: str, method: str) -> None:
    reply = client.call(method, f"manifests/{reference}")
    assert reply.status == 404
    assert method == "HEAD" or reply.code() == "MANIFEST_UNKNOWN"


def test_ct06_ct07_bad_digest_in_url(client: Client) -> None:
    assert client.put("sha256:baddigeststring", client.manifest()).status == 400
    assert client.call("GET", "manifests/sha256:baddigeststring").status in (400, 404)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ct08_missing_blob(client: Client, method: str) -> None:
    reply = client.call(method, f"blobs/{UNKNOWN}")
    assert reply.status == 404
    assert method == "HEAD" or reply.code() == "BLOB_UNKNOWN"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_ct09_post_alone(client: Client, algorithm: str) -> None:
    data = b"in one request"
    reply = client.call("POST", f"blobs/uploads/?digest={digest(data, algorithm)}", data, STREAM)
    assert reply.status == 201
    assert client.call("GET", reply.headers["location"]).body == data


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"post then put", b"", b"{}"])
def test_ct10_ct21_ct22_post_put(client: Client, data: bytes, algorithm: str) -> None:
    begun = client.begin()
    assert begun.status == 202
    reply = client.finish(begun.headers["location"], digest(data, algorithm), data)
    assert reply.status == 201
    assert reply.headers["docker-content-digest"] == digest(data, algorithm)
    found = client.call("GET", reply.headers["location"])
    assert (found.status, found.body) == (200, data)
    assert found.headers["docker-content-digest"] == digest(data, algorithm)
    head = client.call("HEAD", reply.headers["location"])
    assert (head.status, head.headers["content-length"]) == (200, str(len(data)))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("last_in_put", [False, True])
def test_ct11_ct12_ct13_chunks(client: Client, algorithm: str, last_in_put: bool) -> None:
    chunks = [b"a" * 1000, b"b" * 500, b"c" * 7]
    location, sent = client.begin(f"?digest-algorithm={algorithm}").headers["location"], 0
    for chunk in chunks[:-1] if last_in_put else chunks:
        reply = client.patch(location, chunk, sent)
        sent += len(chunk)
        assert reply.status == 202
        assert reply.headers["range"] == f"0-{sent - 1}"
        location = reply.headers["location"]
    last = {"Content_Range": f"{sent}-{sent + 6}"} if last_in_put else {}
    whole = b"".join(chunks)
    reply = client.finish(location, digest(whole, algorithm), chunks[-1] if last_in_put else b"",
                          **last)
    assert reply.status == 201
    assert client.call("GET", reply.headers["location"]).body == whole


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_ct14_out_of_order(client: Client, method: str) -> None:
    data = b"0123456789"
    location = client.begin().headers["location"]
    location = client.patch(location, data[:5], 0).headers["location"]
    if method == "PATCH":
        wrong = client.patch(location, data[5:], 7)
    else:
        wrong = client.finish(location, digest(data), data[5:], Content_Range="7-11")
    assert wrong.status == 416
    status = client.call("GET", location)
    assert (status.status, status.headers["range"]) == (204, "0-4")
    assert client.patch(status.headers["location"], data[5:], 5).status == 202
    assert client.finish(status.headers["location"], digest(data)).status == 201


def test_first_chunk_must_begin_at_zero(client: Client) -> None:
    assert client.patch(client.begin().headers["location"], b"abc", 1).status == 416


@pytest.mark.parametrize("headers", [STREAM, {**STREAM, "Transfer-Encoding": "chunked"}])
def test_ct15_stream(client: Client, headers: dict[str, str]) -> None:
    data = random.Random(3).randbytes(300_000)
    body: Any = iter([data[:100_000], data[100_000:]]) if "Transfer-Encoding" in headers else data
    reply = client.call("PATCH", client.begin().headers["location"], body, headers)
    assert reply.status == 202
    assert client.finish(reply.headers["location"], digest(data)).status == 201
    assert client.call("GET", f"blobs/{digest(data)}").body == data


def test_ct16_ct17_ct18_mount(client: Client) -> None:
    data = secrets.token_bytes(50)
    client.blob(data)
    other = Client(client.authority)
    reply = other.begin(f"?mount={digest(data)}&from={client.name}")
    assert reply.status == 201
    assert other.call("GET", reply.headers["location"]).body == data
    third = Client(client.authority)
    assert third.begin(f"?mount={digest(data)}").status in (201, 202)
    missing = third.begin(f"?mount={UNKNOWN}&from={client.name}")
    assert missing.status == 202
    assert third.finish(missing.headers["location"], digest(b"x"), b"x").status == 201


def test_ct19_cancel(client: Client) -> None:
    location = client.begin().headers["location"]
    assert client.call("DELETE", location).status == 204
    assert client.call("GET", location).status == 404
    assert client.patch(location, b"x", 0).code() == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize(("wanted", "first", "last"), [
    ("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047),
    ("0-0", 0, 0), ("-5000", 0, 2047)])
def test_ct20_ranges(client: Client, wanted: str, first: int, last: int) -> None:
    data = random.Random(5).randbytes(2048)
    client.blob(data)
    reply = client.call("GET", f"blobs/{digest(data)}", headers={"Range": f"bytes={wanted}"})
    assert reply.status == 206
    assert reply.headers["content-range"] == f"bytes {first}-{last}/2048"
    assert reply.headers["content-length"] == str(last - first + 1)
    assert reply.body == data[first:last + 1]


@pytest.mark.parametrize("wanted", ["500-0", "5000-10000"])
def test_ct20_impossible_ranges(client: Client, wanted: str) -> None:
    data = random.Random(5).randbytes(2048)
    client.blob(data)
    reply = client.call("GET", f"blobs/{digest(data)}", headers={"Range": f"bytes={wanted}"})
    assert reply.status == 416


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_ct23_wrong_digest(client: Client, algorithm: str) -> None:
    wrong = digest(b"something else", algorithm)
    reply = client.call("POST", f"blobs/uploads/?digest={wrong}", b"data", STREAM)
    assert (reply.status, reply.code()) == (400, "DIGEST_INVALID")
    assert client.finish(client.begin().headers["location"], wrong, b"data").status == 400
    location = client.patch(client.begin().headers["location"], b"data", 0).headers["location"]
    assert client.finish(location, wrong).status == 400
    assert client.call("HEAD", f"blobs/{wrong}").status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_ct25_image(client: Client, algorithm: str) -> None:
    raw = json.dumps(client.manifest()).encode()
    assert client.put("1", raw).status == 201
    name = digest(raw, algorithm)
    reply = client.put(name, raw)
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, name)
    assert client.call("GET", reply.headers["location"]).body == raw
    for reference in ("1", name):
        for method in ("GET", "HEAD"):
            found = client.call(method, f"manifests/{reference}")
            assert found.status == 200
            assert found.headers["content-type"] == MANIFEST
            assert found.headers["content-length"] == str(len(raw))
            assert found.body == (raw if method == "GET" else b"")


def test_ct26_ct27_ct36_indexes(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    entry = {"mediaType": MANIFEST, "digest": digest(raw), "size": len(raw)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    assert client.put("i", index, INDEX).code() == "MANIFEST_BLOB_UNKNOWN"
    assert client.put(digest(raw), raw).status == 201
    assert client.put("i", index, INDEX).status == 201
    outer = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": INDEX, "digest": digest(index), "size": len(index)}]}
    assert client.put("o", outer, INDEX).status == 201
    assert client.call("GET", "manifests/i").headers["content-type"] == INDEX


def test_ct28_to_ct31_ct38_referrers(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    subject = {"mediaType": MANIFEST, "digest": digest(raw), "size": len(raw)}
    empty = {**client.blob(b"{}"), "mediaType": EMPTY}
    artifact = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x.sbom",
                "config": empty, "layers": [empty], "subject": subject, "annotations": {"a": "b"}}
    reply = client.put(digest(json.dumps(artifact).encode()), artifact)
    assert reply.status == 201
    assert reply.headers["oci-subject"] == digest(raw)
    image = client.manifest(subject=subject)
    client.put("image", image)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}
    assert client.put("index", index, INDEX).headers["oci-subject"] == digest(raw)
    found = json.loads(client.call("GET", f"referrers/{digest(raw)}").body)["manifests"]
    kinds = {entry["digest"]: entry.get("artifactType") for entry in found}
    assert kinds == {
        digest(json.dumps(artifact).encode()): "application/x.sbom",
        digest(json.dumps(image).encode()): CONFIG, digest(json.dumps(index).encode()): None}
    first = next(entry for entry in found if entry.get("artifactType") == "application/x.sbom")
    assert first["annotations"] == {"a": "b"}
    assert first["size"] == len(json.dumps(artifact))
    reply = client.call("GET", f"referrers/{digest(raw)}?artifactType=application/x.sbom")
    assert reply.headers["oci-filters-applied"] == "artifactType"
    assert [entry["digest"] for entry in json.loads(reply.body)["manifests"]] == [first["digest"]]
    assert client.call("DELETE", f"manifests/{first['digest']}").status == 202
    left = json.loads(client.call("GET", f"referrers/{digest(raw)}").body)["manifests"]
    assert first["digest"] not in {entry["digest"] for entry in left}


def test_ct32_to_ct35_odd_manifests(client: Client) -> None:
    plain = client.manifest()
    with_data = {**plain, "config": {**plain["config"], "data": "e30="}}
    assert client.put("data", with_data).status == 201
    foreign = {**plain, "layers": [{"mediaType": FOREIGN, "digest": UNKNOWN, "size": 5,
                                    "urls": ["http://127.0.0.1/x"]}]}
    assert client.put("foreign", foreign).status == 201
    custom = json.dumps({**plain, "x-custom": {"a": [1, 2.50]}}, indent=3).encode() + b"\n"
    assert client.put("custom", custom).status == 201
    assert client.call("GET", "manifests/custom").body == custom
    assert client.put("empty", {**plain, "layers": []}).status == 201


@pytest.mark.parametrize(("changes", "kind"), [
    ({"mediaType": INDEX}, MANIFEST), ({"schemaVersion": 1}, MANIFEST), ({"layers": None}, MANIFEST),
    ({"manifests": []}, MANIFEST), ({"config": {"digest": "x"}}, MANIFEST)])
def test_invalid_manifests(client: Client, changes: dict[str, Any], kind: str) -> None:
    reply = client.put("bad", client.manifest(**changes), kind)
    assert (reply.status, reply.code()) == (400, "MANIFEST_INVALID")
    assert client.call("HEAD", "manifests/bad").status == 404


def test_manifest_of_missing_blobs(client: Client) -> None:
    lacking = {"mediaType": LAYER, "digest": UNKNOWN, "size": 1}
    reply = client.put("bad", client.manifest(layers=[lacking]))
    assert reply.code() == "MANIFEST_BLOB_UNKNOWN"


def test_manifest_larger_than_allowed(client: Client) -> None:
    big = client.manifest(annotations={"fits": "x" * (4 << 20)})
    assert client.put("big", big).status == 413
    fits = client.manifest(annotations={"fits": "x" * ((4 << 20) - 2000)})
    assert client.put("fits", fits).status == 201


def test_ct37_tag_pages(client: Client) -> None:
    document = client.manifest()
    for tag in ("b", "A", "a", "c1", "c"):
        assert client.put(tag, document).status == 201
    assert json.loads(client.call("GET", "tags/list").body) == {
        "name": client.name, "tags": ["A", "a", "b", "c", "c1"]}
    page = client.call("GET", "tags/list?n=2")
    assert json.loads(page.body)["tags"] == ["A", "a"]
    link = page.headers["link"]
    assert link.endswith('; rel="next"')
    page = client.call("GET", link.partition(">")[0].lstrip("<"))
    assert json.loads(page.body)["tags"] == ["b", "c"]
    assert json.loads(client.call("GET", "tags/list?last=b").body)["tags"] == ["c", "c1"]
    nothing = client.call("GET", "tags/list?n=0")
    assert json.loads(nothing.body)["tags"] == []
    assert "link" not in nothing.headers
    assert client.call("GET", "tags/list?n=x").status == 400


def test_ct39_ct40_ct41_deletion(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    client.put("1", raw)
    client.put("2", raw)
    assert client.call("DELETE", "manifests/1").status == 202
    assert client.call("HEAD", "manifests/1").status == 404
    assert client.call("HEAD", f"manifests/{digest(raw)}").status == 200
    assert client.call("DELETE", f"manifests/{digest(raw)}").status == 202
    assert client.call("HEAD", f"manifests/{digest(raw)}").status == 404
    assert client.call("HEAD", "manifests/2").status == 404
    assert client.call("DELETE", f"manifests/{digest(raw)}").status == 404
    layer = digest(b"a layer")
    assert client.call("DELETE", f"blobs/{layer}").status == 202
    assert client.call("HEAD", f"blobs/{layer}").status == 404
    assert client.call("DELETE", f"blobs/{layer}").status == 404


def test_blobs_belong_to_their_repository(client: Client) -> None:
    data = secrets.token_bytes(20)
    client.blob(data)
    assert Client(client.authority).call("GET", f"blobs/{digest(data)}").status == 404


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-a", "a/_tags", "a%2F..%2Fb", "a" * 256])
def test_bad_names(client: Client, name: str) -> None:
    reply = client.call("GET", f"/v2/{name}/tags/list")
    assert (reply.status, reply.code()) in ((400, "NAME_INVALID"), (404, "NOT_FOUND"))


def test_push_by_digest_with_tags(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    reply = client.call("PUT", f"manifests/{digest(raw)}?tag=a&tag=b", raw, {"Content-Type": MANIFEST})
    assert (reply.status, reply.headers["oci-tag"]) == (201, "a, b")
    assert client.call("GET", "manifests/b").body == raw


def test_catalog(client: Client) -> None:
    client.blob(b"x")
    names = json.loads(client.call("GET", "/v2/_catalog").body)["repositories"]
    assert client.name in names
    assert names == sorted(names)
    page = client.call("GET", "/v2/_catalog?n=1")
    assert len(json.loads(page.body)["repositories"]) == 1


def test_unknown_paths_and_methods(client: Client) -> None:
    assert client.call("GET", "/nothing").status == 404
    assert client.call("PUT", f"blobs/{UNKNOWN}").status == 405
    assert client.call("PATCH", "manifests/x").status == 405


def test_keep_alive_after_refusals(authority: str) -> None:
    """A refused upload's body is read, so that the connection serves the next request."""
    host, _, port = authority.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        for _ in range(3):
            connection.request("PATCH", "/v2/a/blobs/uploads/none", b"x" * 200_000)
            reply = connection.getresponse()
            assert (reply.status, bool(reply.read())) == (404, True)
        connection.request("GET", "/v2/")
        assert connection.getresponse().status == 200
