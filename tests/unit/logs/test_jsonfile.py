"""Reading json-file logs: tail, since, until, rotation, following."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError
from pallet.logs.driver import ReadOptions
from pallet.logs.jsonfile import JsonFileLog, fixed_time, parse_tail, parse_time_ns, time_ns

if TYPE_CHECKING:
    from pathlib import Path


def line(number: int, stream: str = "stdout") -> bytes:
    return json.dumps({"log": f"line {number}\n", "stream": stream,
                       "time": f"2026-01-02T03:04:{number:02d}.5Z"}).encode() + b"\n"


async def read(path: Path, options: ReadOptions, *, live: bool = False) -> list[str]:
    log = JsonFileLog(path, lambda: live)
    return [record.line.decode().strip() async for batch in log.read(options) for record in batch]


async def test_all_generations_in_order(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    (tmp_path / "c-json.log.2.gz").write_bytes(gzip.compress(line(1)))
    (tmp_path / "c-json.log.1").write_bytes(line(2))
    path.write_bytes(line(3) + line(4))
    assert await read(path, ReadOptions()) == ["line 1", "line 2", "line 3", "line 4"]
    assert await read(path, ReadOptions(tail=3)) == ["line 2", "line 3", "line 4"]
    assert await read(path, ReadOptions(tail=0)) == []


async def test_streams_since_and_until(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(line(1) + line(2, "stderr") + line(3) + line(4))
    assert await read(path, ReadOptions(stdout=False)) == ["line 2"]
    since, until = time_ns("2026-01-02T03:04:02.5Z"), time_ns("2026-01-02T03:04:03.5Z")
    assert await read(path, ReadOptions(since_ns=since, until_ns=until)) == ["line 2", "line 3"]


async def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(line(1) + line(2)[:20])
    assert await read(path, ReadOptions()) == ["line 1"]
    assert await read(path, ReadOptions(tail=5)) == ["line 1"]


async def test_following_the_tail_does_not_lose_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(line(1) + line(2)[:20])
    live = True
    records = JsonFileLog(path, lambda: live).read(ReadOptions(tail=1, follow=True))
    assert [r.line for r in await anext(records)] == [b"line 1\n"]
    with path.open("ab") as file:
        file.write(line(2)[20:])
    live = False
    assert [r.line async for batch in records for r in batch] == [b"line 2\n"]


async def test_no_file_yet_is_an_empty_log(tmp_path: Path) -> None:
    assert await read(tmp_path / "none", ReadOptions(tail=3)) == []
    assert await read(tmp_path / "none", ReadOptions(follow=True)) == []


async def test_follow_sees_appends_and_rotation_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "c-json.log"
    path.write_bytes(line(1))
    live = True
    got: list[str] = []
    seen = asyncio.Condition()

    async def follow() -> None:
        async for batch in JsonFileLog(path, lambda: live).read(ReadOptions(follow=True)):
            got.extend(record.line.decode().strip() for record in batch)
            async with seen:
                seen.notify_all()

    async def until(count: int) -> None:
        async with asyncio.timeout(5), seen:
            await seen.wait_for(lambda: len(got) >= count)

    task = asyncio.get_running_loop().create_task(follow())
    await until(1)
    with path.open("ab") as handle:
        handle.write(line(2))
    await until(2)
    path.rename(tmp_path / "c-json.log.1")
    path.write_bytes(line(3))
    await until(3)
    live = False
    async with asyncio.timeout(5):
        await task
    assert got == ["line 1", "line 2", "line 3"]


def rotate(path: Path, *, packed: bool, keep: int = 9) -> None:
    """As the shim does it: every generation moves up by one, the newest may be compressed."""
    for number in range(keep, 0, -1):
        for suffix in ("", ".gz"):
            old = path.with_name(f"{path.name}.{number}{suffix}")
            if old.exists():
                old.rename(path.with_name(f"{path.name}.{number + 1}{suffix}"))
    path.rename(path.with_name(f"{path.name}.1"))
    if packed:
        newest = path.with_name(f"{path.name}.1")
        newest.with_name(f"{newest.name}.gz").write_bytes(gzip.compress(newest.read_bytes()))
        newest.unlink()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("start", ["with the tail", "with all", "at the end"])
async def test_follow_sees_every_generation_of_several_rotations(tmp_path: Path, start: str, *, packed: bool) -> None:
    path = tmp_path / "c-json.log"
    (tmp_path / "c-json.log.1").write_bytes(line(1))
    path.write_bytes(line(2))
    live = True
    options = ReadOptions(follow=True, tail={"with the tail": 1, "with all": None, "at the end": 0}[start])
    batches = JsonFileLog(path, lambda: live).read(options)
    got: list[str] = []

    async def take(last: str) -> None:
        async with asyncio.timeout(5):
            while not got or got[-1] != last:
                got.extend(record.line.decode().strip() for record in await anext(batches))

    if start == "at the end":
        waiting = asyncio.ensure_future(take("line 3"))
        await asyncio.sleep(0.05)
        with path.open("ab") as handle:
            handle.write(line(3))
        await waiting
    else:
        await take("line 2")
        with path.open("ab") as handle:
            handle.write(line(3))
    for number in range(4, 8):  # nobody looks in between
        rotate(path, packed=packed)
        path.write_bytes(line(number) + line(number + 10))
    live = False
    await take("line 17")
    seen = [text for text in got if text not in ("line 1", "line 2")]
    assert seen == ["line 3", *(f"line {number + add}" for number in range(4, 8) for add in (0, 10))]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


def test_times() -> None:
    assert fixed_time("2026-01-02T03:04:05.12Z") == "2026-01-02T03:04:05.120000000Z"
    assert time_ns("1970-01-01T00:00:01.000000002Z") == 1_000_000_002
    assert parse_time_ns("12.5", "since") == 12_500_000_000
    assert parse_time_ns("0", "since") is None
    with pytest.raises(InvalidParameterError, match="failed to parse value as unix timestamp"):
        parse_time_ns("yesterday", "since")


@pytest.mark.parametrize(("text", "expected"), [("all", None), ("", None), ("7", 7), ("0", 0), ("-1", None)])
def test_tail(text: str, expected: int | None) -> None:
    assert parse_tail(text) == expected


@pytest.mark.parametrize("follow", [False, True])
async def test_file_deleted_after_the_request_is_still_read(tmp_path: Path, *, follow: bool) -> None:
    """docker-py waits for a container and removes it before it reads the logs it asked for."""
    path = tmp_path / "c-json.log"
    path.write_bytes(line(1) + line(2))
    batches = JsonFileLog(path, lambda: False).read(ReadOptions(follow=follow))
    path.unlink()
    assert [record.line for batch in [b async for b in batches] for record in batch] == [
        b"line 1\n", b"line 2\n",
    ]


async def test_a_rotation_between_listing_and_opening_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c-json.log"
    (tmp_path / "c-json.log.1").write_bytes(line(1))
    path.write_bytes(line(2))
    log = JsonFileLog(path, lambda: False)
    list_them = log._generations

    def rotate_then_list() -> list[str]:
        (tmp_path / "c-json.log.1").rename(tmp_path / "c-json.log.2")
        path.rename(tmp_path / "c-json.log.1")
        path.write_bytes(line(3))
        return list_them()

    monkeypatch.setattr(log, "_generations", rotate_then_list)
    got = [record.line.decode().strip() async for batch in log.read(ReadOptions()) for record in batch]
    assert got == ["line 1", "line 2"]  # what was there when the reading began
