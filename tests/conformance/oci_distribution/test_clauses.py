"""Clauses of registry.tsv that concern a server, each by its name: endpoints, error codes, rules.

``test_distribution.py`` has the conformance suite's own (ct), ``test_access_clauses.py`` tokens; ``docs/conformance.md`` lists all.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from pallet.registry.server import RegistryServer
from tests.conformance.oci_distribution import test_distribution as suite
from tests.conformance.oci_distribution.test_distribution import (
    CONFIG,
    EMPTY,
    FOREIGN,
    INDEX,
    LAYER,
    MANIFEST,
    STREAM,
    UNKNOWN,
    Client,
    Reply,
    digest,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.conformance

authority = suite.authority
client = suite.client

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_PLUGIN = "application/vnd.docker.plugin.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


# Endpoints


def test_end1_base_answers_200_or_401(client: Client) -> None:
    for path in ("/v2/", "/v2"):
        reply = client.call("GET", path)
        assert reply.status == 200
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"


def test_end2_blob_bytes_digest_and_ranges(client: Client) -> None:
    data = bytes(range(256)) * 8
    name = client.blob(data)["digest"]
    reply = client.call("GET", f"blobs/{name}")
    assert (reply.status, reply.body) == (200, data)
    assert (reply.headers["content-length"], reply.headers["docker-content-digest"]) == ("2048", name)
    part = client.call("GET", f"blobs/{name}", headers={"Range": "bytes=500-"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, data[500:], "bytes 500-2047/2048")
    assert part.headers["content-length"] == "1548"
    part = client.call("GET", f"blobs/{name}", headers={"Range": "bytes=-500"})
    assert (part.status, part.body) == (206, data[-500:])
    assert client.call("GET", f"blobs/{name}", headers={"Range": "bytes=2048-"}).status == 416
    assert client.call("GET", f"blobs/{UNKNOWN}").status == 404


def test_end2h_head_of_a_blob_is_get_without_its_body(client: Client) -> None:
    name = client.blob(b"some content")["digest"]
    got, head = (client.call(method, f"blobs/{name}") for method in ("GET", "HEAD"))
    assert (head.status, head.body) == (200, b"")
    for header in ("content-length", "docker-content-digest", "content-type"):
        assert head.headers[header] == got.headers[header]
    assert client.call("HEAD", f"blobs/{UNKNOWN}").status == 404


def test_end3_end3h_manifest_exactly_as_pushed(client: Client) -> None:
    raw = json.dumps(client.manifest(), indent=1).encode() + b"\n \n"
    assert client.put("1", raw).status == 201
    for reference in ("1", digest(raw)):
        got, head = (client.call(method, f"manifests/{reference}", headers={"Accept": MANIFEST})
                     for method in ("GET", "HEAD"))
        assert (got.status, got.body, head.status, head.body) == (200, raw, 200, b"")
        for reply in (got, head):
            assert reply.headers["content-type"] == MANIFEST
            assert reply.headers["content-length"] == str(len(raw))
            assert reply.headers["docker-content-digest"] == digest(raw)
    assert client.call("HEAD", "manifests/none").status == 404


def test_end4a_upload_begins_with_a_location_of_its_own(client: Client) -> None:
    first, second = client.begin(), client.begin()
    assert (first.status, second.status) == (202, 202)
    assert first.headers["location"] != second.headers["location"]
    assert first.headers["docker-upload-uuid"] in first.headers["location"]
    assert first.headers["range"].startswith("0-")


def test_end4b_whole_blob_with_the_post(client: Client) -> None:
    data = b"all at once"
    reply = client.call("POST", f"blobs/uploads/?digest={digest(data)}", data, STREAM)
    assert reply.status == 201
    assert client.call("GET", reply.headers["location"]).body == data
    wrong = client.call("POST", f"blobs/uploads/?digest={UNKNOWN}", data, STREAM)
    assert (wrong.status, wrong.code()) == (400, "DIGEST_INVALID")


def test_end4c_other_algorithms_are_announced(client: Client) -> None:
    data = b"long hash"
    reply = client.begin("?digest-algorithm=sha512")
    assert reply.status == 202
    assert client.finish(reply.headers["location"], digest(data, "sha512"), data).status == 201
    assert client.begin("?digest-algorithm=rot13").status == 400


def test_end5_chunks_and_streams(client: Client) -> None:
    location = client.begin().headers["location"]
    reply = client.patch(location, b"12345", 0)
    assert (reply.status, reply.headers["range"]) == (202, "0-4")
    reply = client.call("PATCH", reply.headers["location"], b"678", STREAM)
    assert (reply.status, reply.headers["range"]) == (202, "0-7")
    assert client.patch(reply.headers["location"], b"x", 3).status == 416
    assert client.call("PATCH", f"blobs/uploads/{'0' * 32}", b"x", STREAM).status == 404


def test_end6_put_ends_the_upload(client: Client) -> None:
    data = b"in two parts"
    location = client.patch(client.begin().headers["location"], data[:5], 0).headers["location"]
    reply = client.finish(location, digest(data), data[5:], Content_Range=f"5-{len(data) - 1}")
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, digest(data))
    assert client.call("GET", reply.headers["location"]).body == data
    assert client.finish(location, digest(data)).status == 404
    assert client.finish(client.begin().headers["location"], UNKNOWN, data).status == 400
    late = client.finish(client.begin().headers["location"], digest(data), data, Content_Range="7-18")
    assert late.status == 416


def test_end7a_manifest_put(client: Client) -> None:
    document = client.manifest(subject={"mediaType": MANIFEST, "digest": UNKNOWN, "size": 7})
    raw = json.dumps(document).encode()
    reply = client.put("1", raw)
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, digest(raw))
    assert reply.headers["oci-subject"] == UNKNOWN
    assert client.call("GET", reply.headers["location"]).body == raw
    assert client.put(UNKNOWN, raw).status == 400
    assert client.put("2", {**document, "layers": []}).status == 201
    large = client.manifest(annotations={"a": "x" * ((4 << 20) - 4000)})
    assert client.put("3", large).status == 201
    assert client.put("4", client.manifest(annotations={"a": "x" * (4 << 20)})).status == 413


def test_end7b_manifest_put_with_many_tags(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    tags = [f"t{number}" for number in range(10)]
    query = urlencode([("tag", tag) for tag in tags])
    reply = client.call("PUT", f"manifests/{digest(raw)}?{query}", raw, {"Content-Type": MANIFEST})
    assert reply.status == 201
    assert [tag.strip() for tag in reply.headers["oci-tag"].split(",")] == tags
    assert all(client.call("GET", f"manifests/{tag}").body == raw for tag in tags)


def test_end8a_tags_in_lexical_order(client: Client) -> None:
    document = client.manifest()
    for tag in ("zz", "B", "a_1", "a", "10", "9"):
        client.put(tag, document)
    reply = client.call("GET", "tags/list")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert json.loads(reply.body) == {"name": client.name, "tags": ["10", "9", "B", "a", "a_1", "zz"]}
    assert "link" not in reply.headers
    assert Client(client.authority).call("GET", "tags/list").status == 404


def test_end8b_pages_of_tags(client: Client) -> None:
    document = client.manifest()
    for tag in "edcba":
        client.put(tag, document)
    seen: list[str] = []
    path = "tags/list?n=2"
    while path:
        reply = client.call("GET", path)
        page = json.loads(reply.body)["tags"]
        assert len(page) == 2 or "link" not in reply.headers
        seen += page
        link = reply.headers.get("link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link.partition(">")[0].lstrip("<")
    assert seen == list("abcde")
    assert json.loads(client.call("GET", "tags/list?n=2&last=b").body)["tags"] == ["c", "d"]
    assert json.loads(client.call("GET", "tags/list?last=bb").body)["tags"] == ["c", "d", "e"]
    nothing = client.call("GET", "tags/list?n=0")
    assert (json.loads(nothing.body)["tags"], "link" in nothing.headers) == ([], False)


def test_end9_manifest_deletion(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    client.put("1", raw)
    client.put("2", raw)
    assert client.call("DELETE", "manifests/1").status == 202
    assert client.call("GET", "manifests/1").status == 404
    assert client.call("GET", "manifests/2").status == 200
    assert client.call("DELETE", f"manifests/{digest(raw)}").status == 202
    for reference in ("2", digest(raw)):
        assert client.call("GET", f"manifests/{reference}").status == 404
    assert client.call("DELETE", "manifests/1").status == 404


def test_end9_end10_deletion_can_be_off(tmp_path: Path) -> None:
    server = RegistryServer(("127.0.0.1", 0), tmp_path, allow_delete=False)
    server.start()
    try:
        closed = Client(server.authority)
        raw = json.dumps(closed.manifest()).encode()
        closed.put("1", raw)
        for path in ("manifests/1", f"manifests/{digest(raw)}", f"blobs/{digest(b'a layer')}"):
            reply = closed.call("DELETE", path)
            assert (reply.status, reply.code()) == (405, "UNSUPPORTED")
    finally:
        server.stop()


def test_end10_blob_deletion(client: Client) -> None:
    name = client.blob(b"unwanted")["digest"]
    assert client.call("DELETE", f"blobs/{name}").status == 202
    assert client.call("GET", f"blobs/{name}").status == 404
    assert client.call("DELETE", f"blobs/{name}").status == 404


def test_end11_mount_from_another_repository(client: Client) -> None:
    name = client.blob(b"shared")["digest"]
    other = Client(client.authority)
    reply = other.begin(f"?mount={name}&from={client.name}")
    assert (reply.status, reply.headers["docker-content-digest"]) == (201, name)
    assert other.call("GET", reply.headers["location"]).body == b"shared"
    missing = other.begin(f"?mount={UNKNOWN}&from={client.name}")
    assert missing.status == 202
    assert other.finish(missing.headers["location"], digest(b"x"), b"x").status == 201


def test_end12a_end12b_referrers_and_their_filter(client: Client) -> None:
    empty = {**client.blob(b"{}"), "mediaType": EMPTY}
    subject = {"mediaType": MANIFEST, "digest": digest(client.name.encode()), "size": 9}
    for number in range(3):
        client.put(f"r{number}", {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": [],
                                  "artifactType": f"application/x.t{number % 2}", "subject": subject,
                                  "annotations": {"number": str(number)}})
    path = f"referrers/{subject['digest']}"
    reply = client.call("GET", path)
    assert (reply.status, reply.headers["content-type"]) == (200, INDEX)
    document = json.loads(reply.body)
    assert (document["schemaVersion"], document["mediaType"]) == (2, INDEX)
    assert {entry["annotations"]["number"] for entry in document["manifests"]} == {"0", "1", "2"}
    for entry in document["manifests"]:
        assert {"mediaType", "size", "digest", "artifactType"} <= entry.keys()
    reply = client.call("GET", f"{path}?artifactType=application/x.t0")
    assert reply.headers["oci-filters-applied"] == "artifactType"
    assert {entry["artifactType"] for entry in json.loads(reply.body)["manifests"]} == {"application/x.t0"}
    page = client.call("GET", f"{path}?n=2")
    following = client.call("GET", page.headers["link"].partition(">")[0].lstrip("<"))
    assert len(json.loads(page.body)["manifests"]) + len(json.loads(following.body)["manifests"]) == 3
    assert client.call("GET", "referrers/sha256:short").status == 400
    assert json.loads(client.call("GET", f"referrers/{UNKNOWN}").body)["manifests"] == []


def test_end13_status_of_an_upload(client: Client) -> None:
    location = client.patch(client.begin().headers["location"], b"123", 0).headers["location"]
    assert client.patch(location, b"x", 9).status == 416
    reply = client.call("GET", location)
    assert (reply.status, reply.headers["range"], reply.body) == (204, "0-2", b"")
    assert client.patch(reply.headers["location"], b"45", 3).status == 202


def test_end14_upload_is_cancelled(client: Client) -> None:
    location = client.begin().headers["location"]
    assert client.call("DELETE", location, b"").status == 204
    assert client.call("GET", location).status == 404
    assert client.call("DELETE", location, b"").status == 404


def test_dockercatalog_pages(client: Client) -> None:
    for suffix in "ba":
        Client.blob(named(client, f"{client.name}/{suffix}"), b"x")
    last = f"{client.name}/"
    reply = client.call("GET", f"/v2/_catalog?n=1&last={last}")
    assert json.loads(reply.body) == {"repositories": [f"{client.name}/a"]}
    assert 'rel="next"' in reply.headers["link"]
    reply = client.call("GET", reply.headers["link"].partition(">")[0].lstrip("<"))
    assert json.loads(reply.body) == {"repositories": [f"{client.name}/b"]}


# Categories


def test_catpull_catpush_catdiscovery_catmanagement_are_all_offered(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    assert client.put("1", raw).status == 201
    assert client.call("GET", "manifests/1").status == 200
    assert client.call("GET", "tags/list").status == 200
    assert client.call("GET", f"referrers/{digest(raw)}").status == 200
    assert client.call("DELETE", "manifests/1").status == 202


def test_ct01_ping(client: Client) -> None:
    assert client.call("GET", "/v2/").status == 200


def test_ct24_everything_by_sha512(client: Client) -> None:
    config = {**client.blob(b"{}", "sha512"), "mediaType": CONFIG}
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [
        client.blob(b"layer", "sha512")]}
    raw = json.dumps(document).encode()
    name = digest(raw, "sha512")
    assert client.put(name, raw).status == 201
    assert client.call("GET", f"manifests/{name}").headers["docker-content-digest"] == name
    assert client.call("DELETE", f"manifests/{name}").status == 202


def test_ct42_form_of_errors(client: Client) -> None:
    for reply in (client.call("GET", f"manifests/{UNKNOWN}"), client.call("GET", f"blobs/{UNKNOWN}"),
                  client.put("1", b"{}"), client.call("GET", "tags/list")):
        assert 400 <= reply.status < 500
        assert reply.headers["content-type"].startswith("application/json")
        (error,) = json.loads(reply.body)["errors"]
        assert error["code"] == error["code"].upper()
        assert isinstance(error["message"], str)
        assert set(error) <= {"code", "message", "detail"}


# Error codes


def named(client: Client, name: str) -> Client:
    made = Client(client.authority)
    made.name = name
    return made


def refused(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.code()) == (status, code)


def test_code1_blob_unknown(client: Client) -> None:
    refused(client.call("GET", f"blobs/{UNKNOWN}"), 404, "BLOB_UNKNOWN")


def test_code2_blob_upload_invalid_or_out_of_range(client: Client) -> None:
    reply = client.patch(client.begin().headers["location"], b"x", 5)
    assert reply.status == 416
    assert reply.code() in {"BLOB_UPLOAD_INVALID", "RANGE_INVALID"}


def test_code3_blob_upload_unknown(client: Client) -> None:
    for method, query in (("PATCH", ""), ("PUT", f"?digest={UNKNOWN}"), ("GET", ""), ("DELETE", "")):
        body = b"x" if method in {"PATCH", "PUT"} else None
        refused(client.call(method, f"blobs/uploads/{'0' * 32}{query}", body), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("wrong", ["sha256:short", "nonsense", "md5:" + "0" * 32, f"sha256:{'A' * 64}", UNKNOWN])
def test_code4_digest_invalid(client: Client, wrong: str) -> None:
    refused(client.finish(client.begin().headers["location"], wrong, b"x"), 400, "DIGEST_INVALID")


def test_code5_manifest_blob_unknown(client: Client) -> None:
    reply = client.put("1", client.manifest(layers=[{"mediaType": LAYER, "digest": UNKNOWN, "size": 1}]))
    assert reply.status in {400, 404}
    assert reply.code() == "MANIFEST_BLOB_UNKNOWN"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"schemaVersion": 2}', b"\xff\xfe"])
def test_code6_manifest_invalid(client: Client, raw: bytes) -> None:
    refused(client.put("1", raw), 400, "MANIFEST_INVALID")


def test_code7_manifest_unknown(client: Client) -> None:
    client.put("1", client.manifest())
    for reference in ("2", UNKNOWN):
        refused(client.call("GET", f"manifests/{reference}"), 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("name", ["Upper", "-a", "a..b", "a___b", "a" * 256])
def test_code8_name_invalid(client: Client, name: str) -> None:
    refused(named(client, name).call("GET", "manifests/1"), 400, "NAME_INVALID")


def test_code9_name_unknown(client: Client) -> None:
    refused(client.call("GET", "tags/list"), 404, "NAME_UNKNOWN")


def test_code10_size_invalid(client: Client) -> None:
    location = client.begin().headers["location"]
    reply = client.call("PATCH", location, b"123", {**STREAM, "Content-Range": "0-9"})
    refused(reply, 400, "SIZE_INVALID")


def test_code13_unsupported(client: Client) -> None:
    refused(client.call("PUT", f"blobs/{UNKNOWN}", b""), 405, "UNSUPPORTED")


def test_code15_code16_schema1_is_not_taken(client: Client) -> None:
    raw = json.dumps({"schemaVersion": 1, "name": client.name, "tag": "1", "fsLayers": []}).encode()
    reply = client.put("1", raw, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    refused(reply, 400, "MANIFEST_INVALID")


# Rules


@pytest.mark.parametrize(("name", "valid"), [
    ("a", True), ("a/b/c", True), ("a.b", True), ("a_b", True), ("a__b", True), ("a--b", True), ("0/9", True),
    ("a_", False), ("a..b", False), ("a___b", False), ("A", False), ("a/-b", False), (".a", False)])
def test_rule01_names(client: Client, name: str, valid: bool) -> None:
    reply = named(client, name).call("POST", "blobs/uploads/", b"")
    assert (reply.status == 202) is valid
    assert valid or reply.code() == "NAME_INVALID"


@pytest.mark.parametrize(("tag", "valid"), [
    ("1", True), ("_x", True), ("v1.0-rc_1", True), ("A" * 128, True), ("A" * 129, False), (".x", False),
    ("-x", False), ("a+b", False)])
def test_rule02_tags(client: Client, tag: str, valid: bool) -> None:
    reply = client.put(tag, client.manifest())
    assert reply.status == (201 if valid else 400)


def test_rule03_digests(client: Client) -> None:
    for algorithm in ("sha256", "sha512"):
        name = client.blob(b"hashed", algorithm)["digest"]
        assert name == f"{algorithm}:{hashlib.new(algorithm, b'hashed').hexdigest()}"
        assert client.call("GET", f"blobs/{name}").status == 200
    for wrong in ("sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha512:" + "0" * 64, "sha256"):
        assert client.call("GET", f"blobs/{wrong}").status in {400, 404}


def test_rule05_the_referrers_tag_is_a_tag_like_others(client: Client) -> None:
    raw = json.dumps(client.manifest()).encode()
    client.put("1", raw)
    tag = digest(raw).replace(":", "-")
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    assert client.put(tag, index, INDEX).status == 201
    assert client.call("GET", f"manifests/{tag}").body == index


def test_rule06_rule07_mirror_echoes_the_namespace_and_warns(tmp_path: Path) -> None:
    from pallet.registry.mirror.settings import MirrorConfig, UpstreamConfig
    from tests.support.registrystore import settings

    upstream = RegistryServer(("127.0.0.1", 0), tmp_path / "upstream")
    upstream.start()
    origin = Client(upstream.authority)
    raw = json.dumps(origin.manifest()).encode()
    origin.put("1", raw)
    config = MirrorConfig(ttl_s=0.0, upstream=(
        UpstreamConfig(host="r.example", url=f"http://{upstream.authority}"),))
    mirror = RegistryServer(("127.0.0.1", 0), tmp_path / "mirror", config=settings(tmp_path / "mirror", mirror=config))
    mirror.start()
    try:
        asking = named(Client(mirror.authority), origin.name)
        reply = asking.call("GET", "manifests/1?ns=r.example")
        assert (reply.body, reply.headers["oci-namespace"]) == (raw, "r.example")
        assert "warning" not in reply.headers
        upstream.stop()
        reply = asking.call("GET", "manifests/1?ns=r.example")
        assert reply.body == raw
        assert reply.headers["warning"].startswith('299 - "')
        assert len(reply.headers["warning"]) <= 4096
    finally:
        upstream.stop()
        mirror.stop()


def test_rule08_rule09_type_is_that_of_the_push_whatever_is_accepted(client: Client) -> None:
    client.put("1", client.manifest())
    for accept in (f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {MANIFEST}, {INDEX}", f"{DOCKER_MANIFEST}, */*", "*/*"):
        reply = client.call("GET", "manifests/1", headers={"Accept": accept})
        assert (reply.status, reply.headers["content-type"]) == (200, MANIFEST)


def test_rule10_schema1_is_refused(client: Client) -> None:
    raw = json.dumps({"schemaVersion": 1, "fsLayers": [], "history": []}).encode()
    assert client.put("1", raw, "application/vnd.docker.distribution.manifest.v1+json").status == 400


def test_rule21_ranges_for_partial_downloads(client: Client) -> None:
    data = b"0123456789"
    name = client.blob(data)["digest"]
    etag = client.call("HEAD", f"blobs/{name}").headers["etag"]
    resumed = client.call("GET", f"blobs/{name}", headers={"Range": "bytes=4-", "If-Range": etag})
    assert (resumed.status, resumed.body) == (206, b"456789")
    changed = client.call("GET", f"blobs/{name}", headers={"Range": "bytes=4-", "If-Range": '"other"'})
    assert (changed.status, changed.body) == (200, data)
    assert client.call("GET", f"blobs/{name}", headers={"Range": "bytes=10-"}).status == 416


@pytest.mark.parametrize(("manifest", "config", "layer"), [
    pytest.param(MANIFEST, CONFIG, f"{LAYER}", id="rule23-rule25-rule26"),
    pytest.param(MANIFEST, CONFIG, f"{LAYER}+gzip", id="rule26-gzip"),
    pytest.param(MANIFEST, CONFIG, f"{LAYER}+zstd", id="rule26-zstd"),
    pytest.param(MANIFEST, EMPTY, EMPTY, id="rule27"),
    pytest.param(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER, id="rule28-rule30-rule31"),
    pytest.param(DOCKER_MANIFEST, DOCKER_PLUGIN, DOCKER_LAYER, id="rule32")])
def test_rule23_rule25_to_rule28_rule30_to_rule32_media_types(
    client: Client, manifest: str, config: str, layer: str
) -> None:
    document = {"schemaVersion": 2, "mediaType": manifest, "config": {**client.blob(b"{}"), "mediaType": config},
                "layers": [{**client.blob(b"a layer"), "mediaType": layer}]}
    assert client.put("1", document, manifest).status == 201
    assert client.call("GET", "manifests/1").headers["content-type"] == manifest


@pytest.mark.parametrize("kind", [FOREIGN, DOCKER_FOREIGN])
def test_rule26_rule31_foreign_layers_need_not_be_here(client: Client, kind: str) -> None:
    absent = {"mediaType": kind, "digest": UNKNOWN, "size": 5, "urls": ["https://example.org/x"]}
    assert client.put("1", client.manifest(layers=[absent])).status == 201


@pytest.mark.parametrize("kind", [INDEX, DOCKER_LIST])
def test_rule24_rule29_rule33_indexes_with_attestations(client: Client, kind: str) -> None:
    raw = json.dumps(client.manifest()).encode()
    client.put(digest(raw), raw)
    statement = json.dumps(client.manifest(annotations={"a": "statement"})).encode()
    client.put(digest(statement), statement)
    entries = [
        {"mediaType": MANIFEST, "digest": digest(raw), "size": len(raw),
         "platform": {"architecture": "amd64", "os": "linux"}},
        {"mediaType": MANIFEST, "digest": digest(statement), "size": len(statement),
         "platform": {"architecture": "unknown", "os": "unknown"},
         "annotations": {"vnd.docker.reference.type": "attestation-manifest",
                         "vnd.docker.reference.digest": digest(raw)}}]
    assert client.put("1", {"schemaVersion": 2, "mediaType": kind, "manifests": entries}, kind).status == 201
    assert json.loads(client.call("GET", "manifests/1").body)["manifests"] == entries
