"""Usage texts, laid out from the tables. Loaded for ``--help`` and for usage errors only."""

from __future__ import annotations

import os

from pallet.cli.commands import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.cli.flags import Row, Table

_TYPE_NAMES = {
    "memswap": "bytes", "gpus": "gpu-request", "uint16": "uint16",
}


def width() -> int:
    """Return the terminal's width, 80 where there is none."""
    try:
        return max(60, os.get_terminal_size(1).columns)
    except OSError:
        return 80


def type_name(kind: str) -> str:
    """Return the word that stands for a value of ``kind`` in a usage text."""
    return "" if kind == "bool" else _TYPE_NAMES.get(kind, kind.partition(":")[0])


def usage_line(path: str) -> str:
    """Return ``Usage:  pallet run [OPTIONS] IMAGE …`` for a command or group."""
    if path in table.GROUPS:
        return f"Usage:  pallet {path} COMMAND"
    return f"Usage:  pallet {path} {table.entry(path)[2]}".rstrip()


def short_usage(path: str) -> str:
    """Return the lines after an option error."""
    if not path:
        return ("Usage:  pallet [OPTIONS] COMMAND [ARG...]\n\n"
                "Run 'pallet --help' for more information")
    return f"{usage_line(path)}\n\nRun 'pallet {path} --help' for more information"


def command_help(path: str, flags: Table) -> str:
    """Return the whole help of a command."""
    entry = table.entry(path)
    parts = [usage_line(path), "", entry[4]]
    names = table.aliases(path)
    if len(names) > 1:
        parts += ["", "Aliases:", "  " + ", ".join(f"pallet {name}" for name in names)]
    parts += _sections([row for row in flags if len(row) < 6 or not (
        row[5] == "hidden" or row[5].startswith("deprecated:"))])
    return "\n".join(parts)


def group_help(path: str) -> str:
    """Return the help of a group such as ``container``."""
    rows = [(name, table.entry(f"{path} {name}")[4]) for name in table.members(path)]
    return "\n".join([
        usage_line(path), "", table.GROUPS[path], "", "Commands:", *_columns(rows), "",
        f"Run 'pallet {path} COMMAND --help' for more information on a command."])


def root_help(flags: Table) -> str:
    """Return the help of ``pallet`` itself."""
    parts = ["Usage:  pallet [OPTIONS] COMMAND", "",
             "Containers, images and networks, compatible with Docker", ""]
    for title, names in table.SECTIONS:
        rows = [(name, table.GROUPS[name] if name in table.GROUPS else table.entry(name)[4])
                for name in names]
        parts += [f"{title}:", *_columns(rows), ""]
    parts += ["Global Options:", *_options(list(flags)), "",
              "Run 'pallet COMMAND --help' for more information on a command."]
    return "\n".join(parts)


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    wide = max((len(name) for name, _ in rows), default=0)
    wide = max(wide, 11)
    return [f"  {name:<{wide}} {summary}" for name, summary in rows]


def _sections(rows: list[Row]) -> list[str]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[5] if len(row) > 5 and row[5] else "Options", []).append(row)
    out: list[str] = []
    for title, members in groups.items():
        out += ["", f"{title}:", *_options(members)]
    return out


def _options(rows: list[Row]) -> list[str]:
    left = []
    for row in rows:
        short = f"-{row[1]}, " if row[1] else "    "
        left.append(f"  {short}--{row[0]} {type_name(row[2])}".rstrip())
    indent = max(len(text) for text in left) + 3
    out: list[str] = []
    for text, row in zip(left, rows, strict=True):
        words = row[3]
        default = row[4] if len(row) > 4 else ""
        if default and row[2] == "string":
            words += f' (default "{default}")'
        elif default and default != "false":
            words += f" (default {default})"
        lines = _wrap(words, max(24, width() - indent - 1))
        out.append(f"{text:<{indent}}{lines[0]}")
        out += [" " * indent + line for line in lines[1:]]
    return out


def _wrap(text: str, limit: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > limit:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines
