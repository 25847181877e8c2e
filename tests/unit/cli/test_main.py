"""Dispatch, usage texts, errors and exit codes, without a daemon."""

from __future__ import annotations

import pytest

from pallet.cli.commands import table
from pallet.cli.commands.run import start_code
from pallet.cli.flags import Flags
from pallet.cli.main import main


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/pallet.sock")
    monkeypatch.setenv("DOCKER_CONFIG", "/nowhere")


ABSENT = ("Cannot connect to the Docker daemon at unix:///nowhere/pallet.sock. "
          "Is the docker daemon running?")


@pytest.mark.parametrize(("argv", "code", "err"), [
    ("run --bogus", 125, "unknown flag: --bogus\n\nUsage:  pallet run [OPTIONS] IMAGE [COMMAND] "
     "[ARG...]\n\nRun 'pallet run --help' for more information\n"),
    ("run", 1, "pallet: 'pallet run' requires at least 1 argument\n\nUsage:  pallet run [OPTIONS] "
     "IMAGE [COMMAND] [ARG...]\n\nSee 'pallet run --help' for more information\n"),
    ("ps x", 1, "pallet: 'pallet ps' accepts no arguments\n\nUsage:  pallet ps [OPTIONS]\n\n"
     "Run 'pallet ps --help' for more information\n"),
    ("rename a", 1, "pallet: 'pallet rename' requires 2 arguments\n\nUsage:  pallet rename CONTAINER "
     "NEW_NAME\n\nRun 'pallet rename --help' for more information\n"),
    ("images a b", 1, "pallet: 'pallet images' requires at most 1 argument\n\nUsage:  pallet images "
     "[OPTIONS] [REPOSITORY[:TAG]]\n\nRun 'pallet images --help' for more information\n"),
    ("port", 1, "pallet: 'pallet port' requires at least 1 and at most 2 arguments\n\nUsage:  pallet "
     "port CONTAINER [PRIVATE_PORT[/PROTO]]\n\nRun 'pallet port --help' for more information\n"),
    ("bogus", 1, "pallet: unknown command: pallet bogus\n\nRun 'pallet --help' for more information\n"),
    ("image bogus", 1, "pallet: unknown command: pallet image bogus\n\nUsage:  pallet image\n\n"
     "Run 'pallet image --help' for more information\n"),
    ("--bogus ps", 125, "unknown flag: --bogus\n\nUsage:  pallet [OPTIONS] COMMAND [ARG...]\n\n"
     "Run 'pallet --help' for more information\n"),
    ("-H foo://x ps", 1, "Failed to initialize: unable to resolve docker endpoint: invalid bind "
     "address format: foo://x\n"),
    ("-H unix:///a -H unix:///b ps", 1, "Specify only one -H\n"),
    ("-l loud ps", 1, "unable to parse logging level: loud\n"),
    ("ps", 1, ABSENT + "\n"),
    ("run image", 125, f"pallet: {ABSENT}\n\nRun 'pallet run --help' for more information\n"),
    ("run --pid foo image", 125, "pallet: --pid: invalid PID mode\n\nRun 'pallet run --help' for more "
     "information\n"),
    ("create --pid foo image", 125, "pallet: --pid: invalid PID mode\n\nRun 'pallet create --help' for "
     "more information\n"),
    ("run --pull=x image", 125, "pallet: invalid pull option: 'x': must be one of \"always\", "
     "\"missing\" or \"never\"\n\nRun 'pallet run --help' for more information\n"),
    ("run BAD!", 125, "pallet: invalid reference format: repository name (library/BAD!) must be "
     "lowercase\n\nRun 'pallet run --help' for more information\n"),
    ("run -d -a stdout image", 1, "conflicting options: cannot specify both --attach and --detach\n"),
    ("start -a x y", 1, "you cannot start and attach multiple containers at once\n"),
    ("pull -a x:y", 1, "tag can't be used with --all-tags/-a\n"),
    ("inspect --type foo x", 1, 'unknown type: "foo": must be one of "config", "container", "image", '
     '"network", "node", "plugin", "secret", "service", "task", "volume"\n'),
    ("login -u x --password-stdin -p y", 1,
     "conflicting options: cannot specify both --password and --password-stdin\n"),
])
def test_mistakes(argv: str, code: int, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv.split()) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("Pallet version ")


def test_version_without_a_daemon_shows_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("Client:\n Version: ")
    assert captured.err == ABSENT + "\n"


@pytest.mark.parametrize("argv", ["", "--help", "help", "image --help", "help image", "run --help",
                                  "help run", "container ls --help", "ps -h"])
def test_help_goes_to_stdout(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv.split()) == 0
    assert capsys.readouterr().out.startswith("Usage:  pallet ")


def test_group_alone_explains_itself_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "bootstrap" in captured.err


def test_help_of_run_is_grouped_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    from pallet.cli.run.options import RUN_FLAGS

    main(["run", "--help"])
    text = capsys.readouterr().out
    assert text.index("Common options:") < text.index("Network options:") < text.index(
        "Isolation and security:")
    for row in RUN_FLAGS:
        hidden = len(row) > 5 and (row[5] == "hidden" or row[5].startswith("deprecated"))
        assert (f"--{row[0]} " in text or f"--{row[0]}\n" in text) != hidden, row[0]


@pytest.mark.parametrize("path", sorted(table.ENTRIES))
def test_every_command_exists(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function, _, _, _ = table.entry(path)
    loaded = __import__(f"pallet.cli.commands.{module}", fromlist=("_",))
    assert callable(getattr(loaded, function))
    Flags(getattr(loaded, function.strip("_").upper() + "_FLAGS"))
    assert main([*path.split(), "--help"]) == 0
    assert table.entry(path)[4] in capsys.readouterr().out


def test_every_alias_means_a_command() -> None:
    assert set(table.SHORTCUTS.values()) <= set(table.ENTRIES)
    for _, names in table.SECTIONS:
        for name in names:
            assert name in table.GROUPS or table.canonical(name) in table.ENTRIES


@pytest.mark.parametrize(("message", "code"), [
    ('exec: "x": executable file not found in $PATH', 127), ("stat /x: no such file or directory", 127),
    ('exec: "/etc": permission denied', 126), ("not a directory", 126), ("is a directory", 126),
    ("port is already allocated", 125),
])
def test_codes_of_a_failed_start(message: str, code: int) -> None:
    assert start_code(message) == code
