"""Requests, queries, errors and connection reuse of the engine client."""

from __future__ import annotations

import pytest

from pallet.client.engine import Engine, documents, error_message, quote
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError
from tests.unit.client.fakes import ScriptedEndpoint, ScriptedTransport


def ok(body: bytes = b"{}", status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


def engine(*transports: ScriptedTransport, **kw: object) -> Engine:
    return Engine(ScriptedEndpoint(*transports), **kw)  # type: ignore[arg-type]


def test_connection_is_reused() -> None:
    transport = ScriptedTransport(ok(b"1"), ok(b"2"))
    client = engine(transport)
    assert [client.json("GET", "/a"), client.json("GET", "/b")] == [1, 2]
    assert transport.sent.count(b"HTTP/1.1") == 2


def test_stale_idle_connection_is_replaced_once() -> None:
    first, second = ScriptedTransport(ok(b"1")), ScriptedTransport(ok(b"2"))
    client = engine(first, second)
    client.json("GET", "/a")
    assert client.json("POST", "/b", body={"x": 1}) == 2
    assert b'{"x":1}' in second.sent


def test_new_connection_that_closes_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="EOF"):
        engine(ScriptedTransport(), ScriptedTransport(ok())).json("GET", "/a")


def test_error_carries_status_and_message() -> None:
    client = engine(ScriptedTransport(ok(b'{"message":"No such container: x"}', b"404 Not Found")))
    with pytest.raises(DaemonError) as caught:
        client.json("GET", "/containers/x/json")
    assert caught.value.status == 404
    assert str(caught.value) == "Error response from daemon: No such container: x"


def test_query_forms() -> None:
    client = engine(version="1.41")
    assert client.target("/x", {
        "yes": True, "no": False, "none": None, "n": 0, "s": "a b&c/é", "many": ["a", "b"],
    }) == "/v1.41/x?yes=1&n=0&s=a%20b%26c%2F%C3%A9&many=a&many=b"


def test_api_version_comes_from_any_reply() -> None:
    client = engine(ScriptedTransport(ok(b"1", extra=b"Api-Version: 1.51\r\n")))
    client.json("GET", "/a")
    assert client.daemon_api_version() == "1.51"


def test_api_version_is_asked_for_when_unknown() -> None:
    head = b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 2\r\n\r\n"
    transport = ScriptedTransport(head)
    assert engine(transport).daemon_api_version() == "1.44"
    assert transport.sent.startswith(b"HEAD /_ping")


def test_hijack_returns_the_raw_stream() -> None:
    transport = ScriptedTransport(b"HTTP/1.1 101 UPGRADED\r\n\r\nhello")
    stream = engine(transport).hijack("/containers/x/attach", {"stream": True}).stream()
    assert stream.buffer == b"hello"
    assert b"Upgrade: tcp" in transport.sent
    assert not stream.reusable


def test_refused_hijack_is_the_daemons_error() -> None:
    transport = ScriptedTransport(ok(b'{"message":"paused"}', b"409 Conflict"))
    with pytest.raises(DaemonError, match="paused"):
        engine(transport).hijack("/containers/x/attach").stream()


def test_start_hook_runs_once_when_nothing_answers() -> None:
    calls: list[Exception] = []

    class Endpoint(ScriptedEndpoint):
        def connect(self) -> ScriptedTransport:
            if not calls:
                raise ConnectionFailedError("nobody", 2)
            return super().connect()

    endpoint = Endpoint(ScriptedTransport(ok(b"7")))
    client = Engine(endpoint, on_absent=calls.append)  # type: ignore[arg-type]
    assert client.json("GET", "/x") == 7
    assert len(calls) == 1


def test_failure_of_the_start_hook_is_the_error() -> None:
    class Endpoint(ScriptedEndpoint):
        def connect(self) -> ScriptedTransport:
            raise ConnectionFailedError("nobody", 13)

    def refuse(error: Exception) -> None:
        raise error

    with pytest.raises(ConnectionFailedError, match="nobody"):
        Engine(Endpoint(), on_absent=refuse).json("GET", "/x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("body", "message"), [
    (b'{"message":"a"}', "a"), (b"plain", "plain"), (b"", "Bad"), (b'{"x":1}', '{"x":1}'),
])
def test_error_bodies(body: bytes, message: str) -> None:
    assert error_message(body, "Bad") == message


def test_documents_without_line_ends_between() -> None:
    assert list(documents('{"a":1}{"b":2} \x1e[3]')) == [{"a": 1}, {"b": 2}, [3]]


def test_quote_keeps_what_it_is_told() -> None:
    assert quote("docker.io/a:b", "/:") == "docker.io/a:b"
    assert quote("a/b") == "a%2Fb"
