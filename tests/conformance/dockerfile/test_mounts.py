"""Rows of dockerfile.tsv on ``RUN --mount``: keys, defaults, refusals. What mounts do is tested with the solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pallet.build.graph import LocalSource
from tests.support import dockerfiles as df

if TYPE_CHECKING:
    from pallet.build.graph import RunMount

pytestmark = pytest.mark.conformance

STAGES = "FROM busybox AS other\nRUN o\nFROM busybox\nWORKDIR /w\nARG V=val\n"


def mount(text: str) -> RunMount:
    return df.run_op(f"{STAGES}RUN --mount={text} true\n").mounts[-1]


def error(text: str) -> str:
    return str(df.failure(f"{STAGES}RUN --mount={text} true\n"))


SPECS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "mount-01": [("target=/t", {"kind": "bind", "readonly": True, "source": "/", "input": 1}),
                 ("type=bind,from=other,target=/t,rw", {"readonly": False, "input": 1})],
    "mount-02": [("type=cache,target=/c", {"kind": "cache", "readonly": False, "sharing": "shared", "mode": 0o755, "input": None})],
    "mount-03": [("type=tmpfs,target=/t", {"kind": "tmpfs", "size_bytes": 0, "input": None})],
    "mount-04": [("type=secret,id=s", {"kind": "secret", "target": "/run/secrets/s", "mode": 0o400, "required": False})],
    "mount-05": [("type=ssh", {"kind": "ssh", "id": "default", "target": "/run/buildkit/ssh_agent.0", "mode": 0o600})],
    "mount-06": [(f"{key}=rel/../x", {"target": "/w/x"}) for key in ("target", "dst", "destination")],
    "mount-07": [(f"{key}=$V/../a,target=/t", {"source": "/a"}) for key in ("source", "src")],
    "mount-08": [("from=other,target=/t", {"input": 1}), ("from=0,target=/t", {"input": 1})],
    "mount-09": [(f"target=/t,{key}", {"readonly": False}) for key in ("rw", "readwrite", "rw=true", "ro=false")],
    "mount-10": [(f"target=/t,{key}", {"readonly": True}) for key in ("ro", "readonly", "ro=1", "rw=false")],
    "mount-11": [("type=cache,target=/c/../d", {"id": "/d"}), ("type=cache,id=$V,target=/c", {"id": "val"})],
    "mount-12": [(f"type=cache,{key}=c", {"target": "/w/c"}) for key in ("target", "dst", "destination")],
    "mount-13": [(f"type=cache,target=/c,{key}", {"readonly": True}) for key in ("ro", "readonly")],
    "mount-14": [(f"type=cache,target=/c,sharing={name}", {"sharing": name}) for name in ("shared", "private", "locked")],
    "mount-15": [("type=cache,target=/c,from=other", {"input": 1})],
    "mount-16": [(f"type=cache,target=/c,from=other,{key}=a", {"source": "/a"}) for key in ("source", "src")],
    "mount-17": [("type=cache,target=/c,mode=0700", {"mode": 0o700})],
    "mount-18": [("type=cache,target=/c,uid=7", {"uid": 7})],
    "mount-19": [("type=cache,target=/c,gid=8", {"gid": 8})],
    "mount-20": [(f"type=tmpfs,{key}=/t", {"target": "/t"}) for key in ("target", "dst", "destination")],
    "mount-21": [("type=tmpfs,target=/t,size=10m", {"size_bytes": 10 << 20}), ("type=tmpfs,target=/t,size=1.5KiB", {"size_bytes": 1536})],
    "mount-22": [("type=secret,target=/x/name", {"id": "name", "target": "/x/name"}), ("type=secret,src=a", {"id": "a"})],
    "mount-23": [(f"type=secret,id=a,{key}=/t", {"target": "/t"}) for key in ("target", "dst", "destination")],
    "mount-24": [("type=secret,id=a,env=A", {"env": "A", "target": ""}), ("type=secret,id=a,env=A,target=/t", {"env": "A", "target": "/t"})],
    "mount-25": [("type=secret,id=a,required", {"required": True}), ("type=secret,id=a,required=false", {"required": False})],
    "mount-26": [("type=secret,id=a,mode=0444", {"mode": 0o444})],
    "mount-27": [("type=secret,id=a,uid=5", {"uid": 5})],
    "mount-28": [("type=secret,id=a,gid=6", {"gid": 6})],
    "mount-29": [("type=ssh,id=k", {"id": "k"})],
    "mount-30": [(f"type=ssh,{key}=/s", {"target": "/s"}) for key in ("target", "dst", "destination")],
    "mount-31": [("type=ssh,required", {"required": True})],
    "mount-32": [("type=ssh,mode=0666", {"mode": 0o666})],
    "mount-33": [("type=ssh,uid=5", {"uid": 5})],
    "mount-34": [("type=ssh,gid=6", {"gid": 6})],
    "mount-35": [('\'type=cache,"target=/a,$V"\'', {"target": "/a,val"}), ("type=cache,target=/$V,mode=07$NO", {"target": "/val", "mode": 7})],
}


@pytest.mark.parametrize("row", SPECS)
def test_mount(row: str) -> None:
    for text, expected in SPECS[row]:
        found = mount(text)
        assert {name: getattr(found, name) for name in expected} == expected, text


ERRORS: dict[str, list[tuple[str, str]]] = {
    "mount-01": [("type=bind,target=/x,uid=1", 'uid not allowed for "bind" type mounts'),
                 ("type=bind,sharing=locked,target=/x", "invalid cache sharing set for bind mount")],
    "mount-02": [("type=cache,required,target=/x", "unexpected key 'required' for mount type 'cache'")],
    "mount-04": [("type=secret", "invalid secret mount. one of source, target required"),
                 ("type=secret,id=a,src=b", "both source and id can't be set")],
    "mount-06": [("type=bind", 'invalid mount target "/"'), ("type=bind,target=/", 'invalid mount target "/"')],
    "mount-08": [("from=$V,target=/t", "dockerfile parse error on line 6: 'from' doesn't support variable expansion, define alias stage instead")],
    "mount-09": [("target=/t,rw=x", "invalid value for rw: x")],
    "mount-14": [("type=cache,target=/c,sharing=x", 'unsupported sharing value "x"')],
    "mount-17": [("type=cache,target=/c,mode=9", "invalid value 9 for mode")],
    "mount-18": [("type=cache,target=/c,uid=x", "invalid value x for uid")],
    "mount-21": [("type=tmpfs,target=/t,size=x", "invalid value for size: x")],
    "mount-35": [("type=bind,foo=1,target=/a", "unexpected key 'foo' in 'foo=1' (did you mean from?)"),
                 ("foo", "invalid field 'foo' must be a key=value pair"),
                 ("", "dockerfile parse error on line 6: failed to parse csv mounts: EOF")],
}


@pytest.mark.parametrize("row", ERRORS)
def test_refused(row: str) -> None:
    for text, words in ERRORS[row]:
        assert error(text) == words, text


def test_agents_are_numbered() -> None:
    found = df.run_op(f"{STAGES}RUN --mount=type=ssh --mount=type=ssh,id=b true\n").mounts
    assert [item.target for item in found] == ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]


def test_binds_say_what_they_need_of_the_context() -> None:
    text = "FROM busybox\nRUN --mount=target=/t,source=a/b true\n"
    assert df.ops(text, LocalSource)[0].follow == ("a/b",)
    assert df.ops("FROM busybox\nRUN --mount=target=/t true\n", LocalSource)[0].follow == ()
