"""Registry credentials from config.json and from helper programs."""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from pallet.client import credentials
from pallet.client.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

HELPER = """#!/bin/sh
read -r key
case $1 in
  get) [ -e "$0.stored" ] && cat "$0.stored" || { echo credentials not found in native keychain; exit 1; } ;;
  store) printf '%s' "$key" | sed 's/ServerURL/X/' > "$0.stored" ;;
  erase) rm -f "$0.stored" ;;
esac
"""


def auth(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def configure(tmp_path: Path, document: object) -> str:
    (tmp_path / "config.json").write_text(json.dumps(document))
    return str(tmp_path)


def decoded(header: str) -> object:
    return json.loads(base64.urlsafe_b64decode(header))


def test_nothing_known_is_an_empty_object(tmp_path: Path) -> None:
    assert decoded(credentials.registry_auth_header(str(tmp_path), {}, "reg:5000")) == {}


def test_auths_entry(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"auths": {"reg:5000": {"auth": auth("me", "s:ecret")}}})
    assert decoded(credentials.registry_auth_header(directory, {}, "reg:5000")) == {
        "username": "me", "password": "s:ecret", "serveraddress": "reg:5000"}


def test_key_with_scheme_is_found_by_host(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"auths": {"https://reg:5000/v1/": {"auth": auth("a", "b")}}})
    assert credentials.find(directory, {}, "reg:5000")["username"] == "a"


def test_identity_token(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"auths": {"r": {"auth": auth("a", ""),
                                                     "identitytoken": "tok"}}})
    assert credentials.find(directory, {}, "r")["identitytoken"] == "tok"


def test_inline_configuration_wins(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"auths": {"r": {"auth": auth("file", "x")}}})
    inline = json.dumps({"auths": {"r": {"auth": auth("inline", "x")}}})
    assert credentials.find(directory, {"DOCKER_AUTH_CONFIG": inline}, "r")["username"] == "inline"


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json"):
        credentials.find(str(tmp_path), {}, "r")
    configure(tmp_path, {"auths": {"r": {"auth": "%%%"}}})
    with pytest.raises(UsageError, match="invalid auth"):
        credentials.find(str(tmp_path), {}, "r")


def test_store_and_erase_in_the_file(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"psFormat": "x"})
    credentials.store(directory, "r", {"username": "u", "password": "p"})
    path = tmp_path / "config.json"
    assert json.loads(path.read_text()) == {"psFormat": "x", "auths": {"r": {"auth": auth("u", "p")}}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert credentials.erase(directory, "r")
    assert not credentials.erase(directory, "r")
    assert json.loads(path.read_text()) == {"psFormat": "x", "auths": {}}
    assert os.listdir(directory) == ["config.json"]


def test_symlinked_configuration_stays_a_symlink(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("{}")
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "config.json").symlink_to(real)
    credentials.store(str(folder), "r", {"username": "u", "password": "p"})
    assert (folder / "config.json").is_symlink()
    assert "auths" in json.loads(real.read_text())


def test_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-fake"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    directory = configure(tmp_path, {"credHelpers": {"r": "fake"}})
    assert credentials.find(directory, {}, "r") == {}
    assert credentials.store(directory, "r", {"username": "u", "password": "p"}) == "fake"
    assert credentials.find(directory, {}, "r") == {
        "username": "u", "password": "p", "serveraddress": "r"}
    assert credentials.find(directory, {}, "other") == {}
    credentials.erase(directory, "r")
    assert credentials.find(directory, {}, "r") == {}


def test_missing_helper_is_named(tmp_path: Path) -> None:
    directory = configure(tmp_path, {"credsStore": "does-not-exist"})
    with pytest.raises(UsageError, match="docker-credential-does-not-exist"):
        credentials.find(directory, {}, "r")
