"""Options with a grammar of their own: mounts, networks, GPUs, ulimits, device rates. Pure.

Spec   docker CLI reference of ``run``; results are Engine API documents (Mount, EndpointSettings,
       DeviceRequest, Ulimit, ThrottleDevice).
"""

from __future__ import annotations

import os

from pallet.cli.errors import InvalidValueError
from pallet.cli.flags import parse_bool
from pallet.cli.values import parse_int, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]

_ULIMITS = frozenset((
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack"))


def split_csv(text: str) -> list[str]:
    """Split one CSV record; a field in double quotes may hold commas, ``""`` is a quote.

    Raises:
        InvalidValueError: empty text ("EOF") or an unbalanced quote.
    """
    if not text:
        raise InvalidValueError("EOF")
    fields, at = [], 0
    while True:
        if text.startswith('"', at):
            value, at = "", at + 1
            while True:
                end = text.find('"', at)
                if end < 0:
                    raise InvalidValueError('parse error: extraneous or missing " in quoted-field')
                value += text[at:end]
                at = end + 1
                if not text.startswith('"', at):
                    break
                value, at = value + '"', at + 1
            if at < len(text) and text[at] != ",":
                raise InvalidValueError('parse error: extraneous or missing " in quoted-field')
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            value, at = text[at:end], end
        fields.append(value)
        if at >= len(text):
            return fields
        at += 1


def parse_mount(text: str) -> Document:
    """Return the Mount document of ``type=bind,source=/a,target=/b,readonly``.

    Raises:
        InvalidValueError: with Docker's words.
    """
    mount: Document = {"Type": "volume"}
    groups: set[str] = set()
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if not equals:
            if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
                raise InvalidValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        prefix = key.partition("-")[0]
        if prefix in ("bind", "volume", "tmpfs", "image") and "-" in key:
            groups.add(prefix)
        _set_mount_field(mount, key, value, field)
    kind = mount["Type"]
    if not kind:
        raise InvalidValueError("type is required")
    if not mount.get("Target"):
        raise InvalidValueError("target is required")
    for group in ("volume", "bind", "image", "tmpfs"):
        if group in groups and kind != group:
            raise InvalidValueError(f"cannot mix '{group}-*' options with mount type '{kind}'")
    bind = mount.get("BindOptions", {})
    if bind.get("ReadOnlyForceRecursive"):
        if not mount.get("ReadOnly"):
            raise InvalidValueError("option 'bind-recursive=readonly' requires 'readonly' to be "
                                    "specified in conjunction")
        if bind.get("Propagation") != "rprivate":
            raise InvalidValueError("option 'bind-recursive=readonly' requires "
                                    "'bind-propagation=rprivate' to be specified in conjunction")
    return mount


def _set_mount_field(mount: Document, key: str, value: str, field: str) -> None:
    if key == "type":
        mount["Type"] = value.lower()
    elif key in ("source", "src"):
        relative = value == "." or value.startswith(("./", "../"))
        mount["Source"] = os.path.abspath(value) if relative else value
    elif key in ("target", "dst", "destination"):
        mount["Target"] = value
    elif key in ("readonly", "ro"):
        mount["ReadOnly"] = _bool_field(key, value)
    elif key == "consistency":
        mount["Consistency"] = value.lower()
    elif key.startswith("bind-"):
        _set_bind_option(mount.setdefault("BindOptions", {}), key, value, field)
    elif key.startswith("volume-"):
        _set_volume_option(
            mount.setdefault("VolumeOptions", {"DriverConfig": {}}), key, value, field)
    elif key == "image-subpath":
        mount.setdefault("ImageOptions", {})["Subpath"] = value
    elif key == "tmpfs-size":
        try:
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = parse_size(value)
        except InvalidValueError:
            raise InvalidValueError(f"invalid value for {key}: {value}") from None
    elif key == "tmpfs-mode":
        try:
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        except ValueError:
            raise InvalidValueError(f"invalid value for {key}: {value}") from None
    else:
        raise InvalidValueError(f"unexpected key '{key}' in '{field}'")


def _set_bind_option(options: Document, key: str, value: str, field: str) -> None:
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _bool_field(key, value)
    elif key == "bind-recursive":
        if value == "disabled":
            options["NonRecursive"] = True
        elif value == "writable":
            options["ReadOnlyNonRecursive"] = True
        elif value == "readonly":
            options["ReadOnlyForceRecursive"] = True
        elif value != "enabled":
            raise InvalidValueError(
                f"invalid value for {key}: {value} (must be \"enabled\", \"disabled\", "
                "\"writable\", or \"readonly\")")
    else:
        raise InvalidValueError(f"unexpected key '{key}' in '{field}'")


def _set_volume_option(options: Document, key: str, value: str, field: str) -> None:
    if key == "volume-nocopy":
        options["NoCopy"] = _bool_field(key, value)
    elif key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-label":
        name, _, content = value.partition("=")
        options.setdefault("Labels", {})[name] = content
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, content = value.partition("=")
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = content
    else:
        raise InvalidValueError(f"unexpected key '{key}' in '{field}'")


def _bool_field(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except InvalidValueError:
        raise InvalidValueError(f"invalid value for {key}: {value}") from None


def parse_network(text: str) -> Document:
    """Return ``{"Target": name, …}`` for a network name or ``name=x,alias=y,ip=…``.

    Raises:
        InvalidValueError: with Docker's words.
    """
    name, equals, _ = text.partition("=")
    if not equals or not name.replace("-", "").replace("_", "").isalnum():
        return {"Target": text}
    wish: Document = {"Target": ""}
    lists = {"alias": "Aliases", "link-local-ip": "LinkLocalIPs"}
    words = {"name": "Target", "ip": "IPv4Address", "ip6": "IPv6Address",
             "mac-address": "MacAddress"}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not equals or not key:
            raise InvalidValueError(f"invalid field {field}")
        if key in words:
            wish[words[key]] = value
        elif key in lists:
            wish.setdefault(lists[key], []).append(value)
        elif key == "driver-opt":
            option, equals, content = value.partition("=")
            if not equals or not option:
                raise InvalidValueError("invalid key value pair format in driver options")
            wish.setdefault("DriverOpts", {})[option.strip().lower()] = content.strip().lower()
        elif key == "gw-priority":
            try:
                wish["GwPriority"] = parse_int(value)
            except InvalidValueError:
                raise InvalidValueError(f"invalid gw-priority ({value}): invalid syntax") from None
        else:
            raise InvalidValueError(f"invalid field key {key}")
    if not wish["Target"]:
        raise InvalidValueError("network name/id is not specified")
    return wish


def parse_gpus(text: str) -> Document:
    """Return the DeviceRequest of ``all``, ``2`` or ``device=0,capabilities=…``.

    Raises:
        InvalidValueError: with Docker's words.
    """
    request: Document = {}
    seen: set[str] = set()
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", key
        if key in seen:
            raise InvalidValueError(f"gpu request key '{key}' can be specified only once")
        seen.add(key)
        if key == "driver":
            request["Driver"] = value
        elif key == "count":
            request["Count"] = _gpu_count(value)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            pairs = (part.partition("=") for part in split_csv(value))
            request["Options"] = {name: content for name, _, content in pairs}
        else:
            raise InvalidValueError(f"unexpected key '{key}' in '{field}'")
    if "count" not in seen and "device" not in seen:
        request["Count"] = 1
    request.setdefault("Capabilities", [["gpu"]])
    request.setdefault("Options", {})
    return request


def _gpu_count(value: str) -> int:
    if value == "all":
        return -1
    try:
        return parse_int(value)
    except InvalidValueError as error:
        reason = str(error).rpartition(": ")[2]
        raise InvalidValueError(f"invalid count ({value}): value must be either \"all\" or an "
                                f"integer: {reason}") from None


def parse_ulimit(text: str) -> Document:
    """Return ``{"Name", "Soft", "Hard"}`` for ``nofile=1024:2048``.

    Raises:
        InvalidValueError: with Docker's words.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise InvalidValueError(f"invalid ulimit type: {name}")
    parts = value.split(":")
    if len(parts) > 2:
        raise InvalidValueError(f"too many limit value arguments - {value}, can only have up to "
                                "two, `soft[:hard]`")
    soft = _decimal(parts[0])
    hard = _decimal(parts[-1])
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidValueError("ulimit soft limit must be less than or equal to hard limit: "
                                f"{soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _decimal(text: str) -> int:
    if not text.lstrip("+-").isdigit():
        parse_int("x" if text.isalnum() and not text else text)
    return int(text)


def _device_pair(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or ":" in value:
        raise InvalidValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise InvalidValueError(f"bad format for device path: {text}")
    return path, value


def parse_weight(text: str) -> Document:
    """Return ``{"Path", "Weight"}`` for ``/dev/sda:300``; 0 or 10 to 1000."""
    path, value = _device_pair(text)
    try:
        weight = parse_int(value, bits=16, signed=False)
    except InvalidValueError:
        raise InvalidValueError(f"invalid weight for device: {text}") from None
    if weight and not 10 <= weight <= 1000:
        raise InvalidValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": weight}


def parse_bps(text: str) -> Document:
    """Return ``{"Path", "Rate"}`` for ``/dev/sda:1mb``, bytes a second."""
    path, value = _device_pair(text)
    try:
        return {"Path": path, "Rate": parse_size(value)}
    except InvalidValueError:
        raise InvalidValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>"
            "[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, "
            "or gb") from None


def parse_iops(text: str) -> Document:
    """Return ``{"Path", "Rate"}`` for ``/dev/sda:100``, operations a second."""
    path, value = _device_pair(text)
    try:
        return {"Path": path, "Rate": parse_int(value, signed=False)}
    except InvalidValueError:
        raise InvalidValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer") from None


PARSERS: dict[str, Callable[[str], Document]] = {
    "mount": parse_mount, "network": parse_network, "gpus": parse_gpus,
}
CHECKS: dict[str, Callable[[str], Document]] = {
    "ulimit": parse_ulimit, "weight": parse_weight, "bps": parse_bps, "iops": parse_iops,
}
