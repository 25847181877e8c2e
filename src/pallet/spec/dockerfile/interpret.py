"""Nodes to typed instructions: what each keyword takes, and what is wrong with what it was given.

Owns   the table of instructions.
Runs   anywhere; pure.
Spec   Dockerfile reference; errors in BuildKit's words.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pallet.spec.dockerfile import devices, mounts
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.durations import parse_duration_ns
from pallet.spec.dockerfile.errors import DockerfileError, ParseError
from pallet.spec.dockerfile.flags import Flags, did_you_mean
from pallet.spec.dockerfile.parser import heredoc_word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.spec.dockerfile.flags import Kind
    from pallet.spec.dockerfile.parser import Heredoc, Node

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_NOT_A_TRIGGER = frozenset({"FROM", "MAINTAINER"})
_COPY_FLAGS: dict[str, Kind] = {"from": "str", "chown": "str", "chmod": "str", "link": "bool",
                                "parents": "bool", "exclude": "list"}
_ADD_FLAGS: dict[str, Kind] = {"chown": "str", "chmod": "str", "link": "bool", "exclude": "list",
                               "keep-git-dir": "bool", "checksum": "str", "unpack": "bool"}
_RUN_FLAGS: dict[str, Kind] = {"mount": "list", "network": "str", "security": "str", "device": "list"}
_HEALTH_FLAGS: dict[str, Kind] = {"interval": "str", "timeout": "str", "start-period": "str",
                                  "start-interval": "str", "retries": "str"}
_MILLISECOND_NS = 10**6


def interpret(node: Node, *, where: bool = True) -> ins.Instruction:
    """Understand one node; without ``where`` errors do not tell the line, as there is no file.

    Raises:
        ParseError: ``dockerfile parse error on line N: …``.
    """
    reader = _READERS.get(node.name)
    try:
        if reader is None:
            # A node without a command cannot be: lines of nothing are no nodes.
            meant = did_you_mean(node.command, KEYWORDS)
            message = f"unknown instruction: {node.command}{meant if node.command.isupper() else meant.lower()}"
            raise DockerfileError(message)
        return reader(node, Flags(node.flags, _TAKES_FLAGS.get(node.name, {})))
    except DockerfileError as error:
        if error.lines is not None or not where:
            raise
        message = f"dockerfile parse error on line {node.start}: {error}"
        raise ParseError(message, node.lines) from error


def _shared(node: Node) -> dict[str, Any]:
    return {"keyword": node.command, "code": node.original.strip(), "lines": node.lines,
            "comments": node.comments}


def _exactly_one(node: Node) -> str:
    if len(node.args) != 1 or not node.args[0]:
        message = f"{node.command.upper()} requires exactly one argument"
        raise DockerfileError(message)
    return node.args[0]


def _at_least_one(node: Node) -> tuple[str, ...]:
    if not node.args:
        message = f"{node.command.upper()} requires at least one argument"
        raise DockerfileError(message)
    return node.args


def _from(node: Node, flags: Flags) -> ins.From:
    args = node.args
    if len(args) == 3 and args[1].lower() == "as":
        alias = args[2].lower()
        if not _STAGE_NAME.fullmatch(alias):
            message = (f"invalid name for build stage: {json.dumps(args[2])}, "
                       "name can't start with a number or contain symbols")
            raise DockerfileError(message)
        return ins.From(**_shared(node), base=args[0], alias=alias, alias_as_written=args[2],
                        as_keyword=args[1], platform=flags.text("platform"))
    if len(args) != 1:
        message = "FROM requires either one or three arguments"
        raise DockerfileError(message)
    return ins.From(**_shared(node), base=args[0], platform=flags.text("platform"))


def _arg(node: Node, _flags: Flags) -> ins.Arg:
    described = dict(_description(comment) for comment in node.comments)
    arguments = []
    for word in _at_least_one(node):
        name, equals, value = word.partition("=")
        if not name:
            message = "ARG names can not be blank"
            raise DockerfileError(message)
        arguments.append(ins.Argument(name=name, default=value if equals else None,
                                      comment=described.get(name, "")))
    return ins.Arg(**_shared(node), arguments=tuple(arguments))


def _description(comment: str) -> tuple[str, str]:
    name, _, text = comment.partition(" ")
    return name, text.strip()


def _pairs(node: Node) -> dict[str, Any]:
    args = _at_least_one(node)
    pairs = tuple(zip(args[::2], args[1::2], strict=True))
    if not all(name for name, _ in pairs):
        message = f"{node.command.upper()} names can not be blank"
        raise DockerfileError(message)
    return {**_shared(node), "pairs": pairs, "legacy": node.legacy_pair}


def _env(node: Node, _flags: Flags) -> ins.Env:
    return ins.Env(**_pairs(node))


def _label(node: Node, _flags: Flags) -> ins.Label:
    return ins.Label(**_pairs(node))


def _command(node: Node) -> ins.Command:
    if node.json:
        return ins.Command(args=node.args, shell_form=False)
    return ins.Command(args=node.args, shell_form=True)


def _run(node: Node, flags: Flags) -> ins.Run:
    network = flags.text("network")
    if flags.given("network") and network not in ("default", "none", "host"):
        message = f"invalid network mode {json.dumps(network)}"
        raise DockerfileError(message)
    security = flags.text("security") or "sandbox"
    if security not in ("sandbox", "insecure"):
        message = f"security {json.dumps(security)} is not valid"
        raise DockerfileError(message)
    command = _command(node)
    if not node.args and not node.json:
        command = ins.Command(args=("",), shell_form=True)
    return ins.Run(**_shared(node), command=command, heredocs=node.heredocs,
                   mounts=tuple(mounts.parse_fields(text) for text in flags.list("mount")),
                   network=network or None, security=security,  # type: ignore[arg-type]
                   devices=_devices(flags))


def _devices(flags: Flags) -> tuple[str, ...]:
    texts = flags.list("device")
    for text in texts:
        devices.parse(text)
    return texts


def _cmd(node: Node, _flags: Flags) -> ins.Cmd:
    return ins.Cmd(**_shared(node), command=_command(node))


def _entrypoint(node: Node, _flags: Flags) -> ins.Entrypoint:
    return ins.Entrypoint(**_shared(node), command=_command(node))


def _shell(node: Node, _flags: Flags) -> ins.Shell:
    if node.args and not node.json:
        message = "SHELL requires the arguments to be in JSON form"
        raise DockerfileError(message)
    return ins.Shell(**_shared(node), shell=_at_least_one(node))


def _copied(node: Node, flags: Flags) -> dict[str, Any]:
    if len(node.args) < 2:
        message = (f"{node.command.upper()} requires at least two arguments, but only one was provided. "
                   "Destination could not be determined")
        raise DockerfileError(message)
    *words, dest = node.args
    if not node.json and heredoc_word(dest) is not None:
        message = f"{node.command.upper()} cannot accept a heredoc as a destination"
        raise DockerfileError(message)
    heredocs = list(node.heredocs)
    contents: list[Heredoc] = []
    sources: list[str] = []
    for word in words:
        opened = None if node.json else heredoc_word(word)
        if opened is not None and heredocs:
            contents.append(heredocs.pop(0))
        else:
            sources.append(word)
    return {**_shared(node), "sources": tuple(sources), "contents": tuple(contents), "dest": dest,
            "chown": flags.text("chown"), "chmod": flags.text("chmod"),
            "link": bool(flags.flag("link")), "exclude": flags.list("exclude")}


def _copy(node: Node, flags: Flags) -> ins.Copy:
    return ins.Copy(**_copied(node, flags), from_=flags.text("from"),
                    parents=bool(flags.flag("parents")))


def _add(node: Node, flags: Flags) -> ins.Add:
    return ins.Add(**_copied(node, flags), checksum=flags.text("checksum"),
                   keep_git_dir=flags.flag("keep-git-dir"), unpack=flags.flag("unpack"))


def _volume(node: Node, _flags: Flags) -> ins.Volume:
    paths = tuple(path.strip() for path in _at_least_one(node))
    if not all(paths):
        message = "VOLUME specified can not be an empty string"
        raise DockerfileError(message)
    return ins.Volume(**_shared(node), paths=paths)


def _user(node: Node, _flags: Flags) -> ins.User:
    return ins.User(**_shared(node), user=_exactly_one(node))


def _workdir(node: Node, _flags: Flags) -> ins.Workdir:
    return ins.Workdir(**_shared(node), path=_exactly_one(node))


def _expose(node: Node, _flags: Flags) -> ins.Expose:
    return ins.Expose(**_shared(node), ports=tuple(sorted(_at_least_one(node))))


def _stop_signal(node: Node, _flags: Flags) -> ins.StopSignal:
    return ins.StopSignal(**_shared(node), signal=_exactly_one(node))


def _healthcheck(node: Node, flags: Flags) -> ins.Health:
    kind, *command = _at_least_one(node)
    kind = kind.upper()
    if kind == "NONE":
        if command:
            message = "HEALTHCHECK NONE takes no arguments"
            raise DockerfileError(message)
        return ins.Health(**_shared(node), test=("NONE",))
    if kind != "CMD":
        message = f"Unknown type {json.dumps(kind)} in HEALTHCHECK (try CMD)"
        raise DockerfileError(message)
    if not command:
        message = "Missing command after HEALTHCHECK CMD"
        raise DockerfileError(message)
    return ins.Health(
        **_shared(node), test=(("CMD", *command) if node.json else ("CMD-SHELL", *command)),
        interval_ns=_interval(flags, "interval"), timeout_ns=_interval(flags, "timeout"),
        start_period_ns=_interval(flags, "start-period"),
        start_interval_ns=_interval(flags, "start-interval"), retries=_retries(flags.text("retries")))


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    value = parse_duration_ns(text)
    if value is None:
        what = "missing unit in" if re.fullmatch(r"[+-]?\d+(?:\.\d*)?", text) else "invalid"
        message = f"time: {what} duration {json.dumps(text)}"
        raise DockerfileError(message)
    if value and value < _MILLISECOND_NS:
        message = f"Interval {json.dumps(name)} cannot be less than 1ms"
        raise DockerfileError(message)
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        wrong = "value out of range" if re.fullmatch(r"[+-]?\d+", text) else "invalid syntax"
        message = f"strconv.ParseInt: parsing {json.dumps(text)}: {wrong}"
        raise DockerfileError(message)
    value = int(text)
    if value < 0:
        message = f"--retries cannot be negative ({value})"
        raise DockerfileError(message)
    return value


def _on_build(node: Node, _flags: Flags) -> ins.OnBuild:
    if node.trigger is None:
        message = "ONBUILD requires at least one argument"
        raise DockerfileError(message)
    trigger = node.trigger.command.upper()
    if trigger == "ONBUILD":
        message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"
        raise DockerfileError(message)
    if trigger in _NOT_A_TRIGGER:
        message = f"{trigger} isn't allowed as an ONBUILD trigger"
        raise DockerfileError(message)
    text = re.sub(r"^\s*ONBUILD\s*", "", node.original, flags=re.IGNORECASE)
    for heredoc in node.heredocs:
        text += f"\n{heredoc.text}{heredoc.name}"
    return ins.OnBuild(**_shared(node), trigger=text)


def _maintainer(node: Node, _flags: Flags) -> ins.Maintainer:
    return ins.Maintainer(**_shared(node), author=_exactly_one(node))


_READERS: dict[str, Callable[[Node, Flags], ins.Instruction]] = {
    "add": _add, "arg": _arg, "cmd": _cmd, "copy": _copy, "entrypoint": _entrypoint, "env": _env,
    "expose": _expose, "from": _from, "healthcheck": _healthcheck, "label": _label,
    "maintainer": _maintainer, "onbuild": _on_build, "run": _run, "shell": _shell,
    "stopsignal": _stop_signal, "user": _user, "volume": _volume, "workdir": _workdir,
}
_TAKES_FLAGS: dict[str, dict[str, Kind]] = {
    "from": {"platform": "str"}, "run": _RUN_FLAGS, "copy": _COPY_FLAGS, "add": _ADD_FLAGS,
    "healthcheck": _HEALTH_FLAGS,
}
KEYWORDS: Sequence[str] = tuple(sorted(name.upper() for name in _READERS))
