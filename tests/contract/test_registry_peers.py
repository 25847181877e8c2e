"""Pallet's registry and other people's clients and registries."""

from __future__ import annotations

import http.client
import json
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pallet.registry.auth import OpenAccess
from pallet.registry.server import RegistryServer
from tests.support.access import basic_access, token_access
from tests.support.faultyregistry import FaultyRegistry
from tests.support.registry import DebianRegistry, build_image
from tests.support.transfers import layer_tar, upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.auth import AccessControl

pytestmark = pytest.mark.needs("skopeo")

IMAGE = build_image([layer_tar({"a": b"a" * 100_000}), layer_tar({"b": b"b"})])


@pytest.fixture(params=[OpenAccess, basic_access, token_access])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    access: AccessControl = request.param()
    made = RegistryServer(("127.0.0.1", 0), tmp_path / "registry", access=access)
    made.start()
    yield made
    made.stop()


def skopeo(home: Path, *argv: str) -> str:
    """Run skopeo with credentials; what it printed."""
    done = subprocess.run(["skopeo", *argv], capture_output=True, text=True, timeout=60,
                          env={"HOME": str(home), "PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(home)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_moves_images(tmp_path: Path, server: RegistryServer) -> None:
    """In from an OCI layout, across repositories, out again, listed and deleted."""
    policy = tmp_path / ".config" / "containers"
    policy.mkdir(parents=True)
    (policy / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with FaultyRegistry(tmp_path / "source") as source:
        upload(source.authority, "a", "1", IMAGE)
        target = f"docker://{server.authority}/x/y"
        flags = ["--dest-tls-verify=false", "--src-tls-verify=false"]
        into, out_of = ["--dest-creds=joe:secret"], ["--src-creds=joe:secret"]
        reach = ["--tls-verify=false", "--creds=joe:secret"]
        skopeo(tmp_path, "copy", *flags, *into, f"docker://{source.authority}/a:1", f"{target}:1")
        skopeo(tmp_path, "copy", *flags, *into, *out_of, f"{target}:1", f"{target}z:2")
        layout = tmp_path / "layout"
        skopeo(tmp_path, "copy", *flags, *out_of, f"{target}z:2", f"oci:{layout}:2")
        index = json.loads((layout / "index.json").read_bytes())
        assert index["manifests"][0]["digest"] == IMAGE.digest
        skopeo(tmp_path, "copy", *flags, *into, f"oci:{layout}:2", f"{target}:3")
        assert json.loads(skopeo(tmp_path, "list-tags", *reach, target))["Tags"] == ["1", "3"]
        found = json.loads(skopeo(tmp_path, "inspect", *reach, f"{target}:3"))
        assert found["Digest"] == IMAGE.digest
        skopeo(tmp_path, "delete", *reach, f"{target}:3")
        assert json.loads(skopeo(tmp_path, "list-tags", *reach, target))["Tags"] == []


@pytest.mark.needs("registry")
def test_same_answers_as_debians_registry(tmp_path: Path) -> None:
    """For one pushed image, status, types and digests of the usual requests agree."""
    with FaultyRegistry(tmp_path / "ours") as ours, DebianRegistry(tmp_path / "theirs") as theirs:
        theirs.push("a/b", "1", IMAGE)
        upload(ours.authority, "a/b", "1", IMAGE)
        blob = next(iter(IMAGE.blobs))
        for method, path, headers in (
                ("GET", "/v2/", {}), ("HEAD", "/v2/a/b/manifests/1", {}),
                ("GET", f"/v2/a/b/manifests/{IMAGE.digest}", {}),
                ("GET", f"/v2/a/b/blobs/{blob}", {}), ("HEAD", f"/v2/a/b/blobs/{blob}", {}),
                ("GET", f"/v2/a/b/blobs/{blob}", {"Range": "bytes=10-19"}),
                ("GET", "/v2/a/b/tags/list", {}), ("GET", "/v2/none/tags/list", {}),
                ("GET", "/v2/a/b/manifests/none", {}), ("GET", "/v2/_catalog", {}),
                ("POST", "/v2/a/b/blobs/uploads/", {"Content-Length": "0"})):
            sent = {"Accept": IMAGE.media_type, **headers}
            one = ask(theirs.address, method, path, sent)
            assert ask(ours.authority, method, path, sent) == one, (method, path)


def ask(authority: str, method: str, path: str, headers: dict[str, str]) -> tuple[object, ...]:
    """Status, body and the headers that mean something; error bodies by their code."""
    host, _, port = authority.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status >= 400:
            return reply.status, [error["code"] for error in json.loads(body)["errors"]]
        kept = {name: reply.getheader(name) for name in (
            "Docker-Content-Digest", "Content-Range", "Range", "Docker-Distribution-Api-Version")}
        if "/manifests/" in path:
            kept["Content-Type"] = reply.getheader("Content-Type")
        document = json.loads(body) if body.startswith(b"{") else body
        return reply.status, document, kept
