"""Records what a real dockerd answers, for the API tests to compare with.

``python tests/api/golden/record.py SOCKET [OUT]`` against a dockerd 20.10 of your own that was started
with ``--bridge=none --iptables=false`` and holds one image, ``busybox:latest``, imported with
``docker import -c 'CMD ["/bin/sh"]' -c 'ENV A=b' -c 'EXPOSE 80/tcp' -c 'LABEL x=y'``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.unixhttp import Api

JSON = {"Content-Type": "application/json"}
CREATE = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}


def filters(**values: list[str]) -> str:
    """Encode the ``filters`` parameter."""
    return "filters=" + quote(json.dumps(values))


ERRORS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/nope", None, {}),
    ("GET", "/v1.41/nope", None, {}),
    ("GET", "/v1.x/version", None, {}),
    ("PATCH", "/v1.41/containers/json", None, {}),
    ("HEAD", "/v1.41/containers/json", None, {}),
    ("GET", "//containers/json", None, {}),
    ("OPTIONS", "/v1.41/containers/json", None, {}),
    ("GET", "/v1.41/_ping", None, {}),
    ("HEAD", "/v1.41/_ping", None, {}),
    ("GET", "/v1.41/containers/zzz/json", None, {}),
    ("GET", "/v1.41/containers/json?limit=x", None, {}),
    ("GET", "/v1.41/containers/zzz/logs", None, {}),
    ("GET", "/v1.41/containers/zzz/logs?stdout=1", None, {}),
    ("POST", "/v1.41/containers/zzz/resize", None, {}),
    ("POST", "/v1.41/containers/zzz/resize?h=x&w=1", None, {}),
    ("POST", "/v1.41/containers/zzz/stop?t=x", None, {}),
    ("POST", "/v1.41/containers/zzz/attach?stream=1", None, {}),
    ("POST", "/v1.41/containers/zzz/start", {"a": "bbbbbbbbb"}, {}),
    ("POST", "/v1.41/containers/create", {}, {}),
    ("POST", "/v1.41/containers/create", {"HostConfig": {}}, {}),
    ("POST", "/v1.41/containers/create", {"Image": "nope", "Cmd": ["x"]}, {}),
    ("POST", "/v1.41/containers/zzz/exec", {}, JSON),
    ("GET", "/v1.41/exec/abc/json", None, {}),
    ("GET", "/v1.41/networks/zzz", None, {}),
    ("GET", "/v1.41/volumes/nope", None, {}),
    ("GET", "/v1.41/plugins", None, {}),
    ("GET", "/v1.41/plugins/foo/json", None, {}),
    ("GET", "/v1.41/containers/zzz/checkpoints", None, {}),
    ("DELETE", "/v1.41/images/", None, {}),
    ("GET", "/v1.41/events?since=20&until=10", None, {}),
    ("GET", "/v1.41/events?until=10", None, {}),
    *(("GET", f"/v1.41/{path}", None, {})
      for path in ("swarm", "services", "nodes", "tasks", "secrets", "configs")),
    *(("GET", f"/v1.41/{path}?" + filters(foo=["a"]), None, {})
      for path in ("containers/json", "images/json", "networks", "volumes")),
]


def record(api: Api, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
    """Make one call and keep what is the same every time."""
    reply = api.call(method, path, body, headers)
    kept = {name: value for name, value in reply.headers.items()
            if name.lower() not in ("date", "server", "api-version")}
    return {"method": method, "path": path, "body": body, "headers": headers,
            "status": reply.status, "reply_headers": kept, "reply": reply.body.decode()}


def main() -> None:
    """Record errors and documents."""
    api = Api(sys.argv[1])
    out = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent)
    calls = [record(api, *call) for call in ERRORS]
    (out / "errors.json").write_text(json.dumps(calls, indent=1) + "\n")
    made = api.call("POST", "/v1.41/containers/create?name=golden", CREATE).json
    one = f"/v1.41/containers/{made['Id']}"
    documents = {"create": made, "inspect-created": api.call("GET", f"{one}/json").json}
    api.call("POST", f"{one}/start")
    run = api.call("POST", f"{one}/exec", {"Cmd": ["echo", "hi"], "AttachStdout": True}).json
    api.call("POST", f"/v1.41/exec/{run['Id']}/start", {"Detach": True})
    documents |= {
        "inspect-running": api.call("GET", f"{one}/json?size=1").json,
        "list": api.call("GET", "/v1.41/containers/json?all=1&size=1").json,
        "exec": api.call("GET", f"/v1.41/exec/{run['Id']}/json").json,
        "volume": api.call("POST", "/v1.41/volumes/create", {"Name": "golden"}).json,
        "volumes": api.call("GET", "/v1.41/volumes").json,
        "networks": api.call("GET", "/v1.41/networks").json,
        "network": api.call("GET", "/v1.41/networks/none").json,
        "image": api.call("GET", "/v1.41/images/busybox/json").json,
        "images": api.call("GET", "/v1.41/images/json").json,
        "history": api.call("GET", "/v1.41/images/busybox/history").json,
        "version": api.call("GET", "/v1.41/version").json,
        "info": api.call("GET", "/v1.41/info").json,
        "df": api.call("GET", "/v1.41/system/df").json,
    }
    api.call("DELETE", f"{one}?force=1")
    api.call("DELETE", "/v1.41/volumes/golden")
    events = api.call("GET", f"/v1.41/events?since=1&until={int(time.time()) + 1}")
    documents["events"] = [json.loads(line) for line in events.body.splitlines()]
    (out / "documents.json").write_text(json.dumps(documents, indent=1) + "\n")


if __name__ == "__main__":
    main()
