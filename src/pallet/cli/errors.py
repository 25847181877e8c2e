"""Errors that end a command, and the exit code each carries."""

from __future__ import annotations

from pallet.errors import PalletError


class CommandError(PalletError):
    """A command failed; its message goes to stderr.

    Args:
        message: text for the user; empty prints nothing.
        code: exit code.
        hint: text after an empty line, for example "Run 'pallet run --help' for more information".
    """

    def __init__(self, message: str, code: int = 1, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class FlagError(PalletError):
    """The options of a command line do not parse (exit code 125)."""


class InvalidValueError(PalletError):
    """A flag's value is not acceptable; becomes part of a ``FlagError``."""


class HelpRequestedError(PalletError):
    """``--help`` was given."""
