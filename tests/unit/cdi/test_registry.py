"""Which devices a host has: CDI documents in directories."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pallet.cdi.registry import DeviceRegistry
from pallet.errors import SystemFailureError

# Documents, and what dockerd 28.5.2 says in ``docker info`` of each that it does not take.
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden/documents.json").read_text())


def device(name: str = "one", **edits: object) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits or {"env": ["A=1"]}}


def document(*devices: dict[str, Any], kind: str = "vendor.com/thing", **more: object) -> str:
    return json.dumps({"cdiVersion": "0.6.0", "kind": kind, "devices": list(devices) or [device()], **more})


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_documents(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(case["document"]))
    catalog = DeviceRegistry([str(tmp_path)]).look()
    wanted = [] if not case["problem"] else [
        f"CDI: Error associated with spec file {path}: failed to load CDI Spec invalid CDI Spec: {case['problem']}"]
    assert catalog.warnings() == wanted
    assert bool(catalog.devices) == (not wanted)


@pytest.mark.parametrize("text", ["{ nope", "[]", '{"cdiVersion": "0.6.0", "kind": "a.com/bb", "other": 1}'])
def test_what_is_no_document(text: str, tmp_path: Path) -> None:
    """A field that nobody knows is a device without a part of it."""
    (tmp_path / "x.json").write_text(text)
    (warning,) = DeviceRegistry([str(tmp_path)]).look().warnings()
    assert f'failed to parse CDI Spec "{tmp_path}/x.json"' in warning


def test_yaml_has_texts_where_texts_belong(tmp_path: Path) -> None:
    """``true`` as an annotation, a device named 12, and an octal mode."""
    (tmp_path / "x.yaml").write_text(
        'cdiVersion: 0.7.0\nkind: vendor.com/thing\nannotations:\n  allow: true\ndevices:\n- name: 12\n  containerEdits:\n'
        "    additionalGids: [7]\n    env: [A=1]\n    deviceNodes:\n    - path: /dev/x\n      fileMode: 0600\n")
    (tmp_path / "y.yml").write_text("not read")
    catalog = DeviceRegistry([str(tmp_path)]).look()
    assert catalog.warnings() == []
    known = catalog.devices["vendor.com/thing=12"]
    assert known.annotations == {"allow": "true"}
    assert known.device.container_edits.device_nodes[0].file_mode == 0o600
    assert known.device.container_edits.additional_gids == [7]


def test_a_later_directory_wins_and_one_directory_does_not_contradict_itself(tmp_path: Path) -> None:
    early, late = tmp_path / "a", tmp_path / "b"
    for directory in (early, late):
        directory.mkdir()
    (early / "x.json").write_text(document(device("one", env=["FROM=early"]), device("two", env=["FROM=early"])))
    (late / "x.json").write_text(document(device("one", env=["FROM=late"])))
    (late / "y.json").write_text(document(device("two"), kind="other.com/thing"))
    (late / "z.json").write_text(document(device("two"), kind="other.com/thing"))
    catalog = DeviceRegistry([str(early), str(late), str(tmp_path / "none")]).look()
    assert {name: known.device.container_edits.env for name, known in catalog.devices.items()} == {
        "vendor.com/thing=one": ["FROM=late"], "vendor.com/thing=two": ["FROM=early"]}
    assert catalog.warnings() == [
        f'CDI: Error associated with spec file {late}/{name}.json: conflicting device "other.com/thing=two" '
        f'(specs "{late}/z.json", "{late}/y.json")' for name in "yz"]


def test_changes_are_seen(tmp_path: Path) -> None:
    registry = DeviceRegistry([str(tmp_path)])
    assert not registry.look().devices
    (tmp_path / "x.json").write_text(document())
    first = registry.look()
    assert list(first.devices) == ["vendor.com/thing=one"]
    assert registry.look() is first  # nothing is read twice
    (tmp_path / "new").write_text(document(device("two")))
    os.replace(tmp_path / "new", tmp_path / "x.json")
    assert list(registry.look().devices) == ["vendor.com/thing=two"]
    (tmp_path / "x.json").unlink()
    assert not registry.look().devices


def test_unknown_names_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(document())
    catalog = DeviceRegistry([str(tmp_path)]).look()
    assert [known.name for known in catalog.resolve(["vendor.com/thing=one"] * 2)] == ["vendor.com/thing=one"]
    with pytest.raises(SystemFailureError) as caught:
        catalog.resolve(["vendor.com/thing=one", "vendor.com/thing=x", "y"])
    assert str(caught.value) == "CDI device injection failed: unresolvable CDI devices vendor.com/thing=x, y"
