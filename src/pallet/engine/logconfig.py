"""Log drivers: which exist, their options, and what the shim is told. Pure.

Engine API HostConfig.LogConfig; semantics rows "logs drivers".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError
from pallet.spec.engine.host_config import LogConfig
from pallet.zygote.messages import LogSink

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.config import Config
    from pallet.engine.container import Container

DRIVERS = ("json-file", "none")
_OPTIONS = frozenset({"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag",
                      "mode", "max-buffer-size"})
_SIZE = re.compile(r"^(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?$", re.IGNORECASE)
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """``10m``, ``1.5g``: bytes, powers of 1024.

    Raises:
        InvalidParameterError: "invalid size: 'x'".
    """
    match = _SIZE.match(text)
    if match is None:
        msg = f"invalid size: '{text}'"
        raise InvalidParameterError(msg)
    return int(float(match[1]) * 1024 ** _UNITS[match[2].lower()])


def resolve(wanted: LogConfig, config: Config) -> LogConfig:
    """Fill in the daemon's driver and options, then check them.

    Raises:
        InvalidParameterError: unknown driver or option, or a value that makes no sense.
    """
    options = dict(wanted.config or {})
    kind = wanted.type or config.log_driver
    if kind == config.log_driver:
        options = {**dict(config.log_options), **options}
    if kind not in DRIVERS:
        msg = f"logger: no log driver named '{kind}' is registered"
        raise InvalidParameterError(msg)
    if kind == "json-file":
        for name in options:
            if name not in _OPTIONS:
                msg = f"unknown log opt '{name}' for json-file log driver"
                raise InvalidParameterError(msg)
        _json_file_limits(options)
    return LogConfig(type=kind, config=options)


def _json_file_limits(options: dict[str, str]) -> tuple[int, int, bool]:
    size = parse_size(options["max-size"]) if "max-size" in options else -1
    try:
        count = int(options.get("max-file", "1"))
    except ValueError:
        msg = f'strconv.Atoi: parsing "{options["max-file"]}": invalid syntax'
        raise InvalidParameterError(msg) from None
    if count < 1:
        msg = "max-file cannot be less than 1"
        raise InvalidParameterError(msg)
    compress = options.get("compress", "false").lower() in {"1", "t", "true"}
    if compress and (count == 1 or size == -1):
        msg = "compress cannot be true when max-file is less than 2 or max-size is not set"
        raise InvalidParameterError(msg)
    return size, count, compress


def log_sink(container: Container, config: Config, path: Path) -> LogSink | None:
    """What the shim writes; None where the driver keeps nothing."""
    log = container.host_config.log_config
    if (log.type or config.log_driver) == "none":
        return None
    options = log.config or {}
    size, count, compress = _json_file_limits(options)
    attributes = _attributes(container, options)
    return LogSink(
        path=str(path), max_size_bytes=size, max_files=count, compress=compress,
        attrs=msgspec.json.encode(attributes).decode() if attributes else "")


def _attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    labels = container.config.labels or {}
    env = dict(entry.partition("=")[::2] for entry in container.config.env or ())
    found: dict[str, str] = {}
    for values, plain, pattern in ((labels, "labels", "labels-regex"), (env, "env", "env-regex")):
        names = [name for name in options.get(plain, "").split(",") if name]
        found.update({name: values[name] for name in names if name in values})
        if expression := options.get(pattern):
            found.update({name: value for name, value in values.items() if re.search(expression, name)})
    if tag := options.get("tag"):
        found["tag"] = tag.replace("{{.ID}}", container.id[:12]).replace("{{.FullID}}", container.id) \
            .replace("{{.Name}}", container.name).replace("{{.ImageName}}", container.image_ref)
    return found
