"""Which names are mirrored, what a mirror's settings may say, and what it forgets first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.config import read_config
from pallet.registry.metadata.mirrored import Entry
from pallet.registry.mirror.eviction import choose
from pallet.registry.mirror.settings import (
    CredentialsConfig,
    MirrorConfig,
    MirroredNames,
    UpstreamConfig,
    size_bytes,
    with_hosts,
)
from pallet.registry.mirror.upstreams import Upstreams
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from pathlib import Path

HUB = UpstreamConfig(host="docker.io", deny=("secret/*",))
OTHER = UpstreamConfig(host="R.example:5000", prefix="other")
ANY = UpstreamConfig(host="*")


def found(config: MirrorConfig, name: str, namespace: str = "") -> tuple[str, str, str, str] | None:
    target = MirroredNames(config).target(name, namespace)
    return None if target is None else (target.host, target.path, target.name, target.subject)


@pytest.mark.parametrize(("name", "namespace", "expected"), [
    ("docker.io/a/b", "", ("docker.io", "a/b", "docker.io/a/b", "docker.io/a/b")),
    ("docker.io/b", "", ("docker.io", "library/b", "docker.io/library/b", "docker.io/b")),
    ("a/b", "docker.io", ("docker.io", "a/b", "docker.io/a/b", "docker.io/a/b")),
    ("a/b", "registry-1.docker.io", ("docker.io", "a/b", "docker.io/a/b", "docker.io/a/b")),
    ("other/a/b", "", ("r.example:5000", "a/b", "other/a/b", "other/a/b")),
    ("a/b", "r.example:5000", ("r.example:5000", "a/b", "other/a/b", "other/a/b")),
    ("a/b", "", ("docker.io", "a/b", "docker.io/a/b", "a/b")),
    ("b", "", ("docker.io", "library/b", "docker.io/library/b", "b")),
    ("secret/b", "", None),
])
def test_names(name: str, namespace: str, expected: tuple[str, str, str, str] | None) -> None:
    assert found(MirrorConfig(upstream=(HUB, OTHER), default="docker.io"), name, namespace) == expected


@pytest.mark.parametrize(("host", "prefix"), [
    ("ghcr.io", "ghcr.io"), ("ghcr.io:443", "ghcr.io.443"), ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1:5000", "127.0.0.1.5000"), ("localhost:5000", "localhost.5000"), ("a-b.example", "a-b.example")])
def test_every_host_and_back(host: str, prefix: str) -> None:
    names = MirroredNames(MirrorConfig(upstream=(ANY,)))
    by_namespace, by_prefix = names.target("a/b", host), names.target(f"{prefix}/a/b", "")
    assert by_namespace is not None
    assert by_prefix is not None
    assert (by_namespace.host, by_namespace.name) == (by_prefix.host, by_prefix.name) == (host, f"{prefix}/a/b")
    assert f"{prefix}/a/b" in names
    assert "team/a" not in names
    assert names.target("team/a", "") is None


def test_denied_names_are_mirrored_but_not_allowed() -> None:
    target = MirroredNames(MirrorConfig(upstream=(HUB,))).target("docker.io/secret/x", "")
    assert target is not None
    assert not target.allowed


@pytest.mark.parametrize("namespace", ["elsewhere.example", "a/b", "http://x", "A B", "[::1]:5000"])
def test_namespaces_that_are_not_mirrored(namespace: str) -> None:
    with pytest.raises(InvalidParameterError):
        MirroredNames(MirrorConfig(upstream=(HUB,))).target("a", namespace)


@pytest.mark.parametrize(("config", "words"), [
    (MirrorConfig(upstream=(HUB, HUB)), "the same upstream"),
    (MirrorConfig(upstream=(UpstreamConfig(host="a.b", prefix="c"), UpstreamConfig(host="c.d", prefix="c"))),
     "the same upstream"),
    (MirrorConfig(upstream=(HUB,), default="ghcr.io"), "none of the upstreams"),
    (MirrorConfig(upstream=(UpstreamConfig(host="a/b"),)), "is no host"),
    (MirrorConfig(upstream=(UpstreamConfig(host="a.b", url="ftp://x"),)), "not an http or https URL"),
    (MirrorConfig(upstream=(UpstreamConfig(host="a.b", prefix="A"),)), "cannot begin a repository's name"),
    (MirrorConfig(budget="many"), "invalid size")])
def test_settings_that_contradict(config: MirrorConfig, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        config.check()


def test_passwords_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("word\n")
    rule = CredentialsConfig(username="u", password_file=str(tmp_path / "p"))
    assert rule.secret() == "word"
    missing = CredentialsConfig(username="u", password_file=str(tmp_path / "none"))
    with pytest.raises(InvalidParameterError, match="No such file"):
        Upstreams(MirrorConfig(upstream=(UpstreamConfig(host="a.b", credentials=(missing,)),)))


def test_flags() -> None:
    config = with_hosts(None, ["ghcr.io", "r.example=http://10.0.0.1:5000", "*"])
    assert [(one.host, one.url) for one in config.upstream] == [
        ("ghcr.io", ""), ("r.example", "http://10.0.0.1:5000"), ("*", "")]
    assert config.default == "ghcr.io"
    assert with_hosts(None, ["*"]).default == "docker.io"
    more = with_hosts(MirrorConfig(upstream=(HUB,), ttl_s=7.0), ["ghcr.io"])
    assert ([one.host for one in more.upstream], more.ttl_s, more.default) == (["docker.io", "ghcr.io"], 7.0, "")
    with pytest.raises(InvalidParameterError):
        with_hosts(None, ["ghcr.io", "ghcr.io"])


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("""
        [mirror]
        default = "docker.io"
        budget = "1.5GB"
        [[mirror.upstream]]
        host = "docker.io"
        allow = ["library/*"]
        [[mirror.upstream.credentials]]
        repositories = ["library/x"]
        username = "u"
        password = "p"
        """)
    config = read_config(path).mirror
    assert config is not None
    assert (config.budget_bytes, config.upstream[0].credentials[0].secret()) == (3 << 29, "p")
    path.write_text('[mirror]\nttl = 3\n')
    with pytest.raises(InvalidParameterError, match="ttl"):
        read_config(path)


@pytest.mark.parametrize(("text", "size"), [
    ("7", 7), ("2k", 2048), ("50GB", 50 << 30), ("1.5 GiB", 3 << 29), ("3mb", 3 << 20)])
def test_sizes(text: str, size: int) -> None:
    assert size_bytes(text) == size


def entries(*rows: tuple[str, str, int, float]) -> list[Entry]:
    return [Entry(repository=name, digest=digests.of_bytes(key.encode()), size=size, used_at=at)
            for name, key, size, at in rows]


def test_least_recently_used_goes_first() -> None:
    names = MirroredNames(MirrorConfig(upstream=(HUB,)))
    held = entries(("docker.io/a", "x", 100, 1.0), ("docker.io/b", "y", 100, 2.0), ("docker.io/c", "z", 100, 3.0))
    assert choose(held, names, 300, young=9.0, too_old=0.0) == ([], 0.0)
    assert choose(held, names, 250, young=9.0, too_old=0.0) == (held[:1], 1.0)
    assert choose(held, names, 100, young=9.0, too_old=0.0) == (held[:2], 2.0)
    assert choose(held, names, 100, young=2.0, too_old=0.0) == (held[:1], 1.0)
    assert choose(held, names, 0, young=9.0, too_old=2.5) == (held[:2], 0.0)


def test_shared_blobs_cost_once_and_others_nothing() -> None:
    names = MirroredNames(MirrorConfig(upstream=(HUB,)))
    held = entries(("docker.io/a", "x", 100, 1.0), ("team/own", "y", 500, 2.0), ("docker.io/b", "y", 500, 3.0),
                   ("docker.io/b", "x", 100, 4.0), ("docker.io/b", "z", 100, 5.0))
    assert choose(held, names, 200, young=9.0, too_old=0.0) == ([], 0.0)
    chosen, horizon = choose(held, names, 100, young=9.0, too_old=0.0)
    assert [entry.used_at for entry in chosen] == [1.0, 3.0, 4.0]  # the space is free with the last holder
    assert horizon == 4.0
