"""A registry with users, rules, tokens, TLS and limits, and the clients that people use."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest

from tests.support.access import write_users
from tests.support.guardedregistry import Certificates, GuardedRegistry, TokenIssuer, run_pallet
from tests.support.registry import DebianRegistry, basic, build_image
from tests.support.terminal import Terminal
from tests.support.transfers import layer_tar
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

IMAGE = build_image([layer_tar({"a": b"a" * 1000})])
MANIFEST = {"Accept": "application/vnd.docker.distribution.manifest.v2+json, "
            "application/vnd.oci.image.manifest.v1+json"}
PEOPLE = {"ann": "ann-secret", "bob": "bob-secret"}


def auth(users: Path, *, extra: str = "") -> str:
    """Ann may do everything in team/, bob may read there; public/ is everybody's to read."""
    return f"""
[auth]
htpasswd = "{users}"
{extra}
[auth.groups]
readers = ["bob"]
[auth.token]
[[rule]]
repository = "team/*"
users = ["ann"]
allow = ["push", "delete", "catalog"]
[[rule]]
repository = "team/*"
groups = ["readers"]
allow = ["pull"]
[[rule]]
repository = "public/*"
anonymous = true
allow = ["pull"]
[[rule]]
repository = "public/*"
users = ["ann"]
allow = ["push"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRegistry]:
    top = tmp_path_factory.mktemp("guarded")
    with GuardedRegistry(top / "registry", config=auth(write_users(top / "users", PEOPLE))) as made:
        yield made


@pytest.fixture
def ann(engine: Daemon, tmp_path: Path) -> DockerCli:
    """A docker command line with a configuration of its own."""
    return _cli(engine, tmp_path / "ann")


@pytest.fixture
def bob(engine: Daemon, tmp_path: Path) -> DockerCli:
    return _cli(engine, tmp_path / "bob")


def _cli(engine: Daemon, config: Path) -> DockerCli:
    cli = engine.cli()
    cli.config = config
    config.mkdir()
    cli.env["DOCKER_CONFIG"] = cli.env["HOME"] = str(config)
    return cli


def login(cli: DockerCli, server: GuardedRegistry, user: str, password: str = "") -> None:
    assert cli.ok("login", "-u", user, "--password-stdin", server.address,
                  stdin=password or PEOPLE[user]) == "Login Succeeded"


def test_login_push_pull_by_rules(server: GuardedRegistry, ann: DockerCli, bob: DockerCli) -> None:
    """auth-16, auth-24: who may push pushes, who may read reads, and nobody else gets anything."""
    private, public = f"{server.address}/team/app:1", f"{server.address}/public/app:1"
    wrong = ann.run("login", "-u", "ann", "--password-stdin", server.address, stdin="no")
    assert wrong.code == 1
    assert "unauthorized: incorrect username or password" in wrong.err
    try:
        for target in (private, public):
            ann.ok("tag", "busybox", target)
        assert "denied: requested access to the resource is denied" in ann.run("push", private).err
        login(ann, server, "ann")
        login(bob, server, "bob")
        for target in (private, public):
            ann.ok("push", target)
        assert "denied: requested access to the resource is denied" in bob.run("push", private).err
        ann.ok("rmi", private, public)
        bob.ok("pull", private)
        entry = json.loads((ann.config / "config.json").read_text())["auths"][server.address]
        assert entry["identitytoken"]
        ann.ok("logout", server.address)
        ann.ok("pull", public)
        denied = ann.run("pull", f"{server.address}/team/app:1")
        assert f"pull access denied for {server.address}/team/app" in denied.err
    finally:
        ann.run("rmi", private, public)


def test_pallet_login(server: GuardedRegistry, engine: Daemon, tmp_path: Path) -> None:
    """The same with our own command line."""
    from tests.support.daemon import pallet_command
    cli = _cli(engine, tmp_path / "config")
    cli.argv = pallet_command()
    target = f"{server.address}/team/pallet:1"
    login(cli, server, "ann")
    try:
        cli.ok("tag", "busybox", target)
        cli.ok("push", target)
        cli.ok("logout", server.address)
        assert cli.run("push", target).code == 1
    finally:
        cli.run("rmi", target)


@pytest.mark.needs("skopeo")
def test_skopeo(server: GuardedRegistry, tmp_path: Path) -> None:
    """Copies between repositories with the rights of two scopes, lists, deletes; not without them."""
    header = server.token("ann", PEOPLE["ann"], "repository:team/origin:pull,push")
    push(server, "team/origin", {"Authorization": header})
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path)}

    def skopeo(*words: str) -> subprocess.CompletedProcess[str]:
        command, *rest = words
        return subprocess.run(["skopeo", "--policy", str(tmp_path / "policy.json"), command, *rest], env=env,
                              capture_output=True, text=True, timeout=60, check=False)

    team = f"docker://{server.address}/team"
    assert skopeo("list-tags", "--tls-verify=false", f"{team}/origin").returncode != 0
    for user, status in (("bob", False), ("ann", True)):
        done = skopeo("login", "--tls-verify=false", "-u", user, "-p", PEOPLE[user], server.address)
        assert done.returncode == 0, done.stderr
        tags = skopeo("list-tags", "--tls-verify=false", f"{team}/origin")
        assert json.loads(tags.stdout)["Tags"] == ["1"]
        copied = skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", f"{team}/origin:1",
                        f"{team}/copy:1")
        assert (copied.returncode == 0) is status, copied.stderr
        deleted = skopeo("delete", "--tls-verify=false", f"{team}/copy:1")
        assert (deleted.returncode == 0) is status, deleted.stderr


def push(server: GuardedRegistry, name: str, headers: dict[str, str]) -> None:
    """Upload ``IMAGE`` as ``name:1``."""
    for digest, data in IMAGE.blobs.items():
        status, _, body = server.request("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data, headers)
        assert status == 201, body
    status, _, body = server.request("PUT", f"/v2/{name}/manifests/1", IMAGE.manifest,
                                     {**headers, "Content-Type": IMAGE.media_type})
    assert status == 201, body


def test_kept_replies_are_for_those_who_may_read(server: GuardedRegistry) -> None:
    """What was answered before is answered again from memory, and still not to others."""
    ann = {"Authorization": server.token("ann", PEOPLE["ann"], "repository:team/kept:pull,push")}
    push(server, "team/kept", ann)
    blob = next(iter(IMAGE.blobs))
    paths = ["/v2/team/kept/manifests/1", f"/v2/team/kept/manifests/{IMAGE.digest}", f"/v2/team/kept/blobs/{blob}"]
    other = server.token("ann", PEOPLE["ann"], "repository:team/other:pull")
    joined = [{}, {"Authorization": other}, {"Authorization": f"{other}x"},
              {"Authorization": basic("ann", "wrong")}, {"Authorization": "Basic x"}]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:

        def status(method: str, path: str, headers: dict[str, str]) -> int:
            connection.request(method, path, headers={**MANIFEST, **headers})  # all of them over one worker
            reply = connection.getresponse()
            reply.read()
            return reply.status

        for path in paths:
            for method in ("GET", "HEAD"):
                assert [status(method, path, ann) for _ in range(3)] == [200] * 3
                assert [status(method, path, headers) for headers in joined] == [401] * len(joined)
                assert status(method, path, {"Authorization": basic("bob", PEOPLE["bob"])}) == 200
        assert [status("GET", "/v2/", headers) for headers in (ann, {}, ann)] == [200, 401, 200]


def test_clients_behind_a_balancer(tmp_path: Path) -> None:
    """Limits count them, and challenges name the scheme that they came by."""
    users = write_users(tmp_path / "users", PEOPLE)
    config = auth(users) + '[http]\ntrusted_proxies = ["127.0.0.0/8"]\n[limits]\nanonymous_requests = "3/1h"\n'
    with GuardedRegistry(tmp_path / "registry", config=config) as server:
        secure = {"X-Forwarded-For": "203.0.113.1, 198.51.100.7", "X-Forwarded-Proto": "https"}
        for status in (401, 401, 401, 429):
            found, headers, _ = server.request("GET", "/v2/", headers=secure)
            assert found == status
            assert status == 429 or 'realm="https://' in headers["www-authenticate"]
        elsewhere = {**secure, "X-Forwarded-For": "198.51.100.8"}
        assert server.request("GET", "/v2/", headers=elsewhere)[0] == 401


@pytest.mark.needs("registry")
def test_docker_registry_reads_our_users(tmp_path: Path) -> None:
    """The file is what distribution and Apache's htpasswd write."""
    with DebianRegistry(tmp_path / "registry", user="joe", password="secret") as server:
        done = run_pallet("registry", "htpasswd", "--password-stdin", "--cost", "5", str(server.root / "users"), "ann",
                          stdin="ann's pässword")
        assert done.returncode == 0, done.stderr

        def lets_in(user: str, password: str) -> bool:
            server.user, server.password = user, password
            return server.status("GET", "/v2/") == 200

        assert lets_in("joe", "secret")
        assert lets_in("ann", "ann's pässword")
        assert not lets_in("ann", "ann's")


def test_replicas_that_share_a_key(tmp_path: Path) -> None:
    """A token of one is good at the other, and after both were killed; the catalog shows what its reader may see."""
    users, key = write_users(tmp_path / "users", PEOPLE), tmp_path / "key.pem"
    made = run_pallet("registry", "key", "--type", "rsa", str(key))
    assert made.stdout.startswith(f"Wrote {key}: RS256, key id "), made.stderr
    config = auth(users).replace("[auth.token]", f'[auth.token]\nkey = "{key}"')
    replicas = [GuardedRegistry(tmp_path / name, config=config, store=tmp_path / "store") for name in ("one", "two")]
    with replicas[0] as one, replicas[1] as two:
        assert one.request("GET", "/.well-known/jwks.json")[2] == two.request("GET", "/.well-known/jwks.json")[2]
        header = {"Authorization": one.token("ann", PEOPLE["ann"], "repository:team/x:pull,push")}
        push(two, "team/x", header)
        refresh = two.request("POST", "/token", b"grant_type=password&username=ann&password=ann-secret"
                              b"&access_type=offline&client_id=t&service=pallet-registry")[2]
        one.kill()
        one.__enter__()
        assert one.request("GET", "/v2/team/x/manifests/1", headers={**header, **MANIFEST})[2] == IMAGE.manifest
        body = f"grant_type=refresh_token&refresh_token={json.loads(refresh)['refresh_token']}" \
               "&scope=registry:catalog:*"
        status, _, reply = one.request("POST", "/token", body.encode())
        assert status == 200, reply
        catalog = {"Authorization": f"Bearer {json.loads(reply)['access_token']}"}
        assert json.loads(two.request("GET", "/v2/_catalog", headers=catalog)[2]) == {"repositories": ["team/x"]}


def test_anonymous_pull_with_logins_for_the_rest(engine: Daemon, ann: DockerCli, tmp_path: Path) -> None:
    """auth-02, auth-14: ``--users --anonymous-pull`` alone gives docker both."""
    users = write_users(tmp_path / "users", PEOPLE)
    with GuardedRegistry(tmp_path / "registry", flags=["--users", str(users), "--anonymous-pull"]) as server:
        target = f"{server.address}/a:1"
        ann.ok("tag", "busybox", target)
        try:
            assert "denied" in ann.run("push", target).err
            login(ann, server, "ann")
            ann.ok("push", target)
            ann.ok("logout", server.address)
            ann.ok("rmi", target)
            ann.ok("pull", target)
        finally:
            ann.run("rmi", target)


@pytest.mark.parametrize("certified", [False, True])
def test_external_issuer(ann: DockerCli, tmp_path: Path, *, certified: bool) -> None:
    """The registry only verifies: by the issuer's published keys, or by its certificate."""
    with TokenIssuer(tmp_path / "issuer", certified=certified) as issuer:
        proof = f'root_certificates = "{issuer.root}/issuer.crt"' if certified else f'jwks_url = "{issuer.url}/keys"'
        config = f'[auth.token]\nrealm = "{issuer.url}/token"\nissuer = "elsewhere"\nservice = "mine"\n{proof}\n'
        with GuardedRegistry(tmp_path / "registry", config=config) as server:
            target = f"{server.address}/team/app:1"
            challenge = server.request("GET", "/v2/")[1]["www-authenticate"]
            assert challenge == f'Bearer realm="{issuer.url}/token",service="mine"'
            assert server.request("GET", "/token")[0] == server.request("GET", "/.well-known/jwks.json")[0] == 404
            ann.ok("tag", "busybox", target)
            try:
                assert "denied" in ann.run("push", target).err
                assert ann.run("login", "-u", "joe", "--password-stdin", server.address, stdin="no").code == 1
                login(ann, server, "joe", "secret")
                ann.ok("push", target)
                ann.ok("logout", server.address)
                ann.ok("rmi", target)
                ann.ok("pull", target)
            finally:
                ann.run("rmi", target)
            _refuse_forged(server, issuer)


def _refuse_forged(server: GuardedRegistry, issuer: TokenIssuer) -> None:
    """Right issuer, right key, wrong claims or heads: none is taken over the wire."""
    from cryptography.hazmat.primitives import serialization
    key = serialization.load_pem_private_key((issuer.root / "issuer.key").read_bytes(), None)
    certificate = "".join((issuer.root / "issuer.crt").read_text().splitlines()[1:-1])
    head = {"x5c": [certificate]} if issuer.certified else {"kid": "one"}
    now = int(time.time())
    access = [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
    good = {"iss": "elsewhere", "sub": "joe", "aud": "mine", "exp": now + 60, "nbf": now, "access": access}

    def status(claims: dict[str, object], algorithm: str = "RS256", **more: object) -> int:
        secret = None if algorithm == "none" else b"x" * 64 if algorithm == "HS512" else key
        token = jwt.encode(claims, secret, algorithm=algorithm, headers={**head, **more})  # type: ignore[arg-type]
        return server.request("GET", "/v2/team/app/manifests/1",
                              headers={"Authorization": f"Bearer {token}", **MANIFEST})[0]

    assert status(good) == 200
    changes: list[dict[str, object]] = [{"exp": now - 3600}, {"nbf": now + 3600}, {"aud": "other"}, {"iss": "other"}, {"access": []},
               {"access": [{**access[0], "name": "team/app2"}]}, {"access": [{**access[0], "type": "registry"}]}]
    for change in changes:
        assert status({**good, **change}) == 401
    assert status(good, "none") == status(good, "HS512") == status(good, crit=["x"], x=1) == 401


def test_tls(tmp_path: Path) -> None:
    """A renewed certificate counts after SIGHUP, a wrong one does not; clients may have to show their own."""
    certificates = Certificates(tmp_path / "tls")
    config = certificates.settings + 'min_version = "1.3"\n'
    with GuardedRegistry(tmp_path / "registry", config=config, certificates=certificates) as server:
        status, headers, _ = server.request("POST", "/v2/a/blobs/uploads/")
        assert status == 202
        assert headers["location"].startswith("/v2/a/")
        old = certificates.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            server.request("GET", "/v2/", context=old)
        plain = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        plain.request("GET", "/v2/")
        assert plain.getresponse().status == 400
        plain.close()
        before = _certificate(server)
        (certificates.directory / "server.key").write_text("nonsense")
        server.reload()
        eventually(lambda: "TLS certificate" in server.log(), what="it says what is wrong")
        assert _certificate(server) == before
        certificates.renew()
        server.reload()
        # Two workers: each takes the signal when it gets to it.
        eventually(lambda: all(_certificate(server) != before for _ in range(8)), what="the new certificate")
        server.reload(f'{config}client_ca = "{certificates.authority}"\n')
        eventually(lambda: all(not _lets_in(server) for _ in range(8)), what="clients need a certificate")
        assert server.request("GET", "/v2/", context=certificates.client(certificate=True))[0] == 200


def test_docker_over_tls(ann: DockerCli, tmp_path: Path) -> None:
    """Login, push and pull; the challenge names the token endpoint with ``https``."""
    certificates = Certificates(tmp_path / "tls")
    config = auth(write_users(tmp_path / "users", PEOPLE)) + certificates.settings
    with GuardedRegistry(tmp_path / "registry", config=config, certificates=certificates) as server:
        challenge = server.request("GET", "/v2/")[1]["www-authenticate"]
        assert challenge.startswith(f'Bearer realm="https://{server.address}/token"')
        target = f"{server.address}/team/app:1"
        ann.ok("tag", "busybox", target)
        try:
            login(ann, server, "ann")
            ann.ok("push", target)
            ann.ok("rmi", target)
            ann.ok("pull", target)
        finally:
            ann.run("rmi", target)
        failed = server.request("GET", "/v2/", headers={"Authorization": basic("ann", "no")})
        assert failed[0] == 401
        eventually(lambda: "login of 'ann' from 127.0.0.1 failed" in server.log(), what="it is in the log")
        assert server.request("GET", "/v2/", headers={"Authorization": basic("my-password", "x")})[0] == 401
        eventually(lambda: "login of an unknown user" in server.log(), what="it is in the log")
        assert "my-password" not in server.log()


def _certificate(server: GuardedRegistry) -> str:
    return ssl.get_server_certificate(("127.0.0.1", server.port))


def _lets_in(server: GuardedRegistry) -> bool:
    try:
        return server.request("GET", "/v2/")[0] == 200
    except (ssl.SSLError, OSError):
        return False


def test_users_and_rules_change_while_it_runs(tmp_path: Path) -> None:
    """Users without a signal; rules with SIGHUP, where wrong ones change nothing."""
    users = write_users(tmp_path / "users", {"ann": "ann-secret"})
    with GuardedRegistry(tmp_path / "registry", config=auth(users)) as server:
        carl = {"Authorization": basic("carl", "carl-secret")}
        assert server.request("GET", "/v2/", headers=carl)[0] == 401
        done = run_pallet("registry", "htpasswd", "--password-stdin", "--cost", "4", str(users), "carl",
                          stdin="carl-secret\n")
        assert done.stdout == "Added user carl\n", done.stderr
        assert server.request("GET", "/v2/", headers=carl)[0] == 200
        assert server.request("GET", "/v2/team/a/tags/list", headers=carl)[0] == 403
        server.reload("[auth]\nnonsense = 1\n")
        eventually(lambda: "nonsense" in server.log(), what="it says what is wrong")
        assert server.request("GET", "/v2/team/a/tags/list", headers=carl)[0] == 403
        server.reload(auth(users) + '[[rule]]\nrepository = "team/*"\nusers = ["carl"]\nallow = ["pull"]\n')
        eventually(lambda: all(server.request("GET", "/v2/team/a/tags/list", headers=carl)[0] == 404
                               for _ in range(8)), what="the new rule")
        assert run_pallet("registry", "htpasswd", "--delete", str(users), "carl").returncode == 0
        assert server.request("GET", "/v2/", headers=carl)[0] == 401


def test_a_worker_that_takes_another_s_place_goes_by_what_is_in_force(tmp_path: Path) -> None:
    """Rules and certificate of the last SIGHUP, not of the start."""
    certificates = Certificates(tmp_path / "tls")
    users = write_users(tmp_path / "users", PEOPLE)
    config = auth(users) + certificates.settings + "[http]\nworkers = 1\n"
    bob = {"Authorization": basic("bob", PEOPLE["bob"])}
    with GuardedRegistry(tmp_path / "registry", config=config, certificates=certificates) as server:
        before = _certificate(server)
        certificates.renew()
        assert server.request("GET", "/v2/team/a/tags/list", headers=bob)[0] == 404
        server.reload(config.replace('groups = ["readers"]', 'users = ["ann"]'))
        eventually(lambda: server.request("GET", "/v2/team/a/tags/list", headers=bob)[0] == 403, what="the new rule")
        (worker,) = _workers(server)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: _workers(server) not in ([], [worker]), what="another worker")
        assert server.request("GET", "/v2/team/a/tags/list", headers=bob)[0] == 403
        assert _certificate(server) != before


def _workers(server: GuardedRegistry) -> list[int]:
    assert server.process is not None
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_who_tries_passwords_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """More clients with wrong ones than there are threads: a request with a token overtakes them."""
    users = tmp_path / "users"
    hashed = run_pallet("registry", "htpasswd", "--password-stdin", "--cost", "12", str(users), "ann", stdin="secret")
    assert hashed.returncode == 0, hashed.stderr
    config = f'[auth]\nhtpasswd = "{users}"\n[auth.token]\n[http]\nworkers = 1\ndrain_s = 0\n'
    with GuardedRegistry(tmp_path / "registry", config=config) as server, contextlib.ExitStack() as stack:
        token = {"Authorization": server.token("ann", "secret", "repository:a:pull")}
        attackers = []
        for number in range(40):
            path = "/token" if number % 2 else "/v2/"
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            stack.callback(connection.close)
            connection.request("GET", path, headers={"Authorization": basic("ann", str(number))})
            attackers.append(connection.sock)
        assert server.request("GET", "/v2/a/tags/list", headers=token)[0] == 404
        answered, _, _ = select.select(attackers, [], [], 0)
        assert len(answered) < 8


def test_limits_hold_across_workers(docker: DockerCli, tmp_path: Path) -> None:
    """code-14: docker says what Docker Hub's users know; workers count together."""
    config = '[limits]\nanonymous_pulls = "8/6h"\nmax_blob_bytes = 100000\n[http]\nworkers = 3\n'
    with GuardedRegistry(tmp_path / "registry", config=config) as server:
        push(server, "a", {})
        for left in range(7, -1, -1):  # each over a connection of its own
            status, headers, _ = server.request("GET", "/v2/a/manifests/1", headers=MANIFEST)
            assert (status, headers["ratelimit-remaining"]) == (200, f"{left};w=21600")
        status, headers, body = server.request("GET", "/v2/a/manifests/1", headers=MANIFEST)
        assert (status, json.loads(body)["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert int(headers["retry-after"]) > 0
        refused = docker.run("pull", f"{server.address}/a:1")
        assert "toomanyrequests: You have reached your unauthenticated pull rate limit" in refused.err
        target = f"{server.address}/big:1"
        docker.ok("tag", "busybox", target)
        try:
            refused = docker.run("push", target)
            assert refused.code == 1
            assert "blob is too large" in refused.err
        finally:
            docker.run("rmi", target)
        assert list((server.root / "store/uploads").iterdir()) == []


def test_htpasswd_command(tmp_path: Path) -> None:
    """It asks twice on a terminal, and says what is wrong."""
    users = tmp_path / "users"
    from tests.support.daemon import pallet_command
    for second, words in (("other", "the passwords differ"), ("secret", "Added user ann")):
        with Terminal([*pallet_command(), "registry", "htpasswd", str(users), "ann"],
                      env={"PATH": os.environ["PATH"], "TERM": "xterm"}) as terminal:
            terminal.expect("New password: ")
            terminal.type("secret\n")
            terminal.expect("Once more: ")
            terminal.type(f"{second}\n")
            terminal.expect(words)
    assert users.stat().st_mode & 0o777 == 0o600
    assert run_pallet("registry", "htpasswd", "--list", str(users)).stdout == "ann\n"
    refusals: list[tuple[tuple[str, ...], str]] = [
            ((str(users),), "want FILE and USER"), ((str(users), "a:b", "--password-stdin"), "invalid user name"),
            ((str(users), "ann", "--password-stdin", "--cost", "99"), "invalid cost"),
            ((str(users), "ann"), "without a terminal"), (("--delete", str(users), "joe"), "has no user 'joe'"),
            (("--delete", f"{users}2", "joe"), "no such file"),
            ((str(users), "ann", "--password-stdin"), "may not be empty")]
    for arguments, message in refusals:
        done = run_pallet("registry", "htpasswd", *arguments)
        assert done.returncode != 0
        assert message in done.stderr
    key = tmp_path / "key"
    assert run_pallet("registry", "key", str(key)).returncode == 0
    assert "exists already" in run_pallet("registry", "key", str(key)).stderr
    (published,) = json.loads(run_pallet("registry", "key", "--public", str(key)).stdout)["keys"]
    assert published["alg"] == "ES256"
    assert "d" not in published


@pytest.mark.parametrize(("config", "message"), [
    ('[auth]\nhtpasswd = "/no/such"\n', "/no/such: No such file"),
    ('[tls]\ncertificate = "/no/such"\n', "TLS needs a certificate and its key"),
    ('[[rule]]\nrepository = "*"\ngroups = ["x"]\nallow = ["pull"]\n', "there is no group 'x'"),
    ('[limits]\npulls = "many"\n', "limits.pulls: want COUNT/PERIOD")])
def test_wrong_settings_end_the_start(tmp_path: Path, config: str, message: str) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(f'[storage]\nroot = "{tmp_path}/store"\n{config}')
    done = run_pallet("registry", "serve", "--address", "127.0.0.1:0", "--config", str(file))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
