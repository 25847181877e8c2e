"""Makes a ``Config`` of a command line and a settings file.

Owns   the meaning and the checks of every setting; their syntax is ``flags.py``'s.
Spec   dockerd's configuration; flags and file must not name the same setting.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pallet import paths
from pallet.config import BridgeConfig, Config, RegistryConfig, RuntimeConfig, TlsConfig
from pallet.daemon import flags
from pallet.daemon.gcoptions import builder_config
from pallet.errors import InvalidParameterError
from pallet.log import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ULIMITS: Final = frozenset({
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
})
_UNITS: Final = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4,
                 "p": 1024**5}
_REGISTRY_HOST: Final = re.compile(r"\*|[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What ``main`` needs: the daemon's settings and how to run it."""

    config: Config
    config_file: Path
    allow_plain_tcp: bool = False
    ready_fd: int | None = None
    validate: bool = False
    proxies: Mapping[str, str] = field(default_factory=dict)
    """Environment variables to set: HTTP_PROXY, HTTPS_PROXY, NO_PROXY."""
    warnings: tuple[str, ...] = ()


def load(argv: Sequence[str]) -> Options:
    """Read the command line (without the program's name) and the settings file.

    Raises:
        FlagError: the command line is wrong.
        InvalidParameterError: a setting is wrong, or given twice.
    """
    given = flags.parse_argv(argv)
    path = Path(given.get("config-file", paths.DEFAULT_CONFIG_FILE))
    try:
        stored = flags.read_file(path, must_exist="config-file" in given)
        flags.check_conflicts(given, stored)
    except InvalidParameterError as error:
        msg = f"unable to configure the Pallet daemon with file {path}: {error}"
        raise InvalidParameterError(msg) from error
    values = {**stored, **given}
    ignored = sorted(flag for flag in values if flag not in flags.FILE_ONLY and not flags.BY_FLAG[flag].effect)
    proxies = {
        name.upper().replace("-", "_"): values[name]
        for name in ("http-proxy", "https-proxy", "no-proxy") if name in values
    }
    return Options(
        config=_config(values), config_file=path,
        allow_plain_tcp=values.get("allow-plain-tcp", False), ready_fd=values.get("ready-fd"),
        validate=values.get("validate", False), proxies=proxies,
        warnings=tuple(f"{flag} has no effect in Pallet" for flag in ignored))


class _Reader:
    """Picks settings: only those given, so that ``Config`` keeps its own defaults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.found: dict[str, Any] = {}

    def take(self, flag: str, name: str, read: Callable[[Any], Any] = lambda value: value) -> None:
        """Put the setting ``flag``, read by ``read``, under ``name``."""
        if flag in self._values:
            try:
                self.found[name] = read(self._values[flag])
            except ValueError as error:
                msg = f'invalid argument {_quoted(self._values[flag])} for "--{flag}": {error}'
                raise InvalidParameterError(msg) from error


def _quoted(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return f'"{value}"' if isinstance(value, str) else str(value)


def _config(values: Mapping[str, Any]) -> Config:
    reader = _Reader(values)
    take = reader.take
    take("data-root", "data_root", _absolute)
    take("exec-root", "exec_root", _absolute)
    take("storage-driver", "storage_driver", _storage_driver)
    take("pidfile", "pid_file", _absolute)
    take("host", "hosts", tuple)
    take("group", "group")
    take("debug", "debug")
    take("log-level", "log_level", _log_level)
    take("label", "labels", _labels)
    take("live-restore", "live_restore")
    take("shutdown-timeout", "shutdown_timeout_s")
    take("feature", "features", _features)
    take("cdi-spec-dir", "cdi_directories", lambda value: tuple(filter(None, value)))
    take("default-runtime", "default_runtime")
    take("add-runtime", "runtimes", _runtimes)
    take("init", "init")
    take("init-path", "init_path")
    take("cgroup-parent", "cgroup_parent")
    take("exec-opt", "cgroup_driver", _cgroup_driver)
    take("default-ulimit", "default_ulimits", _ulimits)
    take("disk-budget", "disk_budget_bytes", size_bytes)
    take("builder", "builder", partial(builder_config, read_size=size_bytes))
    take("default-shm-size", "default_shm_size_bytes", size_bytes)
    take("seccomp-profile", "seccomp_profile", _seccomp)
    take("no-new-privileges", "no_new_privileges")
    take("log-driver", "log_driver")
    take("log-opt", "log_options", _pairs)
    take("dns", "dns", _addresses)
    take("dns-search", "dns_search", tuple)
    take("dns-opt", "dns_options", tuple)
    if not dict(reader.found.get("features", ())).get("cdi", True):
        reader.found["cdi_directories"] = ()
    config = Config(
        tls=_tls(values), bridge=_bridge(values), registry=_registry(values), **reader.found)
    known = {"pallet", *(runtime.name for runtime in config.runtimes)}
    if config.default_runtime not in known:
        msg = f"specified default runtime '{config.default_runtime}' does not exist"
        raise InvalidParameterError(msg)
    return config


def _storage_driver(name: str) -> str:
    name = "vfs" if name == "native" else name
    if name not in {"overlay2", "erofs", "vfs"}:
        msg = "error initializing graphdriver: driver not supported"
        raise InvalidParameterError(msg)
    return name


def _bridge(values: Mapping[str, Any]) -> BridgeConfig:
    reader = _Reader(values)
    take = reader.take
    take("bridge", "name")
    take("bip", "bip", _interface)
    take("fixed-cidr", "fixed_cidr", _network)
    take("fixed-cidr-v6", "fixed_cidr_v6", _network)
    take("default-gateway", "default_gateway", _address)
    take("mtu", "mtu")
    take("icc", "icc")
    take("ip", "default_bind_ip", _address)
    take("ip-forward", "ip_forward")
    take("ip-masq", "ip_masq")
    take("iptables", "firewall")
    take("userland-proxy", "userland_proxy")
    take("ipv6", "ipv6")
    take("default-address-pool", "address_pools", _pools)
    return BridgeConfig(**reader.found)


def _registry(values: Mapping[str, Any]) -> RegistryConfig:
    for flag in ("max-concurrent-downloads", "max-concurrent-uploads"):
        if values.get(flag, 0) < 0:
            msg = f"invalid {flag.replace('-', ' ')}: {values[flag]}"
            raise InvalidParameterError(msg)
    if values.get("max-download-attempts", 1) <= 0:
        msg = f"invalid max download attempts: {values['max-download-attempts']}"
        raise InvalidParameterError(msg)
    reader = _Reader(values)
    reader.take("registry-mirror", "mirrors", _mirrors)
    reader.take("registry-mirror-auth", "mirror_auth", _mirror_auth)
    reader.take("insecure-registry", "insecure", tuple)
    # dockerd reads 0 as "the default".
    for flag, name in (("max-concurrent-downloads", "max_concurrent_downloads"),
                       ("max-concurrent-uploads", "max_concurrent_uploads"),
                       ("max-download-attempts", "max_download_attempts")):
        if values.get(flag):
            reader.take(flag, name)
    return RegistryConfig(**reader.found)


def _tls(values: Mapping[str, Any]) -> TlsConfig | None:
    """Decide about TLS: naming ``tlsverify`` at all, even as false, turns it on, as in dockerd."""
    verify = values.get("tlsverify", False)
    if not (values.get("tls", False) or "tlsverify" in values):
        return None
    home = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return TlsConfig(
        ca_cert=Path(values.get("tlscacert", home / "ca.pem")) if verify else None,
        cert=Path(values.get("tlscert", home / "cert.pem")),
        key=Path(values.get("tlskey", home / "key.pem")), verify=verify)


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _log_level(text: str) -> str:
    if text not in LEVELS:
        msg = f"unable to parse logging level: {text}"
        raise InvalidParameterError(msg)
    return text


def _labels(labels: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not equals:
            msg = f"bad attribute format: {label}"
            raise ValueError(msg)
        if seen.setdefault(name, value) != value:
            msg = f"conflict labels for {name}={value} and {name}={seen[name]}"
            raise ValueError(msg)
    return tuple(dict.fromkeys(labels))


def _features(values: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    read = {"true": True, "1": True, "false": False, "0": False}
    features = []
    for name, value in values.items():
        switch = value if isinstance(value, bool) else read.get(str(value).lower())
        if switch is None:
            msg = f'strconv.ParseBool: parsing "{value}": invalid syntax'
            raise ValueError(msg)
        features.append((name, switch))
    return tuple(features)


def _runtimes(value: Sequence[str] | Mapping[str, Any]) -> tuple[RuntimeConfig, ...]:
    """Read ``name=path`` from flags, ``{name: {"path": …, "runtimeArgs": […]}}`` from the file."""
    runtimes = []
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                msg = f"runtime {name} needs a path"
                raise ValueError(msg)  # noqa: TRY004 - a wrong setting, not a wrong call
            args = entry.get("runtimeArgs") or []
            runtimes.append(RuntimeConfig(name=name, path=entry["path"], args=tuple(args)))
    else:
        for text in value:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                msg = f"invalid runtime argument: {text}"
                raise ValueError(msg)
            runtimes.append(RuntimeConfig(name=name.strip().lower(), path=path.strip()))
    for runtime in runtimes:
        if runtime.name == "pallet":
            msg = "runtime name 'pallet' is reserved"
            raise ValueError(msg)
    return tuple(runtimes)


def _cgroup_driver(options: Sequence[str]) -> str:
    driver = "cgroupfs"
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name.strip() != "native.cgroupdriver":
            msg = f"invalid option {option}"
            raise InvalidParameterError(msg)
        driver = value.strip()
    if driver not in ("cgroupfs", "systemd"):
        msg = f"native.cgroupdriver option {driver} not supported"
        raise InvalidParameterError(msg)
    return driver


def _ulimits(value: Sequence[str] | Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    """Read limits into ``(name, soft, hard)``."""
    if isinstance(value, dict):
        return tuple(
            _ulimit(name, int(entry.get("Soft", 0)), int(entry.get("Hard", 0)))
            for name, entry in value.items())
    limits = []
    for text in value:
        name, equals, numbers = text.partition("=")
        soft, colon, hard = numbers.partition(":")
        if not equals or not soft:
            msg = f"invalid ulimit argument: {text}"
            raise ValueError(msg)
        limits.append(_ulimit(name, int(soft), int(hard) if colon else int(soft)))
    return tuple(limits)


def _ulimit(name: str, soft: int, hard: int) -> tuple[str, int, int]:
    if name not in _ULIMITS:
        msg = f"invalid ulimit type: {name}"
        raise ValueError(msg)
    if hard != -1 and (soft == -1 or soft > hard):
        msg = f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        raise ValueError(msg)
    return name, soft, hard


def size_bytes(text: str) -> int:
    """Read ``64m``, ``64MiB`` or a number of bytes.

    Raises:
        ValueError: no size.
    """
    match = _SIZE.match(text.strip())
    if match is None:
        msg = f"invalid size: '{text}'"
        raise ValueError(msg)
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _seccomp(text: str) -> str | None:
    return None if text in ("", "builtin") else text


def _pairs(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in values.items())


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        msg = f"{text} is not an ip address"
        raise ValueError(msg) from None
    return text


def _addresses(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(_address(value.strip()) for value in values)


def _interface(text: str) -> str:
    if "/" not in text:
        msg = f"invalid CIDR address: {text}"
        raise ValueError(msg)
    ipaddress.ip_interface(text)
    return text


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


def _pools(values: Sequence[Any]) -> tuple[tuple[str, int], ...]:
    """Read ``base=10.0.0.0/8,size=24`` from flags, ``{"base": …, "size": …}`` from the file."""
    pools = []
    for value in values:
        fields = dict(value) if isinstance(value, dict) else {}
        for part in value.split(",") if isinstance(value, str) else ():
            name, equals, text = part.partition("=")
            if not equals:
                msg = f"invalid field '{part}' must be a key=value pair"
                raise ValueError(msg)
            if name.lower() not in ("base", "size"):
                msg = f"unexpected key '{name}' in '{part}'"
                raise ValueError(msg)
            fields[name.lower()] = text
        base, size = str(fields.get("base", "")), int(fields.get("size", 0))
        network = ipaddress.ip_network(base, strict=False)
        if not network.prefixlen <= size <= network.max_prefixlen:
            msg = f"invalid size {size} for pool {base}"
            raise ValueError(msg)
        pools.append((base, size))
    return tuple(pools)


def _mirrors(values: Sequence[str]) -> tuple[str, ...]:
    """Check mirrors as dockerd does: http or https, no user, no query; ``HOST=`` or ``*=`` before it."""
    mirrors = []
    for value in values:
        host, equals, url = value.partition("=")
        if not equals or "/" in host:
            host, url = "", value
        elif not _REGISTRY_HOST.fullmatch(host):
            msg = f'invalid mirror: "{host}" is no registry\'s host in "{value}"'
            raise ValueError(msg)
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("http", "https"):
            scheme = scheme if separator else ""
            msg = f'invalid mirror: unsupported scheme "{scheme}" in "{value}"'
            raise ValueError(msg)
        if "@" in rest.partition("/")[0]:
            msg = "invalid mirror: username/password not allowed in URI"
            raise ValueError(msg)
        if "?" in rest or "#" in rest or not rest.strip("/"):
            msg = f'invalid mirror: path, query, or fragment at end of the URI "{value}"'
            raise ValueError(msg)
        mirrors.append(value.rstrip("/") + "/")
    return tuple(mirrors)


def _mirror_auth(values: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Read ``MIRROR=USER:FILE``, whose first line is the password, and ``MIRROR=origin``."""
    found = []
    for value in values:
        host, equals, rest = value.partition("=")
        user, colon, file = rest.partition(":")
        if not (equals and _REGISTRY_HOST.fullmatch(host) and user) or (rest != "origin" and not file):
            msg = f'invalid mirror credentials "{value}": want MIRROR=USER:FILE or MIRROR=origin'
            raise ValueError(msg)
        if not colon:
            found.append((host, "", ""))
            continue
        try:
            password = Path(file).read_text(encoding="utf-8").partition("\n")[0]
        except OSError as error:
            msg = f"mirror credentials: {error}"
            raise ValueError(msg) from error
        found.append((host, user, password))
    return tuple(found)
