"""The option parser against pflag's rules and words."""

from __future__ import annotations

import pytest

from pallet.cli.errors import FlagError, HelpRequestedError
from pallet.cli.flags import Flags
from pallet.cli.run.options import CREATE_FLAGS, RUN_FLAGS

TABLE = (
    ("all", "a", "bool", "", ""), ("on", "", "bool", "", "true"), ("name", "n", "string", "", "x"),
    ("env", "e", "list", ""), ("count", "c", "int", "", "-1"),
    ("time", "", "int", "", "", "deprecated:count:use --count instead"),
    ("filter", "f", "filter", ""), ("opt", "o", "map", ""), ("parts", "", "strings", ""),
)


def parse(*argv: str, interspersed: bool = True) -> Flags:
    flags = Flags(TABLE)
    flags.parse(argv, interspersed=interspersed)
    return flags


@pytest.mark.parametrize("argv", [
    ("--name", "v"), ("--name=v",), ("-n", "v"), ("-nv",), ("-n=v",), ("-anv",), ("-an", "v"),
])
def test_every_way_to_give_a_value(argv: tuple[str, ...]) -> None:
    assert parse(*argv)["name"] == "v"


def test_defaults_and_changes() -> None:
    flags = parse("--on=false", "-e", "a", "-e", "b", "-c", "0x10")
    assert (flags["all"], flags["on"], flags["name"]) == (False, False, "x")
    assert (flags["env"], flags["count"], parse()["count"]) == (["a", "b"], 16, -1)
    assert "on" in flags
    assert "all" not in flags


def test_maps_lists_and_filters() -> None:
    flags = parse("-o", "a=1", "-o", "b", "--parts", "x,y", "--parts", "z",
                  "-f", "Label=a=b", "-f", "label=c")
    assert flags["opt"] == {"a": "1", "b": ""}
    assert flags["parts"] == ["x", "y", "z"]
    assert flags["filter"] == {"label": ["a=b", "c"]}


def test_options_end_at_the_first_argument_or_not() -> None:
    assert parse("x", "-a", "y").args == ["x", "y"]
    stopped = parse("-a", "x", "-n", "--", "y", interspersed=False)
    assert stopped.args == ["x", "-n", "--", "y"]
    assert stopped["all"]


def test_double_dash_and_single_dash() -> None:
    assert parse("--", "-a", "x").args == ["-a", "x"]
    assert parse("-", "x").args == ["-", "x"]
    assert parse("--", "a", "--", "b", interspersed=False).args == ["a", "--", "b"]


@pytest.mark.parametrize(("argv", "words"), [
    (("--bogus",), "unknown flag: --bogus"),
    (("-Z",), "unknown shorthand flag: 'Z' in -Z"),
    (("-aZ",), "unknown shorthand flag: 'Z' in -Z"),
    (("--name",), "flag needs an argument: --name"),
    (("-n",), "flag needs an argument: 'n' in -n"),
    (("-an",), "flag needs an argument: 'n' in -n"),
    (("--=x",), "bad flag syntax: --=x"), (("---x",), "bad flag syntax: ---x"),
    (("--all=maybe",), 'invalid argument "maybe" for "-a, --all" flag: strconv.ParseBool: '
                       'parsing "maybe": invalid syntax'),
    (("--on=maybe",), 'invalid argument "maybe" for "--on" flag: strconv.ParseBool: '
                      'parsing "maybe": invalid syntax'),
    (("-c", "x"), 'invalid argument "x" for "-c, --count" flag: strconv.ParseInt: parsing "x": '
                  "invalid syntax"),
    (("-f", "x"), 'invalid argument "x" for "-f, --filter" flag: bad format of filter '
                  "(expected name=value)"),
])
def test_mistakes_in_pflags_words(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(*argv)
    assert str(caught.value) == words


@pytest.mark.parametrize("argv", [("--help",), ("-h",), ("-ah",), ("x", "--help")])
def test_help(argv: tuple[str, ...]) -> None:
    with pytest.raises(HelpRequestedError):
        parse(*argv)


def test_help_belongs_to_the_other_command_behind_the_image() -> None:
    assert parse("image", "--help", interspersed=False).args == ["image", "--help"]


def test_h_is_the_hostname_where_a_command_says_so() -> None:
    flags = Flags(RUN_FLAGS)
    flags.parse(["-h", "box", "image"], interspersed=False)
    assert flags["hostname"] == "box"


def test_renamed_options_set_the_new_one_and_say_so() -> None:
    notes: list[str] = []
    flags = Flags(TABLE, notes.append)
    flags.parse(["--time", "3"])
    assert flags["count"] == 3
    assert notes == ["Flag --time has been deprecated, use --count instead"]


def test_silent_aliases() -> None:
    notes: list[str] = []
    flags = Flags(RUN_FLAGS, notes.append)
    flags.parse(["--net", "none", "--dns-opt", "a", "--net-alias", "b", "i"], interspersed=False)
    assert flags["network"] == [{"Target": "none"}]
    assert (flags["dns-option"], flags["network-alias"], notes) == (["a"], ["b"], [])


@pytest.mark.parametrize("table", [RUN_FLAGS, CREATE_FLAGS])
def test_tables_are_sound(table: tuple[tuple[str, ...], ...]) -> None:
    names = [row[0] for row in table]
    shorts = [row[1] for row in table if row[1]]
    assert len(set(names)) == len(names)
    assert len(set(shorts)) == len(shorts)
    flags = Flags(table)
    for name in names:
        flags[name]  # every kind has a default
