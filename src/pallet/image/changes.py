"""``--change`` of import and commit: Dockerfile instructions applied to an image's run config.

Owns   the eleven instructions that Docker allows there. Building proper has its own parser.
Runs   anywhere; pure.
Spec   Engine API ImageCreate and ImageCommit ``changes``; semantics row "images commit".
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError
from pallet.spec.image import Healthcheck, RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SHELL = ("/bin/sh", "-c")
_VARIABLE = re.compile(r"\\(.)|\$(?:(\w+)|\{(\w+)\})", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
                "h": 3600 * 10**9}
_NOT_IN_ONBUILD = frozenset({"ONBUILD", "FROM", "MAINTAINER"})
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_MAX_PORT = 65535

_strings = msgspec.json.Decoder(list[str])


def apply_changes(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """Return ``config`` with the instructions carried out, in order.

    Raises:
        InvalidParameterError: in Docker's words: an instruction that may not be used here, or a
            malformed one.
    """
    cmd_set = False
    for text in changes:
        name, _, rest = text.strip().partition(" ")
        rest = rest.strip()
        apply = _INSTRUCTIONS.get(name.upper())
        if apply is None:
            message = f"{name.lower()} is not a valid change command"
            raise InvalidParameterError(message)
        if not rest:
            message = f"{name.upper()} requires at least one argument"
            raise InvalidParameterError(message)
        config = apply(config, rest)
        if name.upper() == "CMD":
            cmd_set = True
        elif name.upper() == "ENTRYPOINT" and not cmd_set:
            # An inherited command would be arguments of another program.
            config = msgspec.structs.replace(config, cmd=None)
    return config


def _json_or_none(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        return _strings.decode(text.encode())
    except msgspec.DecodeError:
        return None  # as in a Dockerfile: what is no list is shell text


def _command(text: str) -> list[str]:
    listed = _json_or_none(text)
    return listed if listed is not None else [*_SHELL, text]


def _cmd(config: RunConfig, text: str) -> RunConfig:
    return msgspec.structs.replace(config, cmd=_command(text))


def _entrypoint(config: RunConfig, text: str) -> RunConfig:
    return msgspec.structs.replace(config, entrypoint=_command(text))


def _env(config: RunConfig, text: str) -> RunConfig:
    env = _environment(config)
    env |= dict(_pairs("ENV", text, env))
    return msgspec.structs.replace(config, env=[f"{name}={value}" for name, value in env.items()])


def _label(config: RunConfig, text: str) -> RunConfig:
    labels = {**(config.labels or {}), **dict(_pairs("LABEL", text, _environment(config)))}
    return msgspec.structs.replace(config, labels=labels)


def _expose(config: RunConfig, text: str) -> RunConfig:
    ports = dict(config.exposed_ports or {})
    for word in _words(text, _environment(config)):
        span, _, protocol = word.partition("/")
        first, _, last = span.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit() and (protocol or "tcp") in _PROTOCOLS
                and 0 < int(first) <= int(last) <= _MAX_PORT):
            message = f"invalid containerPort: {word}"
            raise InvalidParameterError(message)
        for port in range(int(first), int(last) + 1):
            ports[f"{port}/{protocol or 'tcp'}"] = {}
    return msgspec.structs.replace(config, exposed_ports=ports)


def _volume(config: RunConfig, text: str) -> RunConfig:
    listed = _json_or_none(text)
    paths = listed if listed is not None else _words(text, _environment(config))
    if not all(path.strip() for path in paths):
        message = "VOLUME specified can not be an empty string"
        raise InvalidParameterError(message)
    volumes = {**(config.volumes or {}), **{path.strip(): {} for path in paths}}
    return msgspec.structs.replace(config, volumes=volumes)


def _user(config: RunConfig, text: str) -> RunConfig:
    return msgspec.structs.replace(config, user=_expand(text, _environment(config)))


def _workdir(config: RunConfig, text: str) -> RunConfig:
    path = posixpath.join("/", config.working_dir, _expand(text, _environment(config)))
    return msgspec.structs.replace(config, working_dir=posixpath.normpath(path))


def _stop_signal(config: RunConfig, text: str) -> RunConfig:
    return msgspec.structs.replace(config, stop_signal=_expand(text, _environment(config)))


def _on_build(config: RunConfig, text: str) -> RunConfig:
    trigger = text.split(None, 1)[0].upper()
    if trigger == "ONBUILD":
        message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"
        raise InvalidParameterError(message)
    if trigger in _NOT_IN_ONBUILD:
        message = f"{trigger} isn't allowed as an ONBUILD trigger"
        raise InvalidParameterError(message)
    return msgspec.structs.replace(config, on_build=[*(config.on_build or ()), text])


def _healthcheck(config: RunConfig, text: str) -> RunConfig:
    times: dict[str, int] = {}
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        name, _, value = flag[2:].partition("=")
        field = name.replace("-", "_")
        if field == "retries" and value.isdigit():
            times[field] = int(value)
        elif field in ("interval", "timeout", "start_period", "start_interval"):
            times[field] = _nanoseconds(value)
        else:
            message = f"unknown flag: {name}"
            raise InvalidParameterError(message)
        text = text.strip()
    kind, _, command = text.partition(" ")
    if kind.upper() == "NONE" and not command:
        test = ["NONE"]
    elif kind.upper() == "CMD" and command.strip():
        listed = _json_or_none(command.strip())
        test = ["CMD", *listed] if listed is not None else ["CMD-SHELL", command.strip()]
    else:
        message = f'unknown type "{kind.upper()}" for HEALTHCHECK (try CMD)'
        raise InvalidParameterError(message)
    return msgspec.structs.replace(config, healthcheck=Healthcheck(test=test, **times))


def _nanoseconds(text: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        message = f'time: invalid duration "{text}"'
        raise InvalidParameterError(message)
    return sum(int(float(number) * _NANOSECONDS[unit]) for number, unit in parts)


def _environment(config: RunConfig) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in config.env or ())


def _expand(text: str, env: dict[str, str]) -> str:
    """Replace ``$NAME`` and ``${NAME}``; a backslash protects what follows."""
    return _VARIABLE.sub(
        lambda match: match[1] if match[1] else env.get(match[2] or match[3], ""), text)


def _words(text: str, env: dict[str, str]) -> list[str]:
    """Split at unquoted spaces, drop quotes and backslashes, expand variables but in '…'."""
    words: list[str] = []
    current: str | None = None
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        if quote != "'" and char in "\\$" and (match := _VARIABLE.match(text, position)):
            current = (current or "") + _expand(match[0], env)
            position = match.end()
            continue
        if quote:
            quote, char = ("", "") if char == quote else (quote, char)
            current = (current or "") + char
        elif char in "\"'":
            quote, current = char, current or ""
        elif char.isspace():
            if current is not None:
                words.append(current)
            current = None
        else:
            current = (current or "") + char
        position += 1
    if quote:
        message = "unexpected end of statement while looking for matching " + (
            "double-quote" if quote == '"' else "single-quote")
        raise InvalidParameterError(message)
    return [*words, current] if current is not None else words


def _pairs(name: str, text: str, env: dict[str, str]) -> list[tuple[str, str]]:
    """``a=b c="d e"``, or the old form ``a the rest of the line``."""
    first = text.split(None, 1)[0]
    if "=" not in first:
        if name == "LABEL" or " " not in text:
            message = f"Syntax error - can't find = in \"{first}\". Must be of the form: name=value"
            raise InvalidParameterError(message)
        key, _, value = text.partition(" ")
        return [(key, _expand(value.strip(), env))]
    found = []
    for word in _words(text, env):
        key, equals, value = word.partition("=")
        if not equals or not key:
            message = f"Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            raise InvalidParameterError(message)
        found.append((key, value))
    return found


_INSTRUCTIONS: dict[str, Callable[[RunConfig, str], RunConfig]] = {
    "CMD": _cmd, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck, "LABEL": _label, "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
}
