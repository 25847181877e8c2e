"""Names and ids."""

from __future__ import annotations

import re

import pytest

from pallet.engine import names
from pallet.errors import InvalidParameterError


def test_ids_are_64_hex_and_no_short_id_reads_as_a_number() -> None:
    for _ in range(200):
        value = names.new_id()
        assert re.fullmatch("[0-9a-f]{64}", value)
        assert not value[:12].isdecimal()


def test_generated_names_avoid_taken_ones_and_end_at_the_short_id() -> None:
    assert re.fullmatch(r"[a-z]+_[a-z]+", names.generate(lambda _name: False, "f" * 64))
    assert names.generate(lambda _name: True, "0123456789abcdef" * 4) == "0123456789ab"


def test_boring_wozniak_never_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_ADJECTIVES", ["boring"])
    monkeypatch.setattr(names, "_SURNAMES", ["wozniak"])
    assert names.generate(lambda _name: False, "abcdefabcdef0000") != "boring_wozniak"


@pytest.mark.parametrize("name", ["a", "-x", "x y", "/", "", "é1"])
def test_bad_names_are_refused_in_dockers_words(name: str) -> None:
    with pytest.raises(InvalidParameterError, match=re.escape(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")):
        names.check(name)


def test_a_leading_slash_is_dropped() -> None:
    assert names.check("/web-1.x_y") == "web-1.x_y"
