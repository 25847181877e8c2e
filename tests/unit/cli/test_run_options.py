"""Options of run and create to the ContainerCreate document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pallet.cli.errors import CommandError, FlagError
from pallet.cli.flags import Flags
from pallet.cli.run import files, ports
from pallet.cli.run.config import container_config, security
from pallet.cli.run.options import RUN_FLAGS
from pallet.cli.run.structured import parse_gpus, parse_mount, parse_network, split_csv

if TYPE_CHECKING:
    from pathlib import Path


def config(*argv: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    flags = Flags(RUN_FLAGS)
    flags.parse([*argv, "image"], interspersed=False)
    return container_config(flags, env or {})


def host(*argv: str) -> dict[str, Any]:
    document: dict[str, Any] = config(*argv)["HostConfig"]
    return document


def test_plain_run() -> None:
    body = config()
    assert body["Image"] == "image"
    assert "Cmd" not in body
    assert (body["AttachStdin"], body["AttachStdout"], body["AttachStderr"]) == (False, True, True)
    assert body["HostConfig"]["NetworkMode"] == "default"
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}


def test_documents_do_not_share_their_defaults() -> None:
    first = config()
    first["HostConfig"]["Dns"].append("x")
    assert config()["HostConfig"]["Dns"] == []


def test_command_and_its_options_belong_to_the_container() -> None:
    flags = Flags(RUN_FLAGS)
    flags.parse(["-i", "image", "sh", "-c", "x", "--rm"], interspersed=False)
    body = container_config(flags, {})
    assert body["Cmd"] == ["sh", "-c", "x", "--rm"]
    assert body["OpenStdin"]
    assert body["StdinOnce"]
    assert "AutoRemove" not in body["HostConfig"]


def test_attach_list_decides_alone() -> None:
    body = config("-i", "-a", "stdout")
    assert (body["AttachStdin"], body["AttachStdout"], body["StdinOnce"]) == (False, True, False)


@pytest.mark.parametrize(("argv", "field", "value"), [
    (("-m", "64m"), "Memory", 64 << 20), (("--memory-swap", "-1"), "MemorySwap", -1),
    (("--cpus", "1.5"), "NanoCpus", 1_500_000_000), (("--pids-limit", "-1"), "PidsLimit", -1),
    (("--rm",), "AutoRemove", True), (("--privileged",), "Privileged", True),
    (("--read-only",), "ReadonlyRootfs", True), (("--init",), "Init", True),
    (("--init=false",), "Init", False), (("--shm-size", "1g"), "ShmSize", 1 << 30),
    (("--cap-add", "net_admin", "--cap-add", "CAP_CHOWN"), "CapAdd", ["CAP_CHOWN", "CAP_NET_ADMIN"]),
    (("--cap-drop", "all"), "CapDrop", ["ALL"]), (("--pid", "host"), "PidMode", "host"),
    (("--restart", "on-failure:3"), "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 3}),
    (("--ulimit", "nofile=5:10", "--ulimit", "core=0"), "Ulimits",
     [{"Name": "core", "Hard": 0, "Soft": 0}, {"Name": "nofile", "Hard": 10, "Soft": 5}]),
    (("--tmpfs", "/a:size=1m", "--tmpfs", "/b"), "Tmpfs", {"/a": "size=1m", "/b": ""}),
    (("--log-driver", "none"), "LogConfig", {"Type": "none", "Config": {}}),
    (("--sysctl", "net.core.x=1"), "Sysctls", {"net.core.x": "1"}),
    (("--device-read-bps", "/dev/a:1kb"), "BlkioDeviceReadBps", [{"Path": "/dev/a", "Rate": 1024}]),
    (("--device", "/dev/a:/dev/b:r"), "Devices",
     [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}]),
    (("--device", "/dev/a:rw"), "Devices",
     [{"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rw"}]),
    (("--device", "vendor.com/gpu=0"), "DeviceRequests",
     [{"Driver": "cdi", "DeviceIDs": ["vendor.com/gpu=0"]}]),
    (("--link", "a:b"), "Links", ["a:b"]),
])
def test_host_config(argv: tuple[str, ...], field: str, value: object) -> None:
    assert host(*argv)[field] == value


@pytest.mark.parametrize(("argv", "words"), [
    (("--restart", "always", "--rm"), "conflicting options: cannot specify both --restart and --rm"),
    (("--restart", "on-failure:x"), "invalid restart policy format: maximum retry count must be an "
                                    "integer"),
    (("--pid", "foo"), "--pid: invalid PID mode"), (("--pid", "container:"), "--pid: invalid PID mode"),
    (("--uts", "foo"), "--uts: invalid UTS mode"), (("--userns", "x"), "--userns: invalid USER mode"),
    (("--cgroupns", "x"), "--cgroupns: invalid CGROUP mode"),
    (("--log-driver", "none", "--log-opt", "a=b"), "invalid logging opts for driver none"),
    (("--storage-opt", "x"), "invalid storage option"),
    (("--memory-swappiness", "101"), "invalid value: 101. Valid memory swappiness range is 0-100"),
    (("--health-cmd", "x", "--no-healthcheck"), "--no-healthcheck conflicts with --health-* options"),
    (("--health-interval", "-1s"), "--health-interval cannot be negative"),
    (("--security-opt", "foo"), 'Invalid --security-opt: "foo"'),
    (("--device", "x"), "x is not an absolute path"),
    (("--device", "/dev/a:/b:zz"), "bad mode specified: zz"),
    (("--device", "/a:/b:r:w"), "bad format for path: /a:/b:r:w"),
    (("--mac-address", "x"), "x is not a valid mac address"),
    (("--network-alias", "x"), "network-scoped aliases are only supported for user-defined networks"),
    (("--network", "host", "--network", "foo"), "conflicting options: cannot attach both user-defined "
                                                "and non-user-defined network-modes"),
    (("--network", "foo", "--network", "foo"), 'network "foo" is specified multiple times'),
    (("--network", "name=foo,alias=x", "--network-alias", "y"),
     "conflicting options: cannot specify both --network-alias and per-network alias"),
    (("--network", ""), "no name set for network"),
    (("--env-file", "/no"), "open /no: no such file or directory"),
    (("--publish", "abc"), "invalid containerPort: abc"), (("-v", ""), "invalid empty volume spec"),
])
def test_contradictions(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(CommandError) as caught:
        config(*argv)
    assert str(caught.value) == words


def test_health() -> None:
    assert config("--health-cmd", "a b", "--health-interval", "5s", "--health-retries", "3")[
        "Healthcheck"] == {"Test": ["CMD-SHELL", "a b"], "Interval": 5 * 10**9, "Retries": 3}
    assert config("--no-healthcheck")["Healthcheck"] == {"Test": ["NONE"]}


def test_entrypoint() -> None:
    assert config("--entrypoint", "")["Entrypoint"] == [""]
    assert "Entrypoint" not in config()


def test_networks() -> None:
    body = config("--network", "foo", "--network-alias", "a", "--ip", "10.0.0.2", "--link", "c:d")
    assert body["HostConfig"]["NetworkMode"] == "foo"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {"foo": {
        "Aliases": ["a"], "Links": ["c:d"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}}
    two = config("--network", "name=foo,ip=10.0.0.3", "--network", "bar")
    assert two["NetworkingConfig"]["EndpointsConfig"] == {
        "foo": {"IPAMConfig": {"IPv4Address": "10.0.0.3"}}, "bar": {}}
    assert "NetworkingConfig" not in config("--network", "foo")
    assert config("--mac-address", "02-42-AC-11-00-55")["MacAddress"] == "02-42-AC-11-00-55"


# -- environment and files ------------------------------------------------------------------------


def test_environment_and_labels(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_bytes(b"\xef\xbb\xbf# c\nA=1\n\n  B=x y\nHOME\nNONE\n")
    label_file = tmp_path / "labels"
    label_file.write_text("l=1\nalone\n")
    body = config("--env-file", str(env_file), "-e", "C=2", "-e", "HOME", "-e", "GONE",
                  "--label-file", str(label_file), "-l", "k=v", "-l", "bare", env={"HOME": "/h"})
    assert body["Env"] == ["A=1", "B=x y", "HOME=/h", "C=2", "HOME=/h", "GONE"]
    assert body["Labels"] == {"l": "1", "k": "v", "bare": ""}


def test_blanks_in_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A B=1\n")
    with pytest.raises(CommandError, match="variable 'A B' contains whitespaces"):
        config("--env-file", str(tmp_path / "env"))


def test_volumes() -> None:
    binds, anonymous = files.volumes(["/a:/b:ro", "name:/c", "/anon", "./here:/d"])
    assert binds[:2] == ["/a:/b:ro", "name:/c"]
    assert binds[2].startswith("/")
    assert binds[2].endswith("/here:/d")
    assert anonymous == ["/anon"]


@pytest.mark.parametrize(("spec", "words"), [
    ("/a:", "invalid spec: /a:: empty section between colons"),
    (":/a", "invalid spec: :/a: empty section between colons"),
    ("/a:/b:ro:x", "invalid spec: /a:/b:ro:x: too many colons"),
])
def test_no_volumes(spec: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        files.volumes([spec])
    assert str(caught.value) == words


def test_security_profile_is_sent_compact(tmp_path: Path) -> None:
    profile = tmp_path / "p.json"
    profile.write_text('{ "defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": [] }')
    assert security([f"seccomp={profile}", "no-new-privileges", "label:disable"]) == {
        "SecurityOpt": ['seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}',
                        "no-new-privileges", "label:disable"]}
    assert security(["systempaths=unconfined"]) == {
        "SecurityOpt": [], "MaskedPaths": [], "ReadonlyPaths": []}
    with pytest.raises(CommandError, match="opening seccomp profile"):
        security(["seccomp=/no/file"])
    profile.write_text("{")
    with pytest.raises(CommandError, match="compacting json for seccomp profile"):
        security([f"seccomp={profile}"])


# -- ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "bindings"), [
    ("80", {"80/tcp": [("", "")]}), ("8080:80", {"80/tcp": [("", "8080")]}),
    ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
    ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
    ("[::1]:81:80", {"80/tcp": [("::1", "81")]}),
    ("9000-9001:90-91", {"90/tcp": [("", "9000")], "91/tcp": [("", "9001")]}),
    ("7000-7010:70", {"70/tcp": [("", "7000-7010")]}),
    ("80-81", {"80/tcp": [("", "")], "81/tcp": [("", "")]}),
    ("published=8081,target=81,protocol=udp", {"81/udp": [("", "8081")]}),
    ("target=80,host_ip=::1,published=5", {"80/tcp": [("::1", "5")]}),
])
def test_publish(spec: str, bindings: dict[str, list[tuple[str, str]]]) -> None:
    exposed, found = ports.publish([spec])
    assert exposed == set(bindings)
    assert {port: [(one["HostIp"], one["HostPort"]) for one in given] for port, given in found.items()
            } == bindings


@pytest.mark.parametrize(("spec", "words"), [
    ("80:99999", "invalid containerPort: 99999"), ("x:80", "invalid hostPort: x"),
    ("1.2.3:80:80", "invalid IP address: 1.2.3"), (":", "no port specified: :<empty>"),
    ("80:", "no port specified: 80:<empty>"), ("80:80/foo", "invalid proto: foo"),
    ("80-81:80-83", "invalid ranges specified for container and host Ports: 80-83 and 80-81"),
])
def test_no_publish(spec: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        ports.publish([spec])
    assert str(caught.value) == words


def test_expose() -> None:
    assert ports.expose(["80", "53/UDP", "100-101"]) == {"80/tcp", "53/udp", "100/tcp", "101/tcp"}
    for spec, words in (("80:80", "invalid port format for --expose: 80:80"),
                        ("81-80", "invalid range specified for port: 81-80"),
                        ("x", 'strconv.ParseUint: parsing "x": invalid syntax')):
        with pytest.raises(CommandError, match=words):
            ports.expose([spec])


# -- structured values ----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "fields"), [
    ("a,b", ["a", "b"]), ('"a,b",c', ["a,b", "c"]), ('"a""b"', ['a"b']), ("a,", ["a", ""]),
])
def test_csv(text: str, fields: list[str]) -> None:
    assert split_csv(text) == fields


def test_mounts() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave") == {
        "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"}}
    assert parse_mount("dst=/v,volume-nocopy,volume-label=a=b,volume-opt=o=p,volume-driver=d") == {
        "Type": "volume", "Target": "/v", "VolumeOptions": {
            "NoCopy": True, "Labels": {"a": "b"},
            "DriverConfig": {"Options": {"o": "p"}, "Name": "d"}}}
    assert parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770") == {
        "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}


@pytest.mark.parametrize(("option", "text", "words"), [
    ("--mount", "foo", "invalid field 'foo' must be a key=value pair"),
    ("--mount", "type=foo", "target is required"), ("--mount", "", "EOF"),
    ("--mount", "type=bind,source=/x,target=/y,bogus=1", "unexpected key 'bogus' in 'bogus=1'"),
    ("--mount", "target=/y,readonly=2", "invalid value for readonly: 2"),
    ("--mount", "type=volume,target=/y,tmpfs-size=1",
     "cannot mix 'tmpfs-*' options with mount type 'volume'"),
    ("--mount", "type=bind,src=/a,dst=/b,bind-recursive=readonly",
     "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"),
    ("--network", "bogus=foo", "invalid field key bogus"),
    ("--network", "alias=x", "network name/id is not specified"),
    ("--network", "name=foo,gw-priority=x", "invalid gw-priority (x): invalid syntax"),
    ("--ulimit", "x", "invalid ulimit argument: x"), ("--ulimit", "foo=3", "invalid ulimit type: foo"),
    ("--ulimit", "nofile=5:3",
     "ulimit soft limit must be less than or equal to hard limit: 5 > 3"),
    ("--ulimit", "nofile=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
    ("--gpus", "x", 'invalid count (x): value must be either "all" or an integer: invalid syntax'),
    ("--gpus", "bogus=1", "unexpected key 'bogus' in 'bogus=1'"),
    ("--gpus", "count=1,count=2", "gpu request key 'count' can be specified only once"),
    ("--blkio-weight-device", "x", "bad format: x"),
    ("--blkio-weight-device", "/dev/sda:5", "invalid weight for device: /dev/sda:5"),
    ("--blkio-weight-device", "/x:5", "bad format for device path: /x:5"),
])
def test_structured_values_refuse(option: str, text: str, words: str) -> None:
    with pytest.raises(FlagError) as caught:
        config(option, text)
    assert str(caught.value) == f'invalid argument "{text}" for "{option}" flag: {words}'


def test_gpus_and_network_documents() -> None:
    assert parse_gpus("all") == {"Count": -1, "Capabilities": [["gpu"]], "Options": {}}
    assert parse_gpus('"device=0,1",capabilities=utility') == {
        "DeviceIDs": ["0", "1"], "Capabilities": [["utility", "gpu"]], "Options": {}}
    assert parse_network("container:x") == {"Target": "container:x"}
    assert parse_network("name=n,alias=a,alias=b,ip=10.0.0.1,driver-opt=k=v,gw-priority=5") == {
        "Target": "n", "Aliases": ["a", "b"], "IPv4Address": "10.0.0.1", "DriverOpts": {"k": "v"},
        "GwPriority": 5}
