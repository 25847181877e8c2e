"""The functions of bake files.

Owns   what each does with values that ``values`` describes; those that go wrong raise ``ValueError`` or ``TypeError``.
Spec   buildx docs/bake-stdlib.md.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import posixpath
import re
import time
import uuid
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from pallet.cli.bake.hcl import rsa
from pallet.cli.bake.hcl.types import typed
from pallet.cli.bake.hcl.values import as_bool, as_number, as_string, equal, from_plain, number, plain, unified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_VERB = re.compile(r"%(%|[-+# 0]*\d*(?:\.\d+)?[a-zA-Z])")


def _texts(values: Iterable[Any]) -> list[str]:
    return [as_string(value) for value in values]


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("list required")
    return value


def _mapped(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("map required")
    return value


def _reckoned(apply: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Any, Any], Any]:
    return lambda left, right: number(apply(Decimal(as_number(left)), Decimal(as_number(right))))


def _divide(left: Decimal, right: Decimal) -> Decimal:
    if not right:
        raise ValueError("cannot divide by zero")
    return left / right


def _go_template(text: str) -> str:
    """Go's ``$1`` and ``${name}`` of a replacement as Python's."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: f"\\g<{found[1] or found[2]}>", text.replace("\\", "\\\\"))


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(as_string(pattern).replace("\\z", "\\Z"))
    except re.error as error:
        raise ValueError(f"invalid regular expression: {error}") from None


def _match(found: re.Match[str]) -> Any:
    if found.re.groupindex:
        return dict(found.groupdict())
    return list(found.groups()) if found.groups() else found.group()


def _regex_first(pattern: Any, text: Any) -> Any:
    found = _regex(pattern).search(as_string(text))
    if found is None:
        raise ValueError("pattern did not match any part of the given string")
    return _match(found)


def _format(pattern: Any, *values: Any) -> str:
    left = list(values)

    def one(found: re.Match[str]) -> str:
        verb = found[1]
        if verb == "%":
            return "%"
        if not left:
            raise ValueError("not enough arguments")
        value, flags, letter = left.pop(0), verb[:-1], verb[-1]
        if letter == "v":
            text = as_string(value) if not isinstance(value, (list, dict)) and value is not None else _json(value)
            return f"%{flags}s" % text
        if letter == "t":
            return f"%{flags}s" % as_string(as_bool(value))
        if letter == "q":
            return _json(as_string(value))
        if letter in "dbxXo":
            whole = int(as_number(value))
            return f"{whole:b}" if letter == "b" else f"%{flags}{letter}" % whole
        if letter in "feEgG":
            return f"%{flags}{letter}" % float(as_number(value))
        if letter == "s":
            return f"%{flags}s" % as_string(value)
        raise ValueError(f"unsupported format verb %{letter}")

    made = _VERB.sub(one, as_string(pattern))
    if left:
        raise ValueError("too many arguments")
    return made


def _json(value: Any) -> str:
    from pallet.client import wire

    return wire.escape_html(wire.encode_text(_sorted(plain(value))))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in sorted(value.items())}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _from_json(text: Any) -> Any:
    from pallet.client import wire

    return from_plain(wire.decode(as_string(text)))


def _flat(value: Any) -> list[Any]:
    found: list[Any] = []
    for item in _listed(value):
        found += _flat(item) if isinstance(item, list) else [item]
    return found


def _distinct(value: Any) -> list[Any]:
    found: list[Any] = []
    for item in _listed(value):
        if not any(equal(item, known) for known in found):
            found.append(item)
    return found


def _coalesce(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    raise ValueError("no non-null arguments")


def _element(items: Any, at: Any) -> Any:
    found = _listed(items)
    if not found:
        raise ValueError("cannot use element function with an empty list")
    return found[int(as_number(at)) % len(found)]


def _index(items: Any, key: Any) -> Any:
    try:
        return items[as_string(key)] if isinstance(items, dict) else _listed(items)[int(as_number(key))]
    except (KeyError, IndexError):
        raise ValueError("key does not exist in collection") from None


def _index_of(items: Any, wanted: Any) -> int:
    for at, item in enumerate(_listed(items)):
        if equal(item, wanted):
            return at
    raise ValueError("item not found")


def _slice(items: Any, start: Any, end: Any = None) -> list[Any]:
    found, first = _listed(items), int(as_number(start))
    last = len(found) if end is None else int(as_number(end))
    if not 0 <= first <= last <= len(found):
        raise ValueError("start and end index must be inside of the list")
    return found[first:last]


def _substr(text: Any, offset: Any, length: Any) -> str:
    found, start, size = as_string(text), int(as_number(offset)), int(as_number(length))
    start = max(start + len(found), 0) if start < 0 else start
    return found[start:] if size < 0 else found[start:start + size]


def _range(*limits: Any) -> list[int | Decimal]:
    found = [int(as_number(limit)) for limit in limits]
    start, end = (0, found[0]) if len(found) == 1 else (found[0], found[1])
    step = found[2] if len(found) > 2 else (1 if end >= start else -1)
    if not step:
        raise ValueError("step must not be zero")
    if (end - start) / step > 1024:
        raise ValueError("more than 1024 values were generated")
    return list(range(start, end, step))


def _chunks(items: Any, size: Any) -> list[list[Any]]:
    found, width = _listed(items), int(as_number(size))
    if width < 0:
        raise ValueError("the size argument must be positive")
    return [found[at:at + width] for at in range(0, len(found), width)] if width else [found]


def _csv(text: Any) -> list[dict[str, str]]:
    return [dict(row) for row in csv.DictReader(io.StringIO(as_string(text)))]


def _merge(*maps: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in maps:
        found |= one or {}
    return dict(sorted(found.items()))


def _product(*lists: Any) -> list[list[Any]]:
    found: list[list[Any]] = [[]]
    for one in lists:
        found = [[*before, item] for before in found for item in _listed(one)]
    return found


def _title(text: Any) -> str:
    return re.sub(r"(^|\s)(\w)", lambda found: found[1] + found[2].upper(), as_string(text))


def _indent(depth: Any, text: Any) -> str:
    return as_string(text).replace("\n", "\n" + " " * int(as_number(depth)))


def _bcrypt(text: Any, cost: Any = 10) -> str:
    try:
        import bcrypt
    except ImportError:
        raise ValueError("bcrypt is not installed") from None
    hashed: bytes = bcrypt.hashpw(as_string(text).encode(), bcrypt.gensalt(int(as_number(cost)), b"2a"))
    return hashed.decode()


def _timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _moment(text: Any) -> Any:
    from datetime import datetime

    try:
        return datetime.fromisoformat(as_string(text).replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"not a valid RFC3339 timestamp: {text}") from None


def _rfc3339(moment: Any) -> str:
    return str(moment.isoformat(timespec="seconds")).replace("+00:00", "Z")


def _format_date(pattern: Any, text: Any) -> str:
    at = _moment(text)
    zone = at.strftime("%z") or "+0000"
    far = f"{zone[:3]}:{zone[3:]}"
    made = {
        "YYYY": f"{at.year:04d}", "YY": f"{at.year % 100:02d}", "MMMM": _MONTHS[at.month - 1],
        "MMM": _MONTHS[at.month - 1][:3], "MM": f"{at.month:02d}", "M": str(at.month), "DD": f"{at.day:02d}",
        "D": str(at.day), "EEEE": _DAYS[at.weekday()], "EEE": _DAYS[at.weekday()][:3], "hh": f"{at.hour:02d}",
        "h": str(at.hour), "HH": f"{at.hour % 12 or 12:02d}", "H": str(at.hour % 12 or 12),
        "AA": "AM" if at.hour < 12 else "PM", "aa": "am" if at.hour < 12 else "pm", "mm": f"{at.minute:02d}",
        "m": str(at.minute), "ss": f"{at.second:02d}", "s": str(at.second),
        "ZZZZZ": far, "ZZZZ": zone, "ZZZ": "UTC" if zone == "+0000" else zone, "Z": "Z" if zone == "+0000" else far}
    found = []
    for token in re.finditer(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+", as_string(pattern)):
        if token[1] is not None:
            found.append(token[1].replace("''", "'") or "'")
        elif token[2]:
            if token[0] not in made:
                raise ValueError(f"invalid date format verb \"{token[0]}\"")
            found.append(made[token[0]])
        else:
            found.append(token[0])
    return "".join(found)


def _duration_s(text: str) -> float:
    units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    if not re.fullmatch(r"[+-]?(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(f"invalid duration {text}")
    found = sum(float(amount) * units[unit] for amount, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text))
    return -found if text.startswith("-") else found


def _time_add(text: Any, duration: Any) -> str:
    from datetime import timedelta

    return _rfc3339(_moment(text) + timedelta(seconds=_duration_s(as_string(duration))))


def _rounded(rounding: str) -> Callable[[Any], Any]:
    return lambda value: int(Decimal(as_number(value)).to_integral_value(rounding))


def _compared(decide: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda left, right: decide(as_number(left), as_number(right))


def _homedir() -> str:
    return os.path.expanduser("~")


def _sanitize(text: Any) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", as_string(text))


def _lookup(items: Any, key: Any, default: Any) -> Any:
    found = _mapped(items).get(as_string(key))
    return default if found is None else found


def _hashed(name: str) -> Callable[[Any], str]:
    return lambda text: hashlib.new(name, as_string(text).encode(), usedforsecurity=False).hexdigest()


def _sub(pattern: Any, replacement: Any, text: Any) -> str:
    try:
        return _regex(pattern).sub(_go_template(as_string(replacement)), as_string(text))
    except re.error as error:
        raise ValueError(str(error)) from None


def _cidr(text: Any) -> Any:
    import ipaddress

    return ipaddress.ip_network(as_string(text), strict=False)


def _cidr_subnets(prefix: Any, *bits: Any) -> list[str]:
    whole, found = _cidr(prefix), []
    at = int(whole.network_address)
    for more in bits:
        length = whole.prefixlen + int(as_number(more))
        size = 1 << (whole.max_prefixlen - length)
        at = -(-at // size) * size
        found.append(str(type(whole)((at, length))))
        at += size
    if at > int(whole.broadcast_address) + 1:
        raise ValueError(f"not enough remaining address space for subnets of {prefix}")
    return found


def _cidr_subnet(prefix: Any, bits: Any, number_of: Any) -> str:
    whole, more, at = _cidr(prefix), int(as_number(bits)), int(as_number(number_of))
    if not 0 <= at < 1 << more:
        raise ValueError(f"prefix extension of {more} does not accommodate a subnet numbered {at}")
    length = whole.prefixlen + more
    return str(type(whole)((int(whole.network_address) + (at << (whole.max_prefixlen - length)), length)))


def _as_set(items: Iterable[Any]) -> list[Any]:
    """A set in cty's order: by value."""
    found = _distinct(list(items))
    return sorted(found, key=lambda item: as_string(item) if not isinstance(item, (list, dict)) else _json(item))


def _outside(items: list[Any], others: list[Any]) -> list[Any]:
    return [item for item in _listed(items) if not any(equal(item, other) for other in _listed(others))]


def _intersection(first: Any, *others: Any) -> list[Any]:
    return _as_set(item for item in _listed(first)
                   if all(any(equal(item, one) for one in _listed(other)) for other in others))


def _symmetric(first: Any, *others: Any) -> list[Any]:
    found = _listed(first)
    for other in others:
        found = [*_outside(found, other), *_outside(other, found)]
    return _as_set(found)


def _log(value: Any, base: Any) -> int | Decimal:
    import math

    return number(Decimal(repr(math.log(as_number(value), as_number(base)))))


_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([\w.-]+))?(?:\+[\w.-]+)?")
_CONSTRAINT = re.compile(r"\s*(=|!=|>=|<=|>|<|~|\^|)\s*(\S+)\s*")


def _version(text: str) -> tuple[list[int], str, int]:
    """Numbers, pre-release and how many numbers were written."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(f"invalid semantic version {text}")
    numbers = [int(part or 0) for part in found.groups()[:3]]
    return numbers, found[4] or "", sum(part is not None for part in found.groups()[:3])


def _satisfies(version: Any, constraints: Any) -> bool:
    """``semvercmp``: comma for all of them, ``||`` for one of them."""
    numbers, before, _ = _version(as_string(version))
    mine = (numbers, not before, before)

    def one(text: str) -> bool:
        found = _CONSTRAINT.fullmatch(text)
        if found is None:
            raise ValueError(f"invalid constraint {text}")
        wanted, pre, written = _version(found[2])
        other = (wanted, not pre, pre)
        if found[1] in ("~", "^"):
            fixed = (1 if written == 1 else 2) if found[1] == "~" else next(
                (at + 1 for at, part in enumerate(wanted) if part), written)
            return mine >= other and numbers[:fixed] == wanted[:fixed]
        return {"": mine == other, "=": mine == other, "!=": mine != other, ">": mine > other, "<": mine < other,
                ">=": mine >= other, "<=": mine <= other}[found[1]]

    return any(all(one(part) for part in re.split(r",|(?<=[\w*])\s+(?=[<>=!~^])", choice))
               for choice in as_string(constraints).split("||"))


def _unix_time(value: Any) -> dict[str, Any]:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(int(as_number(value)), UTC)
    return {"year": at.year, "year_day": at.timetuple().tm_yday, "day": at.day, "month": at.month,
            "month_name": _MONTHS[at.month - 1], "weekday": at.isoweekday() % 7, "weekday_name": _DAYS[at.weekday()],
            "hour": at.hour, "minute": at.minute, "second": at.second, "rfc3339": _rfc3339(at),
            "iso_year": at.isocalendar().year, "iso_week": at.isocalendar().week}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "absolute": lambda value: abs(as_number(value)),
    "add": _reckoned(lambda left, right: left + right),
    "and": lambda left, right: as_bool(left) and as_bool(right),
    "base64decode": lambda text: base64.b64decode(as_string(text)).decode(),
    "base64encode": lambda text: base64.b64encode(as_string(text).encode()).decode(),
    "basename": lambda path: posixpath.basename(as_string(path).rstrip("/")) or (as_string(path)[:1] or "."),
    "bcrypt": _bcrypt,
    "byteslen": lambda text: len(as_string(text).encode()),
    "ceil": _rounded(ROUND_CEILING),
    "chomp": lambda text: as_string(text).rstrip("\r\n"),
    "chunklist": _chunks,
    "cidrhost": lambda prefix, host: str(_cidr(prefix)[int(as_number(host))]),
    "cidrnetmask": lambda prefix: str(_cidr(prefix).netmask),
    "cidrsubnet": _cidr_subnet,
    "cidrsubnets": _cidr_subnets,
    "coalesce": _coalesce,
    "coalescelist": lambda *lists: next((one for one in lists if one), []),
    "compact": lambda items: [item for item in _listed(items) if item not in ("", None)],
    "concat": lambda *lists: [item for one in lists for item in _listed(one)],
    "contains": lambda items, wanted: any(equal(item, wanted) for item in _listed(items)),
    "convert": typed,
    "csvdecode": _csv,
    "dirname": lambda path: posixpath.dirname(as_string(path)) or ".",
    "distinct": _distinct,
    "divide": _reckoned(_divide),
    "element": _element,
    "equal": equal,
    "flatten": _flat,
    "floor": _rounded(ROUND_FLOOR),
    "format": _format,
    "formatdate": _format_date,
    "formatlist": lambda pattern, *lists: [
        _format(pattern, *(one[at] if isinstance(one, list) else one for one in lists))
        for at in range(max((len(one) for one in lists if isinstance(one, list)), default=1))],
    "greaterthan": _compared(lambda left, right: left > right),
    "greaterthanorequalto": _compared(lambda left, right: left >= right),
    "hasindex": lambda items, key: as_string(key) in items if isinstance(items, dict) else (
        0 <= as_number(key) < len(_listed(items))),
    "homedir": _homedir,
    "indent": _indent,
    "index": _index,
    "indexof": _index_of,
    "int": lambda value: int(as_number(value)),
    "join": lambda separator, *lists: as_string(separator).join(
        text for one in lists for text in _texts(_listed(one))),
    "jsondecode": _from_json,
    "jsonencode": _json,
    "keys": lambda items: sorted(_mapped(items)),
    "length": lambda items: len(items) if isinstance(items, dict) else len(_listed(items)),
    "lessthan": _compared(lambda left, right: left < right),
    "lessthanorequalto": _compared(lambda left, right: left <= right),
    "log": _log,
    "lookup": _lookup,
    "lower": lambda text: as_string(text).lower(),
    "max": lambda *values: max(map(as_number, values)),
    "md5": _hashed("md5"),
    "merge": _merge,
    "min": lambda *values: min(map(as_number, values)),
    "modulo": _reckoned(lambda left, right: left % right),
    "multiply": _reckoned(lambda left, right: left * right),
    "negate": lambda value: number(-as_number(value)),
    "not": lambda value: not as_bool(value),
    "notequal": lambda left, right: not equal(left, right),
    "or": lambda left, right: as_bool(left) or as_bool(right),
    "parseint": lambda text, base: int(as_string(text), int(as_number(base))),
    "pow": lambda base, power: number(Decimal(as_number(base)) ** Decimal(as_number(power))),
    "range": _range,
    "regex": _regex_first,
    "regex_replace": lambda text, pattern, replacement: _sub(pattern, replacement, text),
    "regexall": lambda pattern, text: [_match(found) for found in _regex(pattern).finditer(as_string(text))],
    "replace": lambda text, old, new: as_string(text).replace(as_string(old), as_string(new)),
    "reverse": lambda text: as_string(text)[::-1],
    "reverselist": lambda items: _listed(items)[::-1],
    "rsadecrypt": lambda ciphertext, key: rsa.decrypt(as_string(ciphertext), as_string(key)),
    "sanitize": _sanitize,
    "semvercmp": _satisfies,
    "sethaselement": lambda items, wanted: any(equal(item, wanted) for item in _listed(items)),
    "setintersection": _intersection,
    "setproduct": _product,
    "setsubtract": lambda items, others: _as_set(_outside(items, others)),
    "setsymmetricdifference": _symmetric,
    "setunion": lambda *lists: _as_set(item for one in lists for item in _listed(one)),
    "sha1": _hashed("sha1"),
    "sha256": _hashed("sha256"),
    "sha512": _hashed("sha512"),
    "signum": lambda value: (as_number(value) > 0) - (as_number(value) < 0),
    "slice": _slice,
    "sort": lambda items: sorted(_texts(_listed(items))),
    "split": lambda separator, text: as_string(text).split(as_string(separator)) if separator else list(
        as_string(text)),
    "strlen": lambda text: len(as_string(text)),
    "substr": _substr,
    "subtract": _reckoned(lambda left, right: left - right),
    "timeadd": _time_add,
    "timestamp": _timestamp,
    "title": _title,
    "trim": lambda text, cut: as_string(text).strip(as_string(cut)),
    "trimprefix": lambda text, cut: as_string(text).removeprefix(as_string(cut)),
    "trimspace": lambda text: as_string(text).strip(),
    "trimsuffix": lambda text, cut: as_string(text).removesuffix(as_string(cut)),
    "unixtimestampparse": _unix_time,
    "upper": lambda text: as_string(text).upper(),
    "urlencode": lambda text: _quote(as_string(text)),
    "uuidv4": lambda: str(uuid.uuid4()),
    "uuidv5": lambda space, name: str(uuid.uuid5(
        getattr(uuid, f"NAMESPACE_{as_string(space).upper()}", None) or uuid.UUID(as_string(space)), as_string(name))),
    "values": lambda items: unified([item for _, item in sorted(_mapped(items).items())]),
    "zipmap": lambda keys, items: dict(sorted(zip(_texts(_listed(keys)), _listed(items), strict=True))),
}


def _quote(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text)
