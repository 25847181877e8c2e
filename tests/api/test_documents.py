"""Documents: every reply of a real dockerd 20.10 survives decode and encode with its exact shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pallet.api import version
from pallet.spec.engine import container, event, image, network, system, volume
from pallet.spec.engine import exec as execs

DOCUMENTS = json.loads((Path(__file__).parent / "golden" / "documents.json").read_text())
V1_41 = (1, 41)


def encode(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def without(document: Any, *keys: str) -> Any:
    """Drop keys at any depth: what 20.10 sends and newer daemons do not, at any version."""
    if isinstance(document, dict):
        return {key: without(value, *keys) for key, value in document.items() if key not in keys}
    if isinstance(document, list):
        return [without(value, *keys) for value in document]
    return document


KERNEL_MEMORY = ("KernelMemory", "KernelMemoryTCP")


@pytest.mark.parametrize("name", ["inspect-created", "inspect-running"])
def test_container_inspect(name: str) -> None:
    golden = DOCUMENTS[name]
    document = msgspec.convert(golden, container.ContainerInspect)
    ours = encode(version.container(V1_41, document))
    endpoint = ours["NetworkSettings"]["Networks"]["none"]
    assert endpoint["Aliases"] == [document.id[:12]]  # as 28 tells clients before 1.45
    endpoint["Aliases"] = None
    assert ours == golden


def test_container_list() -> None:
    golden = DOCUMENTS["list"]
    documents = msgspec.convert(golden, list[container.ContainerSummary])
    assert [encode(version.container_summary(V1_41, item)) for item in documents] == golden


def test_newest_shapes_have_what_older_lack() -> None:
    document = msgspec.convert(DOCUMENTS["inspect-running"], container.ContainerInspect)
    newest = encode(version.container((1, 51), document))
    endpoint = newest["NetworkSettings"]["Networks"]["none"]
    assert {"GwPriority", "DNSNames"} <= set(endpoint)
    assert endpoint["Aliases"] is None
    older = encode(version.container((1, 44), document))["NetworkSettings"]["Networks"]["none"]
    assert "DNSNames" in older
    assert "GwPriority" not in older


def test_image_inspect() -> None:
    golden = DOCUMENTS["image"]
    document = msgspec.convert(golden, image.ImageInspect)
    assert encode(version.image(V1_41, document)) == golden
    newest = encode(version.image((1, 51), document))
    assert not {"VirtualSize", "Container", "ContainerConfig"} & set(newest)
    assert not {"Hostname", "Tty", "AttachStdin"} & set(newest["Config"])
    assert {"Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes",
            "WorkingDir"} <= set(newest["Config"])


def test_image_list_and_history() -> None:
    golden = DOCUMENTS["images"]
    for row in golden:
        row["RepoDigests"] = row["RepoDigests"] or []
    documents = msgspec.convert(golden, list[image.ImageSummary])
    ours = [encode(version.image_summary(V1_41, item)) for item in documents]
    for row in golden:
        row["RepoDigests"] = row["RepoDigests"] or None
    assert ours == golden
    history = DOCUMENTS["history"]
    assert encode(msgspec.convert(history, list[image.ImageHistoryItem])) == history


def test_untagged_image_before_1_43() -> None:
    row = image.ImageSummary(created=1, id="sha256:0", size=1)
    assert encode(version.image_summary((1, 42), row))["RepoTags"] == ["<none>:<none>"]
    assert encode(version.image_summary((1, 43), row))["RepoTags"] == []


@pytest.mark.parametrize(("name", "kind"), [
    ("create", container.ContainerCreateResponse), ("exec", execs.ExecInspect),
    ("volume", volume.Volume), ("volumes", volume.VolumeList),
])
def test_same_in_every_version(name: str, kind: type[msgspec.Struct]) -> None:
    golden = DOCUMENTS[name]
    assert encode(msgspec.convert(golden, kind)) == golden


@pytest.mark.parametrize("name", ["networks", "network"])
def test_networks(name: str) -> None:
    golden = DOCUMENTS[name] if name == "networks" else [DOCUMENTS[name]]
    documents = msgspec.convert(golden, list[network.NetworkSummary])
    assert [encode(version.network(V1_41, item)) for item in documents] == golden


def test_events() -> None:
    golden = DOCUMENTS["events"]
    assert encode(msgspec.convert(golden, list[event.EventMessage])) == golden


def test_version() -> None:
    golden = DOCUMENTS["version"]
    assert encode(msgspec.convert(golden, system.SystemVersion)) == golden


def test_info() -> None:
    golden = without(DOCUMENTS["info"], "AllowNondistributableArtifactsCIDRs",
                     "AllowNondistributableArtifactsHostnames")
    golden |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False, "KernelMemory": False,
               "KernelMemoryTCP": False}
    ours = encode(version.info(V1_41, msgspec.convert(golden, system.SystemInfo)))
    assert ours.pop("CDISpecDirs") == []  # since 1.44, sent to every version
    assert ours == golden


def test_disk_usage() -> None:
    golden = DOCUMENTS["df"]
    for row in golden["Images"]:
        row["RepoDigests"] = row["RepoDigests"] or []
    golden["BuildCache"] = []
    ours = encode(version.disk_usage(V1_41, msgspec.convert(golden, system.DiskUsage)))
    for row in golden["Images"]:
        row["RepoDigests"] = row["RepoDigests"] or None
    assert ours == golden
