"""The table of palletd's settings and the reading of command lines and ``daemon.json``.

Owns   names, kinds and help of every setting, and the two syntaxes they come in. What the values
       mean is ``options.py``'s.
Spec   dockerd's flags and configuration keys; its option parser's rules (``--flag=value``,
       ``-Hvalue``, ``-D``) and words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Kind = Literal["bool", "int", "string", "list", "map"]
Value = Any


class FlagError(InvalidParameterError):
    """The command line is wrong; printed with a hint at ``--help``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. ``key`` is its name in the file, None where only a flag exists.

    ``value`` is the word for the argument in the help; ``effect`` False marks what Docker has and
    Pallet accepts without effect.
    """

    flag: str
    key: str | None
    kind: Kind
    section: str
    text: str
    short: str = ""
    value: str = ""
    effect: bool = True


def _row(section: str, flag: str, kind: Kind, text: str, **more: Any) -> Setting:
    more.setdefault("key", flag)
    return Setting(flag=flag, kind=kind, section=section, text=text, **more)


def _table() -> Iterator[Setting]:
    part = "Daemon"
    yield _row(part, "host", "list", "Listen on unix://PATH, tcp://HOST:PORT or fd:// (repeatable)",
               key="hosts", short="H", value="URL")
    yield _row(part, "data-root", "string", "Persistent state (/var/lib/pallet)", value="DIR")
    yield _row(part, "exec-root", "string", "State until reboot (/run/pallet)", value="DIR")
    yield _row(part, "disk-budget", "string", "What images may take before the least used go (50GB)",
               value="BYTES")
    yield _row(part, "storage-driver", "string", "How layers are kept: overlay2, erofs or native (overlay2)",
               short="s", value="NAME")
    yield _row(part, "config-file", "string", "Settings file (/etc/pallet/daemon.json)",
               key=None, value="FILE")
    yield _row(part, "pidfile", "string", "Also write the pid here", short="p", value="FILE")
    yield _row(part, "group", "string", "Group of the unix socket (docker)", short="G")
    yield _row(part, "debug", "bool", "Log everything", short="D")
    yield _row(part, "log-level", "string", "debug, info, warn, error or fatal (info)", short="l",
               value="LEVEL")
    yield _row(part, "label", "list", "Label of the daemon, key=value", key="labels")
    yield _row(part, "live-restore", "bool", "Containers outlive the daemon (true)")
    yield _row(part, "shutdown-timeout", "int", "Seconds for containers to stop (15)")
    yield _row(part, "feature", "map", "Switch a feature, name=true", key="features")
    yield _row(part, "validate", "bool", "Check the settings and exit", key=None)
    yield _row(part, "ready-fd", "int", "Write a byte here when serving", key=None, value="FD")
    yield _row(part, "version", "bool", "Print the version and exit", key=None, short="v")
    yield _row(part, "help", "bool", "Print this", key=None, short="h")
    part = "TLS"
    yield _row(part, "tls", "bool", "Use TLS on tcp://")
    yield _row(part, "tlsverify", "bool", "Use TLS and demand a client certificate")
    yield _row(part, "tlscacert", "string", "CA of the clients (~/.docker/ca.pem)", value="FILE")
    yield _row(part, "tlscert", "string", "Certificate (~/.docker/cert.pem)", value="FILE")
    yield _row(part, "tlskey", "string", "Key (~/.docker/key.pem)", value="FILE")
    yield _row(part, "allow-plain-tcp", "bool",
               "tcp:// without TLS beyond loopback; who reaches it is root")
    yield from _network_rows()
    yield from _registry_rows()
    yield from _container_rows()
    yield from _without_effect()


def _network_rows() -> Iterator[Setting]:
    part = "Network"
    yield _row(part, "bridge", "string", "Bridge of the default network (pallet0)", short="b",
               value="NAME")
    yield _row(part, "bip", "string", "Address of the bridge", value="CIDR")
    yield _row(part, "fixed-cidr", "string", "Range for containers", value="CIDR")
    yield _row(part, "default-gateway", "string", "Gateway of containers", value="IP")
    yield _row(part, "mtu", "int", "MTU of the bridge (1500)")
    yield _row(part, "icc", "bool", "Containers reach one another (true)")
    yield _row(part, "ip", "string", "Address that ports are published on (0.0.0.0)", value="IP")
    yield _row(part, "ip-forward", "bool", "Enable net.ipv4.ip_forward (true)")
    yield _row(part, "ip-masq", "bool", "Masquerade (true)")
    yield _row(part, "iptables", "bool", "Write firewall rules (true)")
    yield _row(part, "userland-proxy", "bool", "Proxy for loopback connections (true)")
    yield _row(part, "ipv6", "bool", "IPv6 on the default network")
    yield _row(part, "fixed-cidr-v6", "string", "IPv6 range for containers", value="CIDR")
    yield _row(part, "default-address-pool", "list", "Pool for networks, base=CIDR,size=N",
               key="default-address-pools", value="POOL")
    yield _row(part, "dns", "list", "DNS server of containers", value="IP")
    yield _row(part, "dns-opt", "list", "DNS option", key="dns-opts")
    yield _row(part, "dns-search", "list", "DNS search domain")


def _registry_rows() -> Iterator[Setting]:
    part = "Registries"
    yield _row(part, "registry-mirror", "list", "Mirror of Docker Hub; HOST=URL, *=URL: of others",
               key="registry-mirrors", value="URL")
    yield _row(part, "registry-mirror-auth", "list", "Password for a mirror; =origin: the registry's",
               value="MIRROR=USER:FILE")
    yield _row(part, "insecure-registry", "list", "Host or CIDR without verified TLS",
               key="insecure-registries", value="HOST")
    yield _row(part, "max-concurrent-downloads", "int", "Layers at a time (3)")
    yield _row(part, "max-concurrent-uploads", "int", "Layers at a time (5)")
    yield _row(part, "max-download-attempts", "int", "Tries a layer (5)")
    yield _row(part, "http-proxy", "string", "Proxy for http://", value="URL")
    yield _row(part, "https-proxy", "string", "Proxy for https://", value="URL")
    yield _row(part, "no-proxy", "string", "Hosts reached without it")


def _container_rows() -> Iterator[Setting]:
    part = "Containers"
    yield _row(part, "default-runtime", "string", "OCI runtime (pallet)", value="NAME")
    yield _row(part, "add-runtime", "list", "Further runtime, name=path", key="runtimes",
               value="RUNTIME")
    yield _row(part, "init", "bool", "Run a reaper as process 1")
    yield _row(part, "init-path", "string", "The reaper's program", value="FILE")
    yield _row(part, "cgroup-parent", "string", "Parent cgroup", value="PATH")
    yield _row(part, "exec-opt", "list", "native.cgroupdriver=cgroupfs or systemd",
               key="exec-opts", value="OPTION")
    yield _row(part, "default-ulimit", "list", "Limit, name=soft[:hard]", key="default-ulimits",
               value="LIMIT")
    yield _row(part, "default-shm-size", "string", "/dev/shm (64MiB)", value="BYTES")
    yield _row(part, "cdi-spec-dir", "list", "CDI devices are described here (/etc/cdi, /var/run/cdi)",
               key="cdi-spec-dirs", value="DIRECTORY")
    yield _row(part, "seccomp-profile", "string", 'Profile, "builtin" or "unconfined"',
               value="FILE")
    yield _row(part, "no-new-privileges", "bool", "Set it unless a container says otherwise")
    yield _row(part, "log-driver", "string", "Where output goes (json-file)", value="NAME")
    yield _row(part, "log-opt", "map", "Option of the log driver, key=value", key="log-opts")


def _without_effect() -> Iterator[Setting]:
    """List dockerd's settings that Pallet has no use for: accepted with a warning."""
    part = "Accepted, without effect"
    for flag, kind, key in (
        ("allow-direct-routing", "bool", None), ("bip6", "string", None),
        ("bridge-accept-fwmark", "string", None),
        ("allow-nondistributable-artifacts", "list", None), ("api-cors-header", "string", None),
        ("containerd", "string", None),
        ("containerd-namespace", "string", None), ("containerd-plugins-namespace", "string", None),
        ("cpu-rt-period", "int", None), ("cpu-rt-runtime", "int", None),
        ("cri-containerd", "bool", None), ("default-gateway-v6", "string", None),
        ("default-network-opt", "map", "default-network-opts"), ("experimental", "bool", None),
        ("firewall-backend", "string", None), ("host-gateway-ip", "list", "host-gateway-ips"),
        ("ip-forward-no-drop", "bool", None), ("ip6tables", "bool", None),
        ("log-format", "string", None), ("metrics-addr", "string", None),
        ("network-control-plane-mtu", "int", None),
        ("node-generic-resource", "list", "node-generic-resources"), ("raw-logs", "bool", None),
        ("storage-opt", "list", "storage-opts"),
        ("swarm-default-advertise-addr", "string", None), ("userland-proxy-path", "string", None),
    ):
        yield _row(part, flag, kind, "", key=key or flag, effect=False)  # type: ignore[arg-type]


SETTINGS: Final = tuple(_table())
BY_FLAG: Final = {setting.flag: setting for setting in SETTINGS}
_BY_SHORT: Final = {setting.short: setting for setting in SETTINGS if setting.short}
_BY_KEY: Final = {setting.key: setting for setting in SETTINGS if setting.key}

REFUSED: Final = {
    "authorization-plugin": "authorization plugins",
    "authorization-plugins": "authorization plugins",
    "default-cgroupns-mode": "another default cgroup namespace mode",
    "default-ipc-mode": "another default IPC mode",
    "rootless": "rootless mode",
    "selinux-enabled": "SELinux",
    "userns-remap": "user namespace remapping",
}
"""dockerd's settings that change what a container may do: ignoring them would be a lie."""

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_argv(argv: Sequence[str]) -> dict[str, Value]:
    """Read a command line into values by flag name.

    Raises:
        FlagError: in the words of dockerd's parser.
    """
    values: dict[str, Value] = {}
    words = iter(argv)
    for word in words:
        if word == "--":
            if next(words, None) is not None:
                _no_arguments()
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            setting = BY_FLAG.get(name)
            if setting is None:
                raise _unknown(name)
            _take(values, setting, value if equals else None, words, f"--{name}")
        elif word.startswith("-") and len(word) > 1:
            _take_short(values, word, words)
        else:
            _no_arguments()
    return values


def _no_arguments() -> None:
    msg = '"palletd" accepts no argument(s).'
    raise FlagError(msg)


def _unknown(name: str) -> FlagError:
    if name in REFUSED:
        return FlagError(f"--{name}: Pallet does not implement {REFUSED[name]} yet")
    return FlagError(f"unknown flag: --{name}")


def _take_short(values: dict[str, Value], word: str, words: Iterator[str]) -> None:
    at = 1
    while at < len(word):
        setting = _BY_SHORT.get(word[at])
        if setting is None:
            msg = f"unknown shorthand flag: '{word[at]}' in {word}"
            raise FlagError(msg)
        rest = word[at + 1:]
        if setting.kind == "bool" and not rest.startswith("="):
            values[setting.flag] = True
            at += 1
            continue
        _take(values, setting, rest.removeprefix("=") or None, words, f"-{word[at]}")
        return


def _take(
    values: dict[str, Value], setting: Setting, given: str | None, words: Iterator[str], name: str
) -> None:
    if given is None:
        if setting.kind == "bool":
            values[setting.flag] = True
            return
        given = next(words, None)
        if given is None:
            msg = f"flag needs an argument: {name}"
            raise FlagError(msg)
    label = f"-{setting.short}, --{setting.flag}" if setting.short else f"--{setting.flag}"
    try:
        value = _convert(setting, given)
    except ValueError as error:
        msg = f'invalid argument "{given}" for "{label}" flag: {error}'
        raise FlagError(msg) from error
    if setting.kind == "list":
        values.setdefault(setting.flag, []).append(value)
    elif setting.kind == "map":
        values.setdefault(setting.flag, {}).update(value)
    else:
        values[setting.flag] = value


def _convert(setting: Setting, text: str) -> Value:
    if setting.kind == "bool":
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        msg = f'strconv.ParseBool: parsing "{text}": invalid syntax'
        raise ValueError(msg)
    if setting.kind == "int":
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            msg = f'strconv.ParseInt: parsing "{text}": invalid syntax'
            raise ValueError(msg)
        return int(text)
    if setting.kind == "map":
        name, equals, value = text.partition("=")
        if not equals:
            msg = f"invalid option: {text}: must be a key=value pair"
            raise ValueError(msg)
        return {name: value}
    return text


def read_file(path: Path, *, must_exist: bool) -> dict[str, Value]:
    """Read ``daemon.json`` into values by flag name; a missing or empty file is no settings.

    Raises:
        InvalidParameterError: not there though it must be, not JSON, unknown keys, wrong types.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if must_exist:
            msg = f"open {path}: no such file or directory"
            raise InvalidParameterError(msg) from None
        return {}
    except OSError as error:
        msg = f"open {path}: {str(error.strerror).lower()}"
        raise InvalidParameterError(msg) from error
    if not text.strip():
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        msg = f"invalid JSON: {error}"
        raise InvalidParameterError(msg) from error
    if not isinstance(document, dict):
        msg = f"json: cannot unmarshal {_json_type(document)} into Go value of type object"
        raise InvalidParameterError(msg)
    return _by_flag(_flatten(document))


def _flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the keys that the file nests (``proxies``) to the level of the flags."""
    flat = dict(document)
    proxies = flat.pop("proxies", None)
    if isinstance(proxies, dict):
        flat.update(proxies)
    return flat


def _by_flag(document: Mapping[str, Any]) -> dict[str, Value]:
    refused = [key for key in document if key in REFUSED and document[key]]
    if refused:
        msg = f"{refused[0]}: Pallet does not implement {REFUSED[refused[0]]} yet"
        raise InvalidParameterError(msg)
    unknown = [key for key in document
               if key not in _BY_KEY and key not in REFUSED and key not in FILE_ONLY]
    if unknown:
        msg = ("the following directives don't match any configuration option: "
               + ", ".join(unknown))
        raise InvalidParameterError(msg)
    values = {}
    for key, value in document.items():
        setting = _BY_KEY.get(key)
        if setting is not None and value is not None:
            values[setting.flag] = _check_type(setting, value)
        elif key in FILE_ONLY:
            values[key] = value
    return values


FILE_ONLY: Final = frozenset({"builder"})
"""Keys that are no flags."""
_STRUCTURED: Final = frozenset({"default-ulimit", "add-runtime"})
"""Lists on the command line, objects in the file."""


def _check_type(setting: Setting, value: Any) -> Value:
    kind = setting.kind
    if setting.flag == "default-shm-size" and type(value) is int:
        return str(value)
    if kind == "bool":
        fits = isinstance(value, bool)
    elif kind == "int":
        fits = type(value) is int
    elif kind == "string":
        fits = isinstance(value, str)
    elif kind == "map" or setting.flag in _STRUCTURED:
        fits = isinstance(value, dict)
    else:
        fits = isinstance(value, list)
        if fits and setting.flag != "default-address-pool":
            fits = all(isinstance(item, str) for item in value)
    if not fits:
        wanted = {"bool": "bool", "int": "int", "string": "string", "list": "[]string",
                  "map": "map[string]string"}[kind]
        msg = (f"json: cannot unmarshal {_json_type(value)} into Go struct field "
               f"Config.{setting.key} of type {wanted}")
        raise InvalidParameterError(msg)
    return value


def _json_type(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array",
             dict: "object"}
    return names.get(type(value), "null")


def check_conflicts(flags: Mapping[str, Value], file: Mapping[str, Value]) -> None:
    """Refuse settings that are given twice.

    Raises:
        InvalidParameterError: names each with both values.
    """
    both = [
        f"{BY_FLAG[flag].key}: (from flag: {_go(value)}, from file: {_go(file[flag])})"
        for flag, value in flags.items() if flag in file
    ]
    if both:
        msg = ("the following directives are specified both as a flag and in the configuration "
               "file: " + ", ".join(both))
        raise InvalidParameterError(msg)


def _go(value: Value) -> str:
    """Write a value as Go's ``%v`` does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(_go(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_go(value[key])}" for key in sorted(value)) + "]"
    return str(value)


def help_text() -> str:
    """Write the text of ``--help``."""
    lines = ["Usage:  palletd [OPTIONS]", "", "Runs containers: Docker's Engine API as a daemon."]
    section = ""
    for setting in SETTINGS:
        if not setting.effect:
            continue
        if setting.section != section:
            section = setting.section
            lines += ["", f"{section}:"]
        short = f"-{setting.short}, " if setting.short else "    "
        word = setting.value or _VALUE_WORDS.get(setting.kind, "")
        value = f" {word}" if word else ""
        lines.append(f"  {short}{'--' + setting.flag + value:<32}{setting.text}")
    lines += ["", "The same settings can stand in the settings file, dashes kept, lists in the",
              'plural: {"hosts": ["unix:///run/pallet.sock"], "mtu": 1400}']
    return "\n".join(lines) + "\n"


_VALUE_WORDS: Final[dict[str, str]] = {"int": "N", "string": "TEXT", "list": "TEXT",
                                       "map": "KEY=VALUE"}
