"""Manifests and configurations: decoding what registries really send."""

from __future__ import annotations

import json

import pytest

from pallet.errors import DataLossError, InvalidParameterError
from pallet.spec import digest as digests
from pallet.spec import image

DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": image.OCI_CONFIG, "digest": DIGEST, "size": 2}


def raw(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(("document", "header", "expected"), [
    (raw(schemaVersion=2, mediaType=image.OCI_MANIFEST, layers=[]), "", image.OCI_MANIFEST),
    (raw(schemaVersion=2, layers=[]), "", image.OCI_MANIFEST),
    (raw(schemaVersion=2, manifests=[]), "", image.OCI_INDEX),
    (raw(schemaVersion=2, layers=[]), image.DOCKER_MANIFEST, image.DOCKER_MANIFEST),
    (raw(schemaVersion=2, manifests=[]), image.DOCKER_LIST + "; charset=utf-8", image.DOCKER_LIST),
    (raw(schemaVersion=2, mediaType=image.DOCKER_LIST, manifests=[]), "text/plain",
     image.DOCKER_LIST),
])
def test_media_type(document: bytes, header: str, expected: str) -> None:
    """The reply's header first, then the document's own field, then its shape."""
    assert image.sniff_media_type(document, header) == expected


@pytest.mark.parametrize(("document", "header", "words"), [
    (raw(schemaVersion=1, fsLayers=[]), image.SCHEMA1_SIGNED, "DEPRECATION NOTICE"),
    (raw(schemaVersion=1, fsLayers=[]), "", "DEPRECATION NOTICE"),
    (raw(schemaVersion=2, mediaType=image.OCI_INDEX, manifests=[]), image.OCI_MANIFEST,
     "mediaType in manifest should be"),
    (raw(schemaVersion=2, layers=[], manifests=[]), "", "both layers and manifests"),
    (raw(schemaVersion=2, mediaType="application/x", layers=[]), "", "unsupported manifest"),
    (b"<html>", "text/html", "invalid manifest"),
])
def test_media_type_refuses(document: bytes, header: str, words: str) -> None:
    """Types that contradict each other are an attack or an accident, never an image."""
    with pytest.raises(InvalidParameterError, match=words):
        image.sniff_media_type(document, header)


def test_manifest_ignores_unknown_fields() -> None:
    """image-spec considerations.md: unknown properties are ignored."""
    manifest = image.decode_manifest(raw(schemaVersion=2, config=DESCRIPTOR, layers=[], more={"x": 1}))
    assert manifest.config.digest == DIGEST
    assert manifest.layers == []


def test_config_with_nulls_everywhere() -> None:
    """Go takes null as absent for every type, so such images exist."""
    config = image.decode_config(raw(
        architecture="amd64", os="linux", created=None, author=None, variant=None,
        config={"Env": None, "ArgsEscaped": None, "User": None, "Healthcheck": None},
        rootfs={"type": "layers", "diff_ids": [DIGEST]}, history=None))
    assert config.rootfs.diff_ids == [DIGEST]
    assert config.config is not None
    assert config.config.user == ""


@pytest.mark.parametrize("document", [b"", b"[]", b"{", raw(layers=[]), raw(config="x", layers=[])])
def test_bad_manifest(document: bytes) -> None:
    """What is no manifest is damaged content."""
    with pytest.raises(DataLossError):
        image.decode_manifest(document)


def test_attestation_entries_are_recognised() -> None:
    """They are not images, whatever platform they name."""
    entry = image.Descriptor(media_type=image.OCI_MANIFEST, digest=digests.parse(DIGEST), size=1,
                             annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert entry.is_attestation


@pytest.mark.parametrize(("text", "message"), [
    ("sha256", "invalid checksum digest format"),
    ("sha256:" + "a" * 63, "invalid checksum digest length"),
    ("sha256:" + "A" * 64, "invalid checksum digest format"),
    ("md5:" + "a" * 32, "unsupported digest algorithm"),
    ("sha256:../../../../etc/passwd", "invalid checksum digest format"),
])
def test_digest_refuses(text: str, message: str) -> None:
    """A digest becomes part of a path: nothing but hex may pass."""
    with pytest.raises(digests.DigestError, match=message):
        digests.parse(text)
    assert not digests.is_digest(text)
