"""Record rows of ``build_language.json`` from a daemon: ``python -m tests.support.buildrecord SOCKET ROWS.json``.

The rows are a JSON object of names to ``{"dockerfile": [lines], "files": {…}, "args": […]}`` (see ``buildcases``). The
daemon's image ``busybox`` has to be that of ``tests/support/engines.py``; layers are read through ``docker save``, so
one that keeps them as tars is best. The daemon's build cache is emptied before each row.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.buildcases import GOLDEN, image_of, lay_out
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.probes import PLUGINS
from tests.support.unixhttp import Api

TAG = "recorded"
_PREFIX = "ERROR: failed to build: failed to solve: "


def recorded(case: dict[str, Any], cli: DockerCli, api: Api, place: Path) -> dict[str, Any]:
    """The row with what came of it: ``image`` or ``error``."""
    lay_out(case, place)
    cli.run("buildx", "prune", "-af")
    args = [arg.replace("@", str(place)) for arg in case.get("args", ())]
    done = cli.run("buildx", "build", "--progress", "plain", "--provenance=false", "-t", TAG, *args, str(place))
    if done.code:
        return {**case, "error": done.err.splitlines()[-1].removeprefix(_PREFIX)}
    return {**case, "image": image_of(api.call("GET", f"/images/{TAG}/get").body)}


def laid_out(name: str, case: dict[str, Any]) -> str:
    """A row as the file has it: a line for each line, step and entry."""
    def lines(items: list[str], indent: str, brackets: str = "[]") -> str:
        return brackets[0] + "\n" + ",\n".join(indent + item for item in items) + brackets[1]

    dump = json.dumps
    parts = ['"dockerfile": ' + lines([dump(line) for line in case["dockerfile"]], "   ")]
    parts += [f'"{key}": {dump(case[key])}' for key in ("args", "files", "error") if key in case]
    if (image := case.get("image")) is not None:
        history = lines([dump(entry) for entry in image["history"]], "    ")
        layers = lines(["{" + ",\n     ".join(f"{dump(path)}: {dump(entry)}" for path, entry in layer.items()) + "}"
                        for layer in image["layers"]], "    ")
        parts.append(f'"image": {{\n   "config": {dump(image["config"])},\n   "history": {history},\n   "layers": {layers}}}')
    return f" {dump(name)}: {{\n  " + ",\n  ".join(parts) + "}"


def main(socket: str, rows: str) -> None:
    """Record all rows and put them behind those of the file."""
    wanted: dict[str, dict[str, Any]] = json.loads(Path(rows).read_text())
    with tempfile.TemporaryDirectory() as top:
        cli = DockerCli([docker_binaries()[0]], f"unix://{socket}", Path(top, "config"))
        Path(top, "config/cli-plugins").symlink_to(PLUGINS)
        found = []
        for number, (name, case) in enumerate(wanted.items()):
            place = Path(top, str(number))
            place.mkdir()
            found.append(laid_out(name, recorded(case, cli, Api(socket), place)))
    known = GOLDEN.read_text().rstrip().removesuffix("}").rstrip()
    text = ",\n".join([known, *found]) + "\n}\n"
    json.loads(text)
    GOLDEN.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
