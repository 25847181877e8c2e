"""Dockerfiles with what BuildKit made of them: contexts out of a table, images as comparable values.

The table is ``tests/e2e/golden/build_language.json``, recorded from dockerd 28.5.2 on the image of ``tests/support/engines.py``.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "e2e/golden/build_language.json"
_CONFIG = ("Env", "Labels", "User", "WorkingDir", "Entrypoint", "Cmd", "ExposedPorts", "OnBuild", "Volumes", "StopSignal",
           "Healthcheck", "Shell")
# What a runtime leaves where it mounts is no part of the language.
_POINTS = frozenset({"etc", "etc/hosts", "etc/resolv.conf", "proc", "sys", "dev"})
_SHOWN = 120


def cases(*, failing: bool) -> list[str]:
    """Names of the table's rows: those that build, or those that do not."""
    return [name for name, case in json.loads(GOLDEN.read_text()).items() if ("error" in case) == failing]


def case_of(name: str) -> dict[str, Any]:
    """One row."""
    found: dict[str, Any] = json.loads(GOLDEN.read_text())[name]
    return found


def lay_out(case: dict[str, Any], place: Path) -> None:
    """Make the context of a row: texts, ``{"link": target}``, ``{"text": …, "mode": octal}``, ``{"tar": members}``."""
    (place / "Dockerfile").write_text("\n".join(case["dockerfile"]) + "\n")
    for name, what in case.get("files", {}).items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, str):
            path.write_text(what)
        elif "link" in what:
            path.symlink_to(what["link"])
        elif "tar" in what:
            path.write_bytes(_tar(what["tar"]))
        else:
            path.write_text(what["text"])
            path.chmod(int(what["mode"], 8))


def _tar(members: list[list[Any]]) -> bytes:
    """An archive of ``[name, type, data or target, mode, uid, gid]``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, data, mode, uid, gid in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind.encode(), int(mode, 8), uid, gid
            if kind == "0":
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data.encode()))
            else:
                info.linkname = data
                archive.addfile(info)
    return buffer.getvalue()


def image_of(saved: bytes) -> dict[str, Any]:
    """Config, history and layers above the base of an image that ``docker save`` wrote."""
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

        def member(path: str) -> bytes:
            file = archive.extractfile(path)
            assert file is not None
            return file.read()

        manifest = json.loads(member("manifest.json"))[0]
        config = json.loads(member(manifest["Config"]))
        layers = [_layer(member(path)) for path in manifest["Layers"][1:]]
    return {
        "config": {key: config["config"][key] for key in _CONFIG if config["config"].get(key)},
        "history": [[entry["created_by"], entry.get("empty_layer", False)] for entry in config["history"][1:]],
        "layers": layers}


def _layer(data: bytes) -> dict[str, list[Any]]:
    entries: dict[str, list[Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            name = info.name.removeprefix("./").rstrip("/")
            if name in _POINTS or name.endswith(".wh..wh..opq"):
                continue
            file = archive.extractfile(info) if info.isreg() else None
            text = file.read().decode("latin-1")[:_SHOWN] if file is not None else info.linkname
            entries[name] = [info.type.decode(), f"{info.mode & 0o7777:o}", info.uid, info.gid, text]
    return dict(sorted(entries.items()))
