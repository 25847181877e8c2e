"""Client documents read as Go reads them; filters."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pallet.errors import InvalidParameterError
from pallet.spec.engine import decode, filters
from pallet.spec.engine.container import ContainerCreateRequest
from pallet.spec.engine.wire import Empty, rfc3339_nano


def read(**body: Any) -> ContainerCreateRequest:
    return decode.from_json(ContainerCreateRequest, json.dumps(body).encode())


def test_null_leaves_every_default() -> None:
    """A document whose every field is null is the empty document."""
    names = [field.encode_name for field in msgspec.structs.fields(ContainerCreateRequest)]
    assert read(**dict.fromkeys(names)) == ContainerCreateRequest()
    host = [field.encode_name for field in msgspec.structs.fields(
        type(read(HostConfig={}).host_config))]
    assert read(HostConfig=dict.fromkeys(host)) == read(HostConfig={})


def test_null_inside_maps_and_lists_is_the_zero_value() -> None:
    body = read(Volumes={"/x": None}, Labels={"a": None}, Env=["A=1", None],
                HostConfig={"PortBindings": {"80/tcp": None}},
                NetworkingConfig={"EndpointsConfig": {"n": None}})
    assert body.volumes == {"/x": Empty()}
    assert body.labels == {"a": ""}
    assert body.env == ["A=1", ""]
    assert body.host_config.port_bindings == {"80/tcp": None}
    assert body.networking_config.endpoints_config == {"n": None}


def test_keys_in_any_case() -> None:
    body = read(image="a", CMD=["b"], hostconfig={"memory": 5, "MEMORYSWAP": 6})
    assert (body.image, body.cmd, body.host_config.memory, body.host_config.memory_swap) == (
        "a", ["b"], 5, 6)


@pytest.mark.parametrize("field", ["Cmd", "Entrypoint", "Shell"])
def test_a_string_is_a_list_of_one_for_commands_only(field: str) -> None:
    assert getattr(read(**{field: "sh -c x"}), field.lower()) == ["sh -c x"]
    with pytest.raises(InvalidParameterError):
        read(Env="A=1")


@pytest.mark.parametrize("raw", [b"", b"  ", b"{bad", b"[]", b'{"Image": 5}', b'"x"',
                                 b'{"HostConfig": {"Memory": "x"}}', b'{"Tty": "yes"}'])
def test_wrong_documents(raw: bytes) -> None:
    with pytest.raises(InvalidParameterError, match=r"^invalid JSON: "):
        decode.from_json(ContainerCreateRequest, raw)


def test_unknown_keys_are_ignored() -> None:
    assert read(Nope=1, Image="a").image == "a"


def test_filters_in_both_forms() -> None:
    old = filters.parse('{"name":["a","b"],"label":["x=1"]}')
    new = filters.parse('{"name":{"a":true,"b":true},"label":{"x=1":true}}')
    assert old.values == new.values == {"name": ("a", "b"), "label": ("x=1",)}
    assert not filters.parse("")
    assert not filters.parse("{}")


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":[1]}', '"a"'])
def test_filters_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid filter"):
        filters.parse(text)


def test_filter_matching() -> None:
    wanted = filters.parse('{"name":["^/?web","db("],"label":["a","b=2"],"id":["abc"]}')
    assert wanted.pattern("name", "/web1")
    assert wanted.pattern("name", "db(")  # not an expression: text only
    assert not wanted.pattern("name", "/other")
    assert wanted.labels({"a": "", "b": "2"})
    assert not wanted.labels({"a": "", "b": "3"})
    assert not wanted.labels({"b": "2"})
    assert not wanted.labels(None)
    assert wanted.prefix("id", "abcdef")
    assert wanted.exact("volume", "anything")
    with pytest.raises(InvalidParameterError, match="invalid filter 'id'"):
        wanted.validate({"name", "label"})


@pytest.mark.parametrize(("values", "expected"), [
    ('["true"]', True), ('["1"]', True), ('["0"]', False), ('["false","0"]', False)])
def test_boolean_filter(values: str, expected: bool) -> None:
    assert filters.parse(f'{{"dangling":{values}}}').boolean("dangling", default=True) is expected


@pytest.mark.parametrize("values", ['["x"]', '["true","false"]', "[]"])
def test_boolean_filter_that_is_none(values: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid filter 'dangling="):
        filters.parse(f'{{"dangling":{values}}}').boolean("dangling", default=True)


@pytest.mark.parametrize(("nanoseconds", "text"), [
    (0, "1970-01-01T00:00:00Z"), (1_500_000_000, "1970-01-01T00:00:01.5Z"),
    (1_795_504_837_349_960_852, "2026-11-24T07:20:37.349960852Z"),
])
def test_times_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert rfc3339_nano(nanoseconds) == text
