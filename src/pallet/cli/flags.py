"""Option parsing with the semantics of pflag, driven by tables.

Owns   the grammar: ``--name value``, ``--name=value``, ``-n value``, ``-nvalue``, ``-n=value``,
       grouped booleans, ``--``, and stopping at the first argument for commands that run another
       command. Converting values beyond strings and booleans is in ``values.py``, loaded when needed.
Spec   pflag's documentation; messages are Docker's, scripts match on them.

A table is a tuple of rows ``(name, short, kind, help, default, group, since)``; trailing parts may
be left out. ``kind`` is ``bool``, ``string``, ``list`` or a name from ``values``. ``group`` is a
help section, ``hidden``, or ``deprecated:TARGET:WORDS``, where TARGET is the option meant and WORDS,
if any, are printed. ``since`` is the least API version that knows the option.
"""

from __future__ import annotations

from pallet.cli.errors import FlagError, HelpRequestedError, InvalidValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Row = tuple[str, ...]
    Table = tuple[Row, ...]

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_HELP_ROW = ("help", "", "bool", "Print usage", "", "hidden")


def go_quote(text: str) -> str:
    """Return ``text`` in double quotes with Go's escapes, as ``%q`` prints it."""
    out = text.replace("\\", "\\\\").replace('"', '\\"')
    for raw, escaped in (("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        out = out.replace(raw, escaped)
    return f'"{out}"'


def parse_bool(text: str) -> bool:
    """Return the truth of ``text`` as Go's strconv.ParseBool does.

    Raises:
        InvalidValueError: it is none of the accepted words.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidValueError(f"strconv.ParseBool: parsing {go_quote(text)}: invalid syntax")


class Flags:
    """The options of one command line. ``flags[name]`` is the value or the default of its kind."""

    __slots__ = ("_rows", "_shorts", "_values", "args", "changed", "dashed", "warn")

    def __init__(self, table: Table, warn: Callable[[str], None] | None = None) -> None:
        """``warn`` receives notes on deprecated options."""
        self._rows = {row[0]: row for row in table}
        self._rows.setdefault("help", _HELP_ROW)
        self._shorts = {row[1]: row for row in table if row[1]}
        self._values: dict[str, Any] = {}
        self.changed: set[str] = set()
        self.args: list[str] = []
        self.dashed = -1
        self.warn = warn

    def __getitem__(self, name: str) -> Any:
        """Return the value given for ``name``, or its default."""
        if name in self._values:
            return self._values[name]
        row = self._rows[name]
        kind = row[2]
        default = row[4] if len(row) > 4 else ""
        if kind == "bool":
            return default == "true"
        if kind == "string":
            return default
        if kind.startswith("list"):
            return []
        from pallet.cli.values import default_of

        return default_of(kind, default)

    def __contains__(self, name: str) -> bool:
        """Return whether ``name`` was given on the command line."""
        return name in self.changed

    def rows(self) -> dict[str, Row]:
        """Return the table's rows by name."""
        return self._rows

    def parse(self, argv: Sequence[str], *, interspersed: bool = True) -> None:
        """Read ``argv`` into values and ``args``.

        Args:
            argv: arguments after the command's name.
            interspersed: whether options may follow the first argument.

        Raises:
            FlagError: with pflag's words.
            HelpRequestedError: ``--help`` or ``-h`` where that is not an option of the command.
        """
        at, size = 0, len(argv)
        while at < size:
            word = argv[at]
            at += 1
            if len(word) < 2 or word[0] != "-":
                if not interspersed:
                    self.args += argv[at - 1:]
                    return
                self.args.append(word)
            elif word == "--":
                self.dashed = len(self.args)
                self.args += argv[at:]
                return
            elif word[1] == "-":
                at = self._long(word, argv, at)
            else:
                at = self._short(word, argv, at)

    def _long(self, word: str, argv: Sequence[str], at: int) -> int:
        name, equals, value = word[2:].partition("=")
        if not name or name[0] in "-=":
            raise FlagError(f"bad flag syntax: {word}")
        row = self._rows.get(name)
        if row is None:
            raise FlagError(f"unknown flag: --{name}")
        if not equals:
            if row[2] == "bool":
                value = "true"
            elif at < len(argv):
                value, at = argv[at], at + 1
            else:
                raise FlagError(f"flag needs an argument: --{name}")
        self._assign(row, value)
        return at

    def _short(self, word: str, argv: Sequence[str], at: int) -> int:
        letters = word[1:]
        while letters:
            letter, rest = letters[0], letters[1:]
            row = self._shorts.get(letter)
            if row is None:
                if letter == "h":
                    if self.warn:
                        self.warn("Flag shorthand -h has been deprecated, use --help")
                    raise HelpRequestedError
                raise FlagError(f"unknown shorthand flag: '{letter}' in -{letters}")
            if rest.startswith("=") and len(letters) > 2:
                value, rest = rest[1:], ""
            elif row[2] == "bool":
                value = "true"
            elif rest:
                value, rest = rest, ""
            elif at < len(argv):
                value, at = argv[at], at + 1
            else:
                raise FlagError(f"flag needs an argument: '{letter}' in -{letters}")
            self._assign(row, value)
            letters = rest
        return at

    def _assign(self, row: Row, text: str) -> None:
        name, short, kind = row[0], row[1], row[2]
        if len(row) > 5 and row[5].startswith("deprecated:"):
            _, target, words = row[5].split(":", 2)
            if self.warn and words:
                self.warn(f"Flag --{name} has been deprecated, {words}")
            if target:
                row = self._rows[target]
                name, kind = target, row[2]
        try:
            if kind == "bool":
                self._values[name] = parse_bool(text)
            elif kind == "string":
                self._values[name] = text
            elif kind == "list":
                self._values.setdefault(name, []).append(text)
            else:
                from pallet.cli.values import convert

                self._values[name] = convert(kind, text, self._values.get(name))
        except InvalidValueError as error:
            shown = f"-{short}, --{row[0]}" if short else f"--{row[0]}"
            raise FlagError(
                f"invalid argument {go_quote(text)} for {go_quote(shown)} flag: {error}") from None
        self.changed.add(name)
        if name == "help" and self._values[name]:
            raise HelpRequestedError
