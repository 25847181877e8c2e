"""Which CDI documents are taken.

Runs   anywhere; pure.
Spec   CDI SPEC.md "CDI JSON Specification", "Released versions"; the texts are those of dockerd's library.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.spec.cdi import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.spec.cdi import Device, DeviceNode, Edits, Hook, Specification

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0")
_FIRST = "0.3.0"
_INNER = re.compile(r"[A-Za-z0-9_\-.]")
_DEVICE_INNER = re.compile(r"[A-Za-z0-9_\-.:]")
_NODE_TYPES = frozenset({"", "b", "c", "u", "p"})


def check(document: Specification) -> None:
    """Refuse what is no valid document.

    Raises:
        InvalidParameterError: in the words of dockerd's library.
    """
    version = document.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        raise _invalid(f'invalid version "{document.cdi_version}"')
    least = least_version(document)
    if VERSIONS.index(version) < VERSIONS.index(least):
        raise _invalid(f"the spec version must be at least v{least}")
    vendor, slash, kind = document.kind.partition("/")
    check_qualifier(vendor if slash else "", kind)
    _check_edits(document.container_edits)
    names: set[str] = set()
    for device in document.devices:
        if device.name in names:
            raise _invalid(f'invalid spec, multiple device "{device.name}"')
        names.add(device.name)
        try:
            _check_device(device)
        except InvalidParameterError as error:
            raise _invalid(f'failed add device "{device.name}": {error}') from None
    if not document.devices:
        raise _invalid("invalid spec, no devices")


def check_qualifier(vendor: str, kind: str) -> None:
    """Refuse what is no ``vendor`` or no class.

    Raises:
        InvalidParameterError: the same way.
    """
    _check_word("vendor.", vendor)
    _check_word("class.", kind)


def is_qualifier(text: str) -> bool:
    """``vendor.com/class``, and so no name of BuildKit's classes."""
    vendor, slash, kind = text.partition("/")
    if not slash:
        return False
    try:
        check_qualifier(vendor, kind)
    except InvalidParameterError:
        return False
    return True


def least_version(document: Specification) -> str:
    """The version that first had all that a document uses."""
    found = [_FIRST]
    every = [document.container_edits, *(device.container_edits for device in document.devices)]
    if any(edits.intel_rdt is not None or edits.additional_gids for edits in every):
        found.append("0.7.0")
    if (document.annotations or any(device.annotations for device in document.devices)
            or "." in document.kind.partition("/")[2]):
        found.append("0.6.0")
    if (any(device.name[:1].isdigit() for device in document.devices)
            or any(node.host_path for edits in every for node in edits.device_nodes)):
        found.append("0.5.0")
    if any(mount.type for edits in every for mount in edits.mounts):
        found.append("0.4.0")
    return max(found, key=VERSIONS.index)


def _check_word(what: str, text: str) -> None:
    if not text:
        raise _invalid(f"invalid {what} empty name")
    if not (text[0].isascii() and text[0].isalpha()):
        raise _invalid(f'invalid {what} "{text}", should start with letter')
    for letter in text[1:-1]:
        if not _INNER.fullmatch(letter):
            raise _invalid(f"invalid {what} invalid character '{letter}' in name \"{text}\"")
    if not (text[-1].isascii() and text[-1].isalnum()):
        raise _invalid(f'invalid {what} "{text}", should end with a letter or digit')


def _check_device(device: Device) -> None:
    name = device.name
    if not name:
        raise _invalid("invalid (empty) device name")
    if not (name[0].isascii() and name[0].isalnum()):
        raise _invalid(f'invalid class "{name}", should start with a letter or digit')
    for letter in name[1:-1]:
        if not _DEVICE_INNER.fullmatch(letter):
            raise _invalid(f"invalid character '{letter}' in device name \"{name}\"")
    if not (name[-1].isascii() and name[-1].isalnum()):
        raise _invalid(f'invalid name "{name}", should end with a letter or digit')
    edits = device.container_edits
    if not any((edits.env, edits.device_nodes, edits.hooks, edits.mounts, edits.intel_rdt, edits.additional_gids)):
        raise _invalid("invalid device, empty device edits")
    try:
        _check_edits(edits)
    except InvalidParameterError as error:
        raise _invalid(f'invalid device "{name}": {error}') from None


def _check_edits(edits: Edits) -> None:
    for problem in _problems(edits):
        raise _invalid(problem)


def _problems(edits: Edits) -> Iterator[str]:
    for entry in edits.env:
        if not _is_variable(entry):
            yield f'invalid container edits: invalid environment variable "{entry}"'
    for node in edits.device_nodes:
        yield from _node_problems(node)
    for hook in edits.hooks:
        yield from _hook_problems(hook)
    for mount in edits.mounts:
        if not mount.host_path:
            yield "invalid mount, empty host path"
        if not mount.container_path:
            yield "invalid mount, empty container path"
    closed = edits.intel_rdt.clos_id if edits.intel_rdt is not None else ""
    if closed in {".", ".."} or "/" in closed or "\n" in closed:
        yield "invalid ClosID"


def _node_problems(node: DeviceNode) -> Iterator[str]:
    if not node.path:
        yield "invalid (empty) device path"
    if node.type not in _NODE_TYPES:
        yield f'device "{node.path}": invalid type "{node.type}"'
    if set(node.permissions) - set("rwm"):
        yield f'device "{node.path}": invalid permissions "{node.permissions}"'


def _hook_problems(hook: Hook) -> Iterator[str]:
    if hook.hook_name not in HOOKS:
        yield f'invalid hook name "{hook.hook_name}"'
    if not hook.path:
        yield f'invalid hook "{hook.hook_name}" with empty path'
    elif not os.path.isabs(hook.path):
        yield f'invalid hook "{hook.hook_name}": path "{hook.path}" is not absolute'
    for entry in hook.env:
        if not _is_variable(entry):
            yield f'invalid hook "{hook.hook_name}": invalid environment variable "{entry}"'


def _is_variable(entry: str) -> bool:
    name, equals, _ = entry.partition("=")
    return bool(name and equals)


def _invalid(text: str) -> InvalidParameterError:
    return InvalidParameterError(text)
