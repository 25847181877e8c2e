"""Values of options: numbers, sizes, durations, and the checked lists of ``run`` and ``create``.

Owns   text to value for every flag kind but ``bool``, ``string`` and plain ``list``. Pure.
Spec   Go's strconv and time.ParseDuration; Docker's validators. Messages are theirs.
"""

from __future__ import annotations

from pallet.cli.errors import InvalidValueError
from pallet.cli.flags import go_quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIZE_SUFFIX = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}


def default_of(kind: str, default: str) -> Any:
    """Return the value of a flag that was not given; ``default`` is the table's text."""
    if default:
        return convert(kind, default, None)
    if kind in ("map", "filter", "list:sysctl"):
        return {}
    if kind in ("mount", "network", "gpus", "strings"):
        return []
    return 0


def convert(kind: str, text: str, previous: Any) -> Any:
    """Return the value of a flag after ``text`` was given for it.

    Args:
        kind: the kind in the flag's row.
        text: what the user wrote.
        previous: the value so far, None for the first time.

    Raises:
        InvalidValueError: with Docker's words.
    """
    if kind.startswith("list:"):
        checked = LIST_CHECKS[kind[5:]](text)
        return [*(previous or []), checked]
    if kind == "strings":
        return [*(previous or []), *(part for part in text.split(","))]
    if kind == "map":
        key, _, value = text.partition("=")
        return {**(previous or {}), key: value}
    if kind == "filter":
        return add_filter(previous or {}, text)
    if kind in ("mount", "network", "gpus"):
        from pallet.cli.run import structured

        return [*(previous or []), structured.PARSERS[kind](text)]
    return PARSERS[kind](text)


def add_filter(filters: dict[str, list[str]], text: str) -> dict[str, list[str]]:
    """Return ``filters`` with ``name=value`` added.

    Raises:
        InvalidValueError: there is no ``=``.
    """
    if not text:
        return filters
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidValueError("bad format of filter (expected name=value)")
    name = name.strip().lower()
    known = filters.get(name, [])
    return {**filters, name: [*known, value.strip()]}


def parse_int(text: str, *, bits: int = 64, signed: bool = True) -> int:
    """Return an integer written as Go's strconv accepts it with base 0.

    Raises:
        InvalidValueError: with strconv's words.
    """
    name = "ParseInt" if signed else "ParseUint"
    try:
        body = text.lstrip("+-") if signed else text
        if not body or body[0] in "+-" or text != text.strip() or len(text) - len(body) > 1:
            raise ValueError
        old_octal = len(body) > 1 and body[0] == "0" and body[1].isdigit()
        value = int(body, 8 if old_octal else 0)
    except ValueError:
        raise InvalidValueError(
            f"strconv.{name}: parsing {go_quote(text)}: invalid syntax") from None
    if text.startswith("-"):
        value = -value
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise InvalidValueError(
            f"strconv.{name}: parsing {go_quote(text)}: value out of range")
    return value


def parse_size(text: str) -> int:
    """Return bytes for ``512``, ``1.5g``, ``64MiB``, ``10 kB``: every unit is a power of 1024.

    Raises:
        InvalidValueError: "invalid size: 'x'".
    """
    at = len(text)
    while at and text[at - 1] not in "0123456789. ":
        at -= 1
    number, suffix = text[:at], text[at:].lower()
    if number.endswith(" "):
        number = number[:-1]
    if number.strip() != number or not number:
        raise InvalidValueError(f"invalid size: '{text}'")
    for ending in ("ib", "b"):
        if suffix.endswith(ending) and (suffix == "b" or len(suffix) > len(ending)):
            suffix = suffix[:-len(ending)]
            break
    try:
        value = float(number)
    except ValueError:
        raise InvalidValueError(f"invalid size: '{text}'") from None
    if suffix not in _SIZE_SUFFIX or value < 0:
        raise InvalidValueError(f"invalid suffix: '{text[at:].lower()}'"
                                if value >= 0 else f"invalid size: '{text}'")
    return int(value * 1024 ** _SIZE_SUFFIX[suffix])


def parse_memory_swap(text: str) -> int:
    """Return bytes, or -1 for unlimited."""
    return -1 if text == "-1" else parse_size(text)


def parse_duration(text: str) -> int:
    """Return nanoseconds for ``1h2m3.5s``, as Go's time.ParseDuration.

    Raises:
        InvalidValueError: with Go's words.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    quoted = go_quote(text)
    if not rest:
        raise InvalidValueError(f"time: invalid duration {quoted}")
    total = 0
    while rest:
        at = 0
        while at < len(rest) and rest[at] in "0123456789.":
            at += 1
        number, rest = rest[:at], rest[at:]
        at = 0
        while at < len(rest) and rest[at] not in "0123456789.":
            at += 1
        unit, rest = rest[:at], rest[at:]
        if not number.strip(".") or number.count(".") > 1:
            raise InvalidValueError(f"time: invalid duration {quoted}")
        if not unit:
            raise InvalidValueError(f"time: missing unit in duration {quoted}")
        if unit not in _DURATION_NS:
            raise InvalidValueError(f"time: unknown unit {go_quote(unit)} in duration {quoted}")
        whole, _, fraction = number.partition(".")
        scale = _DURATION_NS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
    return sign * total


def parse_cpus(text: str) -> int:
    """Return billionths of a CPU for ``1.5`` or ``3/2``.

    Raises:
        InvalidValueError: not a number, or finer than a billionth.
    """
    from fractions import Fraction

    try:
        nano = Fraction(text) * 1_000_000_000
    except (ValueError, ZeroDivisionError):
        raise InvalidValueError(f"failed to parse {text} as a rational number") from None
    if nano.denominator != 1:
        raise InvalidValueError("value is too precise")
    return int(nano)


def _check_env(text: str) -> str:
    if not text or text.startswith("="):
        raise InvalidValueError(f"invalid environment variable: {text}")
    return text


def _check_label(text: str) -> str:
    if not text.partition("=")[0].strip():
        raise InvalidValueError(f"invalid label '{text}': empty name")
    return text


def _check_attach(text: str) -> str:
    name = text.lower()
    if name not in ("stdin", "stdout", "stderr"):
        raise InvalidValueError("valid streams are STDIN, STDOUT and STDERR")
    return name


def _check_extra_host(text: str) -> str:
    at = min((i for i in (text.find("="), text.find(":")) if i >= 0), default=-1)
    name, address = (text[:at], text[at + 1:]) if at >= 0 else (text, "")
    if not name or not address:
        raise InvalidValueError(f"bad format for add-host: {go_quote(text)}")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway" and not is_ip(address):
        raise InvalidValueError(f"invalid IP address in add-host: {go_quote(address)}")
    return f"{name}:{address}"


def _check_ip(text: str) -> str:
    address = text.strip()
    if not is_ip(address):
        raise InvalidValueError(f"IP address is not correctly formatted: {text}")
    return address


def _check_domain(text: str) -> str:
    value = text.strip(" ")
    if value == ".":
        return value
    labels = value.removesuffix(".").split(".")
    good = len(value) <= 255 and any(char.isalpha() for char in value) and all(
        label and len(label) <= 63 and label[0].isalnum() and label[-1].isalnum()
        and all(char.isascii() and (char.isalnum() or char in "-_") for char in label)
        for label in labels)
    if not good:
        raise InvalidValueError(f"{text} is not a valid domain")
    return value


def _check_link(text: str) -> str:
    if not text:
        raise InvalidValueError("empty string specified for links")
    parts = text.split(":")
    if len(parts) > 2:
        raise InvalidValueError(f"bad format for links: {text}")
    return text


def _check_sysctl(text: str) -> str:
    known = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
             "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced")
    name = text.partition("=")[0]
    if "=" not in text or (name not in known and not name.startswith(("net.", "fs.mqueue."))):
        raise InvalidValueError(f"sysctl '{text}' is not allowed")
    return text


def is_ip(text: str) -> bool:
    """Return whether ``text`` is an IPv4 or IPv6 address."""
    import _socket

    try:
        if ":" in text:
            _socket.inet_pton(_socket.AF_INET6, text)
        else:
            _socket.inet_pton(_socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def _run_check(name: str) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        from pallet.cli.run import structured

        return structured.CHECKS[name](text)

    return check


LIST_CHECKS: dict[str, Callable[[str], Any]] = {
    "env": _check_env,
    "label": _check_label,
    "attach": _check_attach,
    "add-host": _check_extra_host,
    "dns": _check_ip,
    "domain": _check_domain,
    "link": _check_link,
    "sysctl": _check_sysctl,
    "ulimit": _run_check("ulimit"),
    "weight": _run_check("weight"),
    "bps": _run_check("bps"),
    "iops": _run_check("iops"),
}

PARSERS: dict[str, Callable[[str], Any]] = {
    "int": parse_int,
    "uint": lambda text: parse_int(text, signed=False),
    "uint16": lambda text: parse_int(text, bits=16, signed=False),
    "bytes": parse_size,
    "memswap": parse_memory_swap,
    "duration": parse_duration,
    "decimal": parse_cpus,
}
