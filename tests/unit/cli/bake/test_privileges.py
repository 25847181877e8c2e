"""What a definition may do only where the user allows it; the words are buildx's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pallet.cli.bake.privileges import problem
from pallet.cli.bake.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


REPOSITORY, FILE = (Remote(None, f"https://x/{name}") for name in ("r.git", "d.hcl"))  # type: ignore[arg-type]
FILE.is_file = True


def asked(target: dict[str, Any], allowed: Sequence[str] = (), *, remote: Remote | None = None,
          environment: dict[str, str] | None = None) -> list[str]:
    text = problem({"t": {"context": ".", **target}}, allowed, remote=remote, environment=environment or {})
    return [line.removeprefix(" - ") for line in text.splitlines() if line.startswith(" - ")]


@pytest.mark.parametrize(("entitlement", "words", "grants"), [
    ("network.host", "Running build containers that can access host network", ["network.host"]),
    ("security.insecure", "Running privileged containers that can make system changes", ["security.insecure"]),
    ("device", "Access to CDI devices", ["device"]),
    ("device=v.com/x=a,alias=b", "Access to device v.com/x=a", ["device=v.com/x=a,alias=b", "device"])])
def test_entitlements(entitlement: str, words: str, grants: Sequence[str]) -> None:
    assert asked({"entitlements": [entitlement]}) == [words]
    assert asked({"entitlements": [entitlement]}, ["other"]) == [words]
    for grant in grants:
        assert asked({"entitlements": [entitlement]}, [grant]) == []


FILES = {"context": "cwd://../up", "dockerfile": "Dockerfile", "contexts": {"b": "oci-layout:///lay@sha256:x", "c": "in"},
         "secret": [{"id": "s", "src": "/etc/hostname"}, {"id": "e", "env": "HOME"}],
         "ssh": [{"id": "default"}, {"id": "k", "paths": ["/agent"]}],
         "cache-from": [{"type": "local", "src": "/from"}, {"type": "registry", "ref": "/x"}],
         "cache-to": [{"type": "local", "dest": "/to"}], "output": [{"type": "tar", "dest": "inside/o.tar"}]}


def test_files_of_definitions_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert asked(FILES) == []
    assert asked(FILES, remote=REPOSITORY) == [
        *(f"Read access to path {path}" for path in ("../up", "/agent", "/etc/hostname", "/from", "/lay")),
        "Forwarding default SSH agent socket", "Write access to path /to"]
    assert asked(FILES, ["fs=*", "ssh"], remote=REPOSITORY) == []
    assert asked(FILES, ["fs.read=/", "ssh"], remote=REPOSITORY) == ["Write access to path /to"]
    assert asked(FILES, remote=REPOSITORY, environment={"BUILDX_BAKE_ENTITLEMENTS_FS": "0"}) == []


def test_a_link_leads_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").symlink_to("/etc")
    monkeypatch.chdir(tmp_path)
    assert asked({"secret": [{"id": "s", "src": "out/hostname"}]}, remote=REPOSITORY) == ["Read access to path out/hostname"]


def test_where_relative_paths_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the repository, or, where a file at a URL is all there is, from the working directory."""
    monkeypatch.chdir(tmp_path)
    target = {"context": "../up", "dockerfile": "../../file", "contexts": {"a": "/abs", "b": "target:x", "c": "https://y/z.git"}}
    assert asked(target, remote=REPOSITORY) == []
    assert asked(target, remote=FILE) == [f"Read access to path {path}" for path in ("../../file", "../up", "/abs")]
