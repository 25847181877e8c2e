"""Entry of ``pallet``: global options, choice of the command, errors to exit codes.

Runs   once in a site-less interpreter started by the ``pallet`` script, which calls ``run``.
Spec   exit codes: 0, 1 for a failed command, 125 for options that do not parse and for ``run`` and
       ``create`` failing before the container's command, else the container's own code.
"""

from __future__ import annotations

import os
import sys

from pallet.cli.commands import table
from pallet.cli.errors import CommandError, FlagError, HelpRequestedError
from pallet.cli.flags import Flags
from pallet.cli.session import GLOBAL_FLAGS, Session, out, warn
from pallet.client.errors import DaemonError, UsageError
from pallet.errors import PalletError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run() -> None:
    """Run the command line of this process and end it, without the interpreter's tear-down."""
    for stream in (sys.stdout, sys.stderr):
        # As Go programs print: UTF-8 whatever the locale, and bytes that are no text as they came.
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: arguments without the program's name.
    """
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except PalletError as error:
        return report(error, "")


def _silence_stdout() -> None:
    """Point stdout at /dev/null: its reader is gone and the last flush must not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _dispatch(argv: Sequence[str]) -> int:
    options = Flags(GLOBAL_FLAGS, warn)
    try:
        options.parse(argv, interspersed=False)
    except FlagError as error:
        return _flag_error(error, "")
    except HelpRequestedError:
        return _print_help("", options)
    if options["version"]:
        from pallet import __version__

        out(f"Pallet version {__version__}")
        return 0
    words = options.args
    if not words:
        return _print_help("", options)
    if words[0] == "help":
        return _print_help(" ".join(words[1:]), options)
    path = words[0]
    rest = words[1:]
    if path in table.GROUPS:
        if not rest:
            from pallet.cli import help as help_text

            warn(help_text.group_help(path))
            return 0
        if rest[0] in ("--help", "-h"):
            return _print_help(path, options)
        path, rest = f"{path} {rest[0]}", rest[1:]
    if table.canonical(path) not in table.ENTRIES:
        return _unknown(path)
    return _command(path, rest, Session(options))


def _command(path: str, argv: Sequence[str], session: Session) -> int:
    module_name, function_name, _, (least, most), _ = table.entry(path)
    module = __import__(f"pallet.cli.commands.{module_name}", fromlist=("_",))
    function: Callable[[Session, Flags], int] = getattr(module, function_name)
    flags = Flags(getattr(module, function_name.strip("_").upper() + "_FLAGS"), warn)
    session.path = path
    try:
        flags.parse(argv, interspersed=table.canonical(path) not in table.PASS_THROUGH)
        if problem := _count_problem(len(flags.args), least, most):
            return _argument_error(path, problem, least, most)
        session.require_api(flags)
        return function(session, flags)
    except FlagError as error:
        return _flag_error(error, path)
    except HelpRequestedError:
        from pallet.cli import help as help_text

        out(help_text.command_help(path, getattr(
            module, function_name.strip("_").upper() + "_FLAGS")))
        return 0
    except PalletError as error:
        return report(error, path)


def report(error: PalletError, path: str) -> int:
    """Print ``error`` as Docker's client words it and return the exit code.

    Args:
        error: what ended the command.
        path: the command, because ``run`` has a prefix and its own code.
    """
    code = error.code if isinstance(error, CommandError) else 1
    text, hint = str(error), error.hint if isinstance(error, CommandError) else ""
    if table.canonical(path) == "container run" and isinstance(
            error, (DaemonError, UsageError)):
        code, hint = 125, f"Run 'pallet {path} --help' for more information"
    if hint:
        text = f"pallet: {text}\n\n{hint}"
    if text:
        warn(text)
    return code


def _count_problem(count: int, least: int, most: int) -> str:
    if least <= count and (most < 0 or count <= most):
        return ""
    if most == 0:
        return "accepts no arguments"
    if least == most:
        return f"requires {_arguments(least)}"
    if most < 0:
        return f"requires at least {_arguments(least)}"
    if least == 0:
        return f"requires at most {_arguments(most)}"
    return f"requires at least {least} and at most {_arguments(most)}"


def _arguments(count: int) -> str:
    return f"{count} argument" + ("" if count == 1 else "s")


def _argument_error(path: str, problem: str, least: int, most: int) -> int:
    from pallet.cli import help as help_text

    verb = "See" if most < 0 and least else "Run"
    warn(f"pallet: 'pallet {path}' {problem}\n\n{help_text.usage_line(path)}\n\n"
         f"{verb} 'pallet {path} --help' for more information")
    return 1


def _flag_error(error: FlagError, path: str) -> int:
    from pallet.cli import help as help_text

    warn(f"{error}\n\n{help_text.short_usage(path)}")
    return 125


def _unknown(path: str) -> int:
    from pallet.cli import help as help_text

    group = path.partition(" ")[0] if " " in path else ""
    text = f"pallet: unknown command: pallet {path}\n\n"
    if group:
        text += f"{help_text.usage_line(group).removesuffix(' COMMAND')}\n\n"
    warn(f"{text}Run 'pallet {group + ' ' if group else ''}--help' for more information")
    return 1


def _print_help(path: str, options: Flags) -> int:
    from pallet.cli import help as help_text

    if not path:
        out(help_text.root_help(GLOBAL_FLAGS))
    elif path in table.GROUPS:
        out(help_text.group_help(path))
    elif table.canonical(path) in table.ENTRIES:
        return _command(path, ["--help"], Session(options))
    else:
        return _unknown(path)
    return 0


if __name__ == "__main__":
    run()
