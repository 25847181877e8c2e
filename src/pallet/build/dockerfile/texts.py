"""Texts of a build: names of vertices in the progress, entries of an image's history.

Owns   both, exactly as BuildKit words them.
Runs   anywhere; pure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.durations import format_duration
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.gotext import quote_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.dockerfile.state import StageState
    from pallet.spec.dockerfile.runconfig import ConfigState

_SUFFIX = " # buildkit"


def numbered(state: StageState, text: str) -> str:
    """``[build 2/5] RUN make``: the next of the stage's vertices."""
    if not state.total:
        return text
    state.number += 1
    return f"[{_prefix(state)}{state.number:>{1 + int(math.log10(state.total))}}/{state.total}] {text}"


def _prefix(state: StageState) -> str:
    prefix = ""
    if state.show_platform:
        prefix = str(state.platform)
        if state.target_platform != state.platform:
            prefix += f"->{state.target_platform.architecture}"
        prefix += " "
    return prefix + (f"{state.shown_name} " if state.shown_name else "")


def shown_code(instruction: ins.Instruction, env: Mapping[str, str], escape: str,
               budget: expand.Budget, more: str = "") -> str:
    """The instruction (and ``more``) for the progress: variables expanded, keyword in capitals.

    What a shell is to read keeps its quotes and the variables that have no value here.
    """
    raw = isinstance(instruction, ins.Run)
    style = expand.Style(escape=escape, raw_quotes=raw, keep_unset=raw)
    try:
        text = expand.expand(instruction.code + more, env, style, budget).text
    except DockerfileError:
        text = instruction.code + more
    keyword, space, rest = text.partition(" ")
    return keyword.upper() + space + rest


def heredoc_summary(text: str) -> str:
    """The first line of a here-document, as names show it."""
    first, more, _ = text.strip().replace("\r\n", "\n").partition("\n")
    return first + "..." if more else first


def run_history(args: Sequence[str], arguments: Mapping[str, str | None], env: Mapping[str, str]) -> str:
    """``RUN |1 A=b /bin/sh -c make # buildkit``."""
    words = list(args)
    if arguments:
        given = [f"{name}={env.get(name, value or '')}" for name, value in arguments.items()]
        words = [f"|{len(given)}", *given, *words]
    return f"RUN {' '.join(words)}{_SUFFIX}"


def copy_history(instruction: ins.Copy, sources: Sequence[str], dest: str, chown: str, chmod: str) -> str:
    """``COPY --chown=1:1 a /b # buildkit``."""
    words = ["ADD" if isinstance(instruction, ins.Add) else "COPY"]
    words += [f"--chown={chown}"] if chown else []
    words += [f"--chmod={chmod}"] if chmod else []
    words += [*sources, *(f"<<{content.name}" for content in instruction.contents), dest]
    return " ".join(words) + _SUFFIX


def metadata_history(instruction: ins.Instruction, state: ConfigState,
                     values: Sequence[str]) -> str | None:
    """The entry of an instruction that makes no layer; None for one that leaves none.

    ``values`` are the expanded words of the instruction, as ``expanded_values`` gives them.
    """
    match instruction:
        case ins.Cmd():
            return f"CMD {quote_all(state.cmd or ())}"
        case ins.Entrypoint():
            return f"ENTRYPOINT {quote_all(state.entrypoint or ())}"
        case ins.Env() | ins.Label():
            return " ".join([instruction.name, *values])
        case ins.Expose() | ins.Volume():
            return f"{instruction.name} [{' '.join(values)}]"
        case ins.User():
            return f"USER {state.user}"
        case ins.StopSignal():
            return f"STOPSIGNAL {state.stop_signal}"
        case ins.Shell():
            return f"SHELL [{' '.join(instruction.shell)}]"
        case ins.Health():
            return f"HEALTHCHECK {_health(instruction)}"
        case ins.Maintainer():
            return f"MAINTAINER {instruction.author}"
    return None


def _health(check: ins.Health) -> str:
    times = " ".join(f'"{format_duration(value)}"' for value in (
        check.interval_ns, check.timeout_ns, check.start_period_ns, check.start_interval_ns))
    return f"&{{{quote_all(check.test)} {times} {_rune(check.retries)}}}"


def _rune(number: int) -> str:
    """A number as Go's ``%q`` shows it: the character of that code."""
    special = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\",
               39: "\\'"}
    if number in special:
        return f"'{special[number]}'"
    if number > 0x10FFFF:
        return "'\ufffd'"
    char = chr(number)
    if char.isprintable():
        return f"'{char}'"
    if number < 0x80:
        return f"'\\x{number:02x}'"
    return f"'\\u{number:04x}'" if number < 0x10000 else f"'\\U{number:08x}'"
