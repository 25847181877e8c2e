"""The download loop against scripted replies: resumption, sizes, ranges, patience."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from urllib3.response import HTTPResponse

from pallet.errors import CancelledRequestError
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.failures import BadContentError, RefusedError, RegistryError, UnreachableError
from pallet.transfer.fetch import fetch
from pallet.transfer.retry import Retries, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = bytes(range(256)) * 8


class Memory:
    """A sink."""

    def __init__(self) -> None:
        self.data = b""
        self.size = 0

    def write(self, chunk: bytes, /) -> int:
        self.data += chunk
        self.size = len(self.data)
        return self.size


def reply(body: bytes, status: int = 200, **headers: str) -> HTTPResponse:
    return HTTPResponse(io.BytesIO(body), headers={
        key.replace("_", "-"): value for key, value in headers.items()}, status=status,
        preload_content=False)


def part(offset: int, end: int | None = None) -> HTTPResponse:
    """The rest of the data from ``offset``, broken off at ``end``."""
    return reply(DATA[offset:end], 206, Content_Range=f"bytes {offset}-{len(DATA) - 1}/{len(DATA)}")


def run(*script: HTTPResponse | Exception | Callable[[int], Any], attempts: int = 3) -> Memory:
    """Feed ``script`` to a download, one entry an attempt; every entry must be used."""
    sink, entries, cancel = Memory(), list(script), Cancellation()
    policy = RetryPolicy(attempts=attempts, base_s=0.0)

    def open_at(offset: int) -> HTTPResponse:
        entry = entries.pop(0)
        if isinstance(entry, Exception):
            raise entry
        if isinstance(entry, HTTPResponse):
            return entry
        return entry(offset)  # type: ignore[no-any-return]

    fetch(open_at, len(DATA), sink, retries=Retries(policy, cancel), cancel=cancel,
          on_bytes=lambda _current: None)
    assert entries == []
    return sink


LOST = UnreachableError("GET", "http://r/", "connection reset")


def test_in_one_go() -> None:
    assert run(reply(DATA)).data == DATA


def test_resumes_where_it_broke() -> None:
    sink = run(reply(DATA[:100]), lambda offset: part(offset, 700), part)
    assert sink.data == DATA


def test_server_without_ranges() -> None:
    assert run(reply(DATA[:900]), reply(DATA)).data == DATA


def test_server_that_refuses_the_range() -> None:
    def whole(offset: int) -> HTTPResponse:
        assert offset == 0
        return reply(DATA)

    assert run(reply(DATA[:900]), RefusedError(416, "", "no"), whole).data == DATA


def test_other_range_than_asked_for_is_no_data() -> None:
    sink = run(reply(DATA[:900]), lambda _offset: part(800), part)
    assert sink.data == DATA


def test_progress_resets_the_count() -> None:
    """Attempts count in a row: a slow and flaky line gets there."""
    script: list[Any] = [reply(DATA[:100])]
    for end in range(200, 1200, 100):
        script += [LOST, lambda offset, end=end: part(offset, end)]
    assert run(*script, part).data == DATA


def test_gives_up() -> None:
    with pytest.raises(UnreachableError, match="connection reset"):
        run(LOST, LOST, LOST)


@pytest.mark.parametrize("error", [
    RefusedError(404, "BLOB_UNKNOWN", "blob unknown"), RefusedError(403, "DENIED", "denied"),
    RefusedError(401, "UNAUTHORIZED", "no")])
def test_final_answers_are_not_retried(error: RefusedError) -> None:
    with pytest.raises(RefusedError) as caught:
        run(error)
    assert caught.value is error


def test_more_bytes_than_the_descriptor_says() -> None:
    with pytest.raises(BadContentError, match="larger than the 2048 bytes"):
        run(reply(DATA + b"x"))


@pytest.mark.parametrize("length", [2047, 2049])
def test_announced_length_must_match(length: int) -> None:
    with pytest.raises(BadContentError, match=f"blob has {length} bytes where its descriptor says"):
        run(reply(DATA, Content_Length=str(length)))


def test_full_disk_is_not_the_network() -> None:
    class Full(Memory):
        def write(self, chunk: bytes, /) -> int:
            raise OSError(28, "No space left on device")

    cancel = Cancellation()
    with pytest.raises(OSError, match="No space left"):
        fetch(lambda _offset: reply(DATA), len(DATA), Full(), cancel=cancel,
              retries=Retries(RetryPolicy(), cancel), on_bytes=lambda _current: None)


def test_cancelled_before_and_between() -> None:
    cancel, sink = Cancellation(), Memory()

    def on_bytes(_current: int) -> None:
        cancel.cancel()

    def replies(offset: int) -> HTTPResponse:
        return reply(DATA[:100]) if not offset else part(offset)

    with pytest.raises(CancelledRequestError):
        fetch(replies, len(DATA), sink, cancel=cancel, on_bytes=on_bytes,
              retries=Retries(RetryPolicy(), cancel))
    assert sink.size == 100


def test_back_off_grows_and_is_announced() -> None:
    """1, 2, 4 … seconds, counted down; Retry-After lengthens it."""
    assert [RetryPolicy(base_s=1).delay_s(n) for n in (1, 2, 3, 9)] == [1, 2, 4, 30]


def test_waiting_ends_with_cancellation() -> None:
    cancel = Cancellation()
    heard: list[int] = []

    def announce(left_s: int) -> None:
        heard.append(left_s)
        cancel.cancel()

    retries = Retries(RetryPolicy(base_s=20), cancel, announce)
    with pytest.raises(CancelledRequestError):
        retries.failed(LOST, progressed=False)
    assert heard == [20]


def test_cancellation_closes_what_is_registered_later() -> None:
    cancel, closed = Cancellation(), []
    cancel.cancel()
    cancel.add(lambda: closed.append(1))
    assert closed == [1]
    with pytest.raises(CancelledRequestError):
        cancel.check()
    assert issubclass(RefusedError, RegistryError)
