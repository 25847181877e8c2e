"""How Go prints values, and the functions templates may call. Pure.

Spec   Go fmt ``%v``; text/template "Functions"; docker CLI's extra functions (json, split, join, title,
       lower, upper, pad, truncate).
"""

from __future__ import annotations

from pallet.cli.flags import go_quote
from pallet.cli.format.lexer import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Fields of the Engine API that are maps; every other object is a struct, which Go prints otherwise.
_MAPS = frozenset((
    "Labels", "Options", "Ports", "PortBindings", "Networks", "ExposedPorts", "Volumes", "Sysctls",
    "Tmpfs", "StorageOpt", "Annotations", "DriverOpts", "Data", "Config", "EndpointsConfig",
    "AuxiliaryAddresses", "Containers", "Runtimes", "Details", "Status"))


_LISTS = frozenset((
    "Env", "Cmd", "Entrypoint", "OnBuild", "RepoTags", "RepoDigests", "Args", "Binds", "CapAdd",
    "CapDrop", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "Links", "SecurityOpt",
    "Mounts", "Devices", "Ulimits", "Aliases", "DNSNames", "ExecIDs", "VolumesFrom", "Shell",
    "MaskedPaths", "ReadonlyPaths", "DeviceRequests", "DeviceCgroupRules", "Warnings"))


class Printed(dict[str, object]):
    """A JSON object that Go holds as a struct."""


class NilList(list[object]):
    """A JSON null where Go has a list: prints as ``[]``, encodes as null."""


class NilMap(dict[str, object]):
    """A JSON null where Go has a map: prints as ``map[]``, encodes as null."""


def mark(value: Any, name: str = "") -> Any:
    """Return ``value`` with the objects that are structs in Go turned into ``Printed``."""
    if isinstance(value, dict):
        inner = {key: mark(item, key) for key, item in value.items()}
        is_map = name in _MAPS and not {"Image", "Cmd", "Type"} & inner.keys()
        return inner if is_map else Printed(inner)
    if isinstance(value, list):
        return [mark(item, "") for item in value]
    if value is None and name in _LISTS:
        return NilList()
    if value is None and name in _MAPS:
        return NilMap()
    return value


def show(value: Any) -> str:
    """Return ``value`` as ``%v`` prints it."""
    if value is None:
        return "<nil>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) >= 1e21 else str(int(value))
    if isinstance(value, Printed):
        return "{" + " ".join(show(item) for item in value.values()) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(show(item) for item in value) + "]"
    if hasattr(value, "fields"):
        return show(value.fields())
    return str(value)


def truth(value: Any) -> bool:
    """Return whether Go's ``if`` takes ``value``: structs always, others when not empty."""
    return True if isinstance(value, Printed) and value else bool(value)


def to_json(value: Any) -> str:
    """Return compact JSON."""
    from pallet.client.wire import encode_text, escape_html

    text = encode_text(_unmark(value))
    # Rows encode themselves, and escape as Go does by default; the function json itself does not.
    return escape_html(text) if isinstance(value, list) and any(hasattr(item, "fields") for item in value) else text


def _unmark(value: Any) -> Any:
    if isinstance(value, (NilList, NilMap)):
        return None
    if hasattr(value, "fields"):
        return _unmark(value.fields())
    if isinstance(value, dict):
        return {key: _unmark(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmark(item) for item in value]
    return value


def go_format(text: str, *args: Any) -> str:
    """Return ``text`` with Go's verbs replaced: %v %s %d %q %t %f %x, width, ``-`` and ``0``."""
    out, at, rest = [], 0, list(args)
    while at < len(text):
        char = text[at]
        at += 1
        if char != "%":
            out.append(char)
            continue
        start = at
        while at < len(text) and text[at] in "+-# 0123456789.":
            at += 1
        spec, verb = text[start:at], text[at:at + 1]
        at += 1
        if verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(spec, verb, rest.pop(0)))
    if rest:
        extra = ", ".join(f"{_type_word(item)}={show(item)}" for item in rest)
        out.append(f"%!(EXTRA {extra})")
    return "".join(out)


def _type_word(value: Any) -> str:
    return {bool: "bool", int: "int", float: "float64", str: "string"}.get(type(value), "string")


def _verb(spec: str, verb: str, value: Any) -> str:
    if verb in "vs":
        body = show(value)
        if "." in spec:
            body = body[:int(spec.partition(".")[2] or 0)]
            spec = spec.partition(".")[0]
    elif verb == "q":
        body = go_quote(show(value))
    elif verb == "t" and isinstance(value, bool):
        body = show(value)
    elif verb in "dxXobcfeEgG" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return ("%" + spec + verb) % value if verb != "b" else format(int(value), "b")
    elif verb == "x" and isinstance(value, str):
        body = value.encode().hex()
    else:
        return f"%!{verb}({_type_word(value)}={show(value)})"
    width = spec.strip("-+# 0")
    if width.isdigit():
        return body.ljust(int(width)) if "-" in spec else body.rjust(int(width))
    return body


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            raise TemplateError("error calling index: index of untyped nil")
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, (list, str)):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {key}")
            value = value[key]
        else:
            raise TemplateError(f"error calling index: can't index item of type {_type_word(value)}")
    return value


def _length(value: Any) -> int:
    if value is None or isinstance(value, (int, float)):
        raise TemplateError("error calling len: len of nil pointer" if value is None else
                            f"error calling len: len of type {_type_word(value)}")
    return len(value)


def _print(*args: Any) -> str:
    out = ""
    for at, value in enumerate(args):
        if at and not isinstance(value, str) and not isinstance(args[at - 1], str):
            out += " "
        out += show(value)
    return out


def _and(*args: Any) -> Any:
    return next((value for value in args if not truth(value)), args[-1])


def _or(*args: Any) -> Any:
    return next((value for value in args if truth(value)), args[-1])


def _escape(text: str) -> str:
    for raw, replaced in (("&", "&amp;"), ("'", "&#39;"), ("<", "&lt;"), (">", "&gt;"),
                          ('"', "&#34;")):
        text = text.replace(raw, replaced)
    return text


def _slice(value: Any, *bounds: int) -> Any:
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise TemplateError(f"error calling slice: index out of range: {high}")
    return value[low:high]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "jsonPretty": to_json,
    "split": lambda text, separator: show(text).split(separator) if separator else list(text),
    "join": lambda items, separator: separator.join(show(item) for item in items or ()),
    "title": lambda text: " ".join(word[:1].upper() + word[1:] for word in show(text).split(" ")),
    "lower": lambda text: show(text).lower(),
    "upper": lambda text: show(text).upper(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, size: text[:size],
    "println": lambda *args: " ".join(show(value) for value in args) + "\n",
    "print": _print,
    "printf": go_format,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "eq": lambda first, *rest: any(first == value for value in rest),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "and": _and,
    "or": _or,
    "not": lambda value: not truth(value),
    "html": lambda *args: _escape(_print(*args)),
    "urlquery": lambda *args: _quote_query(_print(*args)),
}


def _quote_query(text: str) -> str:
    from pallet.client.engine import quote

    return quote(text, " ").replace(" ", "+")
