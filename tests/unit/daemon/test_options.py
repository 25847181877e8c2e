"""palletd's command line and settings file, in dockerd's syntax and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pallet.config import Config, RuntimeConfig
from pallet.daemon import flags, options
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., options.Options]:
    """Read a command line and a settings file."""

    def read(*argv: str, file: Any = None) -> options.Options:
        path = tmp_path / "daemon.json"
        path.write_text(file if isinstance(file, str) else json.dumps(file or {}))
        return options.load(["--config-file", str(path), *argv])

    return read


def test_nothing_given_is_every_default(load: Any) -> None:
    found = load()
    assert found.config == Config()
    assert (found.ready_fd, found.allow_plain_tcp, found.warnings) == (None, False, ())


def test_every_way_to_write_a_flag(load: Any) -> None:
    config = load("-H", "unix:///a", "-Htcp://127.0.0.1:1", "--host=fd://", "--host", "unix:///b",
                  "-D", "--icc=false", "--ip-masq=0", "--mtu=1400", "-lwarn", "-b", "br7",
                  "--label", "a=b", "--label=c=d").config
    assert config.hosts == ("unix:///a", "tcp://127.0.0.1:1", "fd://", "unix:///b")
    assert (config.debug, config.log_level, config.labels) == (True, "warn", ("a=b", "c=d"))
    bridge = config.bridge
    assert (bridge.icc, bridge.ip_masq, bridge.mtu, bridge.name) == (False, False, 1400, "br7")


def test_every_setting_in_the_file(load: Any) -> None:
    config = load(file={
        "hosts": ["unix:///x"], "data-root": "/d", "exec-root": "/e", "pidfile": "/p",
        "group": "g", "debug": True, "log-level": "error", "labels": ["a=b"],
        "live-restore": False, "shutdown-timeout": 3, "features": {"f": True},
        "bridge": "b0", "bip": "172.30.0.1/16", "fixed-cidr": "172.30.1.0/24",
        "default-gateway": "172.30.0.1", "mtu": 1300, "icc": False, "ip": "127.0.0.1",
        "ip-forward": False, "ip-masq": False, "iptables": False, "userland-proxy": False,
        "ipv6": True, "fixed-cidr-v6": "fd00::/64",
        "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
        "dns": ["1.1.1.1"], "dns-opts": ["o"], "dns-search": ["s"],
        "registry-mirrors": ["http://m:5000"], "insecure-registries": ["r:5000"],
        "max-concurrent-downloads": 7, "max-concurrent-uploads": 8, "max-download-attempts": 9,
        "default-runtime": "runc", "runtimes": {"runc": {"path": "/r", "runtimeArgs": ["-x"]}},
        "init": True, "init-path": "/i", "cgroup-parent": "/c",
        "exec-opts": ["native.cgroupdriver=systemd"],
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
        "default-shm-size": "1g", "seccomp-profile": "unconfined", "no-new-privileges": True,
        "log-driver": "none", "log-opts": {"max-size": "1m"},
    }).config
    assert (config.hosts, config.data_root, config.exec_root, config.pid_file) == (
        ("unix:///x",), Path("/d"), Path("/e"), Path("/p"))
    assert (config.live_restore, config.shutdown_timeout_s, config.features) == (
        False, 3, (("f", True),))
    assert config.bridge.address_pools == (("10.0.0.0/8", 24),)
    assert (config.bridge.firewall, config.bridge.ip_forward, config.bridge.userland_proxy) == (
        False, False, False)
    assert (config.bridge.bip, config.bridge.default_bind_ip) == ("172.30.0.1/16", "127.0.0.1")
    assert (config.registry.mirrors, config.registry.insecure) == (("http://m:5000/",), ("r:5000",))
    assert config.registry.max_concurrent_downloads == 7
    assert config.runtimes == (RuntimeConfig(name="runc", path="/r", args=("-x",)),)
    assert (config.cgroup_driver, config.default_ulimits) == ("systemd", (("nofile", 1, 2),))
    assert (config.default_shm_size_bytes, config.seccomp_profile) == (1 << 30, "unconfined")
    assert (config.log_driver, config.log_options) == ("none", (("max-size", "1m"),))
    assert (config.dns, config.dns_options, config.dns_search) == (("1.1.1.1",), ("o",), ("s",))


def test_flags_and_file_add_up(load: Any) -> None:
    config = load("--debug", "--label", "a=b", file={"mtu": 1234, "icc": False}).config
    assert (config.debug, config.labels, config.bridge.mtu, config.bridge.icc) == (
        True, ("a=b",), 1234, False)


@pytest.mark.parametrize(("argv", "file", "words"), [
    (["-D"], {"debug": True}, "debug: (from flag: true, from file: true)"),
    (["--label", "c=d", "-D"], {"labels": ["a=b"], "debug": True},
     "labels: (from flag: [c=d], from file: [a=b]), debug: (from flag: true, from file: true)"),
    (["--log-opt", "c=d"], {"log-opts": {"a": "b"}},
     "log-opts: (from flag: map[c:d], from file: map[a:b])"),
    (["-H", "unix:///a"], {"hosts": ["unix:///x"]},
     "hosts: (from flag: [unix:///a], from file: [unix:///x])"),
])
def test_given_twice(load: Any, argv: list[str], file: Any, words: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        load(*argv, file=file)
    assert str(caught.value).endswith(
        "the following directives are specified both as a flag and in the configuration file: "
        + words)


@pytest.mark.parametrize(("file", "words"), [
    ({"foo": 1, "bar": 2}, "the following directives don't match any configuration option: foo, bar"),
    ({"mtu": "x"}, "json: cannot unmarshal string into Go struct field Config.mtu of type int"),
    ({"labels": "x"}, "json: cannot unmarshal string into Go struct field Config.labels of type "
                      "[]string"),
    ({"debug": 1}, "json: cannot unmarshal number into Go struct field Config.debug of type bool"),
    ("{bad", "invalid JSON"), ("[]", "json: cannot unmarshal array"),
    ({"userns-remap": "default"}, "user namespace remapping"),
    ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
    ({"max-download-attempts": 0}, "invalid max download attempts: 0"),
    ({"default-runtime": "foo"}, "specified default runtime 'foo' does not exist"),
    ({"exec-opts": ["native.cgroupdriver=foo"]}, "native.cgroupdriver option foo not supported"),
    ({"log-level": "zz"}, "unable to parse logging level: zz"),
    ({"default-ulimits": {"nofile": {"Soft": 3, "Hard": 2}}}, "less than or equal to hard limit"),
])
def test_wrong_file(load: Any, file: Any, words: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        load(file=file)
    assert words in str(caught.value)


@pytest.mark.parametrize(("argv", "words"), [
    (["--nope"], "unknown flag: --nope"), (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
    (["extra"], '"palletd" accepts no argument(s).'), (["--", "x"], "accepts no argument(s)"),
    (["--mtu"], "flag needs an argument: --mtu"),
    (["--mtu=abc"],
     'invalid argument "abc" for "--mtu" flag: strconv.ParseInt: parsing "abc": invalid syntax'),
    (["--debug=maybe"], 'invalid argument "maybe" for "-D, --debug" flag: strconv.ParseBool: '
                        'parsing "maybe": invalid syntax'),
    (["--log-opt", "x"], "must be a key=value pair"),
    (["--userns-remap", "x"], "user namespace remapping"),
])
def test_wrong_command_line(load: Any, argv: list[str], words: str) -> None:
    with pytest.raises(flags.FlagError) as caught:
        load(*argv)
    assert words in str(caught.value)


@pytest.mark.parametrize(("argv", "words"), [
    (["--label", "foo"], "bad attribute format: foo"),
    (["--label", "a=1", "--label", "a=2"], "conflict labels for a=2 and a=1"),
    (["--default-ulimit", "foo"], "invalid ulimit argument: foo"),
    (["--default-ulimit", "foo=1"], "invalid ulimit type: foo"),
    (["--dns", "1.2.3"], "1.2.3 is not an ip address"),
    (["--registry-mirror", "foo"], 'invalid mirror: unsupported scheme "" in "foo"'),
    (["--registry-mirror", "http://u:p@m"], "username/password not allowed"),
    (["--registry-mirror", "ghcr.io=m:5000"], 'unsupported scheme "" in "ghcr.io=m:5000"'),
    (["--registry-mirror", "g*=http://m"], 'is no registry\'s host in "g*=http://m"'),
    (["--registry-mirror-auth", "m:5000"], 'invalid mirror credentials "m:5000"'),
    (["--registry-mirror-auth", "m:5000=joe"], 'invalid mirror credentials "m:5000=joe"'),
    (["--registry-mirror-auth", "m=joe:/nothing/here"], "No such file"),
    (["--registry-mirror", "http://m/?q"], "path, query, or fragment"),
    (["--default-address-pool", "x"], "invalid field 'x' must be a key=value pair"),
    (["--default-address-pool", "base=10.0.0.0/8,size=4"], "invalid size 4 for pool"),
    (["--add-runtime", "x"], "invalid runtime argument: x"),
    (["--add-runtime", "pallet=/x"], "reserved"),
    (["--bip", "1.2.3.4"], "invalid CIDR address: 1.2.3.4"),
    (["--default-shm-size", "big"], "invalid size: 'big'"),
])
def test_wrong_values(load: Any, argv: list[str], words: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        load(*argv)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("64m", 64 << 20), ("64MiB", 64 << 20), ("64mb", 64 << 20), ("1.5g", 3 << 29), ("7", 7),
    ("7b", 7), ("2 k", 2048)])
def test_sizes(text: str, expected: int) -> None:
    assert options.size_bytes(text) == expected


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match=r"open .*: no such file or directory"):
        options.load(["--config-file", str(tmp_path / "none")])


def test_tls_choices(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert load().config.tls is None
    plain = load("--tls").config.tls
    assert (plain.verify, plain.ca_cert, plain.cert) == (False, None, Path("/certs/cert.pem"))
    verified = load("--tlsverify", "--tlscacert", "/ca").config.tls
    assert (verified.verify, verified.ca_cert) == (True, Path("/ca"))
    assert load("--tlsverify=false").config.tls.verify is False  # named at all turns TLS on


def test_proxies_and_what_has_no_effect(load: Any) -> None:
    found = load("--no-proxy", "n", file={"proxies": {"http-proxy": "h"}, "storage-opts": [],
                                          "builder": {"gc": {}}})
    assert found.proxies == {"HTTP_PROXY": "h", "NO_PROXY": "n"}
    assert found.warnings == ("storage-opt has no effect in Pallet",)


def test_devices_are_described_in_directories(load: Any) -> None:
    assert load().config.cdi_directories == ("/etc/cdi", "/var/run/cdi")
    assert load("--cdi-spec-dir", "/a", "--cdi-spec-dir=/b").config.cdi_directories == ("/a", "/b")
    assert load(file={"cdi-spec-dirs": ["", "/c"]}).config.cdi_directories == ("/c",)
    assert load(file={"cdi-spec-dirs": []}).config.cdi_directories == ()
    assert load("--feature", "cdi=false", "--cdi-spec-dir", "/a").config.cdi_directories == ()


def test_storage_driver(load: Any) -> None:
    assert load().config.storage_driver == "overlay2"
    assert load("-s", "erofs").config.storage_driver == "erofs"
    assert load(file={"storage-driver": "erofs"}).config.storage_driver == "erofs"
    for name in ("native", "vfs"):
        assert load("--storage-driver", name).config.storage_driver == "vfs"
    with pytest.raises(InvalidParameterError, match=r"^error initializing graphdriver: driver not supported$"):
        load("--storage-driver=zfs")


def test_help_names_every_flag_with_an_effect_in_100_columns() -> None:
    text = flags.help_text()
    for setting in flags.SETTINGS:
        assert (f"--{setting.flag}" in text) is setting.effect
    assert max(map(len, text.splitlines())) <= 100


def test_mirrors_of_other_registries(load: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass:word\n")
    config = load("--registry-mirror", "http://m:5000", "--registry-mirror", "ghcr.io=https://m/x",
                  "--registry-mirror", "*=http://any/", "--registry-mirror-auth", f"m:5000=joe:{secret}",
                  "--registry-mirror-auth", "any=origin").config
    assert config.registry.mirrors == ("http://m:5000/", "ghcr.io=https://m/x/", "*=http://any/")
    assert config.registry.mirror_auth == (("m:5000", "joe", "pass:word"), ("any", "", ""))
