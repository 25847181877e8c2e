"""json-file: escapes, splitting, times, rotation."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallet.zygote.jsonlog import LINE_BYTES, Clock, JsonLog, escape
from pallet.zygote.messages import LogSink

if TYPE_CHECKING:
    from pathlib import Path


def no_fork(body: Any) -> int:
    pytest.fail(f"nothing is compressed here: {body}")


def written(path: Path, *chunks: bytes, **options: Any) -> list[dict[str, Any]]:
    log = JsonLog(LogSink(path=str(path), **options), no_fork)
    for chunk in chunks:
        log.feed("stdout", chunk)
    log.finish()
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(("data", "text"), [
    (b"plain", "plain"),
    (b'a"b\\c', 'a\\"b\\\\c'),
    (b"<&>\t\r\x00\x1b", "\\u003c\\u0026\\u003e\\u0009\\r\\u0000\\u001b"),
    ("ä\u2028\u2029".encode(), "ä\\u2028\\u2029"),
    ("\ufffd".encode(), "\ufffd"),
    (b"\xff\xe2\x82A", "\\ufffd\\ufffd\\ufffdA"),
    (b"\x7f", "\x7f"),
])
def test_escapes_are_those_of_docker(data: bytes, text: str) -> None:
    assert escape(data).decode() == text


def test_lines_in_any_chunks(tmp_path: Path) -> None:
    found = written(tmp_path / "l", b"on", b"e\ntwo\n\nthr", b"ee\n", b"tail")
    assert [entry["log"] for entry in found] == ["one\n", "two\n", "\n", "three\n", "tail"]
    assert {entry["stream"] for entry in found} == {"stdout"}


def test_exact_form_of_an_entry(tmp_path: Path) -> None:
    log = JsonLog(LogSink(path=str(tmp_path / "l"), attrs='{"k":"v"}'), no_fork)
    log.feed("stderr", b"x\n")
    log.finish()
    line = (tmp_path / "l").read_bytes()
    assert line.startswith(b'{"log":"x\\n","stream":"stderr","attrs":{"k":"v"},"time":"20')
    assert line.endswith(b'Z"}\n')


def test_long_lines_are_split_at_16_kib(tmp_path: Path) -> None:
    size = LINE_BYTES
    found = written(tmp_path / "l", b"a" * (2 * size + 5) + b"\nshort\n", b"b" * size, b"\n")
    assert [(len(entry["log"]), entry["log"][-1]) for entry in found] == [
        (size, "a"), (size, "a"), (6, "\n"), (6, "\n"), (size, "b"), (1, "\n")]
    assert len({entry["time"] for entry in found[:3]}) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_nothing_is_lost_in_any_chunking(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "l"
    found = written(path, *chunks)
    whole = b"".join(chunks)
    expected = whole.decode("utf-8", "surrogateescape")
    expected = "".join("\ufffd" if 0xDC80 <= ord(c) < 0xDD00 else c for c in expected)
    assert "".join(entry["log"] for entry in found) == expected
    assert len(found) == whole.count(b"\n") + (not whole.endswith(b"\n") and bool(whole))


def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    path = tmp_path / "l"
    log = JsonLog(LogSink(path=str(path), max_size_bytes=500, max_files=3), no_fork)
    for number in range(40):
        log.feed("stdout", b"%d\n" % number)
    log.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l", "l.1", "l.2"]
    lines = [json.loads(line)["log"] for name in ("l.2", "l.1", "l")
             for line in (tmp_path / name).read_bytes().splitlines()]
    assert lines == [f"{number}\n" for number in range(40 - len(lines), 40)]
    assert 500 <= (tmp_path / "l.1").stat().st_size < 600


def test_rotation_with_one_file_starts_over(tmp_path: Path) -> None:
    found = written(tmp_path / "l", b"".join(b"%d\n" % n for n in range(100)),
                    max_size_bytes=300)
    assert [file.name for file in tmp_path.iterdir()] == ["l"]
    assert found[-1]["log"] == "99\n"
    assert len(found) < 10


def test_log_goes_on_in_an_existing_file(tmp_path: Path) -> None:
    written(tmp_path / "l", b"first\n")
    assert [e["log"] for e in written(tmp_path / "l", b"second\n")] == ["first\n", "second\n"]


def test_container_goes_on_without_a_place_for_its_log(tmp_path: Path) -> None:
    log = JsonLog(LogSink(path=str(tmp_path / "no/such")), no_fork)
    log.feed("stdout", b"lost\n")
    log.finish()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("nanos", "text"), [
    (1_700_000_000_123_456_789, b"2023-11-14T22:13:20.123456789Z"),
    (1_700_000_000_120_000_000, b"2023-11-14T22:13:20.12Z"),
    (1_700_000_000_000_000_000, b"2023-11-14T22:13:20Z"),
])
def test_times_drop_trailing_zeros(
    monkeypatch: pytest.MonkeyPatch, nanos: int, text: bytes
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: nanos)
    assert Clock().now() == text


def test_what_a_killed_compression_left_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "l"
    pending: list[Any] = []

    def later(body: Any) -> int:
        pending.append(body)
        return 0

    log = JsonLog(LogSink(path=str(path), max_size_bytes=60, max_files=4, compress=True), later)
    for number in range(3):  # nobody carries any compression out
        log.feed("stdout", b"%d\n" % number)
    log.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l", "l.1", "l.2"]
    log = JsonLog(LogSink(path=str(path), max_size_bytes=60, max_files=4, compress=True), later)
    log.feed("stdout", b"3\n")
    pending.pop()()
    log.feed("stdout", b"4\n")
    pending.pop()()
    log.finish()
    names = ["l", "l.1.gz", "l.2.gz", "l.3"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    lines = [gzip.open(tmp_path / name).read() if name.endswith(".gz") else (tmp_path / name).read_bytes()
             for name in reversed(names)]
    assert [json.loads(line)["log"] for line in lines] == ["1\n", "2\n", "3\n", "4\n"]
