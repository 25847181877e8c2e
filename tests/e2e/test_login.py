"""``login`` and ``logout``: docker's words, and what is left in config.json and in helpers."""

from __future__ import annotations

import base64
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.access import token_access
from tests.support.daemon import pallet_command
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.faultyregistry import FaultyRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "registry")

HELPER = """#!/usr/bin/python3
import json, os, sys
path = os.environ["HOME"] + "/store.json"
store = json.load(open(path)) if os.path.exists(path) else {}
data = sys.stdin.read()
if sys.argv[1] == "get":
    if data.strip() not in store:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(store[data.strip()]))
elif sys.argv[1] == "store":
    entry = json.loads(data)
    store[entry["ServerURL"]] = entry
elif sys.argv[1] == "erase":
    store.pop(data.strip(), None)
json.dump(store, open(path, "w"))
"""
USER = base64.b64encode(b"user:secret").decode()
LOGIN = ["login", "-u", "user", "--password-stdin", "{0}"]

# (config.json before or None to go on with what is there, command, standard input); {0} is the registry.
STEPS: list[tuple[dict[str, Any] | None, list[str], str]] = [
    ({"HttpHeaders": {"a": "b"}}, LOGIN, "secret\n"),
    (None, ["login", "{0}"], ""),
    (None, ["login", "-u", "user", "{0}"], ""),
    (None, ["logout", "{0}"], ""),
    (None, ["logout", "{0}"], ""),
    ({}, ["login", "-u", "user", "-p", "secret", "{0}"], ""),
    (None, ["logout", "https://{0}/v2/"], ""),
    ({}, ["login", "-u", "user", "--password-stdin", "http://{0}/v1/"], "secret"),
    ({}, ["login", "-u", "user", "-p", "bad", "{0}"], ""),
    ({}, ["login", "-p", "secret", "{0}"], ""),
    ({}, ["login", "--password-stdin", "{0}"], "x"),
    ({}, ["login", "-u", "user", "{0}"], ""),
    ({}, ["login", "-u", "user", "--password-stdin", "127.0.0.1:1"], "secret"),
    ({}, ["login", "-u", "a", "-p", "b", "--password-stdin", "{0}"], "x"),
    ({}, LOGIN, ""),
    ({}, ["logout"], ""),
    ({"auths": {"{0}": {"auth": USER}, "other": {"auth": USER}}}, ["logout", "{0}"], ""),
    ({"auths": {"{0}": {"auth": base64.b64encode(b"user:old").decode()}}}, ["login", "{0}"], ""),
    ({"credsStore": "fake"}, LOGIN, "secret"),
    (None, ["login", "{0}"], ""),
    (None, ["logout", "{0}"], ""),
    ({"credHelpers": {"{0}": "fake"}}, LOGIN, "secret"),
    (None, ["logout", "{0}"], ""),
    ({"credsStore": "missing"}, LOGIN, "secret"),
]


@pytest.fixture
def pair(engine: Daemon, tmp_path: Path) -> list[DockerCli]:
    """``docker`` and ``pallet``, each with a configuration of its own and the same helper."""
    programs = tmp_path / "bin"
    programs.mkdir()
    helper = programs / "docker-credential-fake"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    made = []
    for name, argv in (("docker", [docker_binaries()[0]]), ("pallet", pallet_command())):
        cli = DockerCli(argv, engine.cli().host, tmp_path / name)
        cli.env["PATH"] = f"{programs}:{cli.env['PATH']}"
        made.append(cli)
    return made


def state(cli: DockerCli) -> dict[str, Any]:
    """What the client and the helper have kept."""
    return {name: json.loads((cli.config / name).read_text())
            for name in ("config.json", "store.json") if (cli.config / name).exists()}


def test_side_by_side(pair: list[DockerCli], auth_registry: Registry) -> None:
    """Step by step the same words, exit codes and documents."""
    address = auth_registry.address
    for before, words, stdin in STEPS:
        results = []
        for cli in pair:
            if before is not None:
                (cli.config / "config.json").write_text(
                    json.dumps(before).replace("{0}", address))
            done = cli.run(*(word.format(address) for word in words), stdin=stdin)
            err = done.err.replace(str(cli.config), "HOME").replace("'pallet log", "'docker log")
            results.append((done.code, done.out, err, state(cli)))
        assert results[1] == results[0], (words, results[0][2])


def test_file(pair: list[DockerCli], auth_registry: Registry) -> None:
    """Mode 0600, whatever it was; unknown keys stay; a symlink stays one."""
    pallet = pair[1]
    real = pallet.config / "real.json"
    real.write_text('{"zz": [1, 2.5, {"a": "<b>"}]}')
    (pallet.config / "config.json").symlink_to(real)
    pallet.run("login", "-u", "user", "--password-stdin", auth_registry.address, stdin="secret",
               check=True)
    assert json.loads(real.read_text()) == {
        "zz": [1, 2.5, {"a": "<b>"}], "auths": {auth_registry.address: {"auth": USER}}}
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert (pallet.config / "config.json").is_symlink()


def test_identity_token(pair: list[DockerCli], tmp_path: Path) -> None:
    """A token server's refresh token is kept in place of the password, and good for a push."""
    with FaultyRegistry(tmp_path / "registry", access=token_access({"user": "secret"})) as server:
        for cli, other in zip(pair, reversed(pair), strict=True):
            cli.run("login", "-u", "user", "--password-stdin", server.authority, stdin="secret",
                    check=True)
            entry = state(cli)["config.json"]["auths"][server.authority]
            assert entry["identitytoken"]
            assert base64.b64decode(entry["auth"]) == b"user:"
            target = f"{server.authority}/private/image:1"
            cli.run("tag", "busybox", target, check=True)
            try:
                assert other.run("push", target).code == 1
                cli.run("push", target, check=True)
                cli.run("manifest", "inspect", "--insecure", target, check=True)
            finally:
                cli.run("rmi", target)
            cli.run("logout", server.authority, check=True)
