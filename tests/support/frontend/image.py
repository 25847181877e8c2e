"""The image of the test front end: the host's Python, what of this project and its libraries speaks gRPC, the program."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests.support.scratch import TreeTar

PROGRAM = Path(__file__).with_name("program.py")
_PLACE = "usr/lib/python{}.{}".format(*sys.version_info[:2])
_ASK = """
import sys, asyncio, hashlib, json, os, socket, threading, encodings.ascii, encodings.idna, encodings.latin_1
import pallet.api.buildkit.grpc, pallet.api.buildkit.wire.gateway_pb2, pallet.api.buildkit.wire.llb_pb2
import google.protobuf.message
for name, module in list(sys.modules.items()):
    if getattr(module, "__file__", None):
        print(name, module.__file__, sep="\\t")
"""


def _libraries(path: str) -> set[str]:
    """What a program needs to be loaded."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return {word for line in listed.splitlines() for word in line.split() if word.startswith("/")}


def _compiled(path: Path) -> bytes:
    """A module as a file that Python loads without its source."""
    code = compile(path.read_bytes(), path.name, "exec", dont_inherit=True, optimize=1)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


@cache
def frontend_tar() -> bytes:
    """The file system as a tar: no more than what is imported."""
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True).stdout
    files: dict[str, Path] = {"app/program.py": PROGRAM}
    for line in asked.splitlines():
        name, _, path = line.partition("\t")
        place = name.replace(".", "/")
        if Path(path).name.startswith("__init__."):
            files[f"{_PLACE}/{place}/__init__.py"] = Path(path)
        elif name != "__main__":
            suffix = next(one for one in (".py", *importlib.machinery.EXTENSION_SUFFIXES) if path.endswith(one))
            files[f"{_PLACE}/{place}{suffix}"] = Path(path)
    python = str(Path(sys.executable).resolve())
    needed = {python}.union(*(_libraries(path) for path in [
        python, *(str(one) for one in files.values() if one.suffix == ".so")]))
    tar = TreeTar()
    tar.directory(f"{_PLACE}/lib-dynload")
    for library in sorted(needed):
        tar.file(library.lstrip("/"), Path(library).resolve().read_bytes(), 0o755)
    for name, source in files.items():
        if source.suffix == ".py":  # compiled: it starts in half the time
            tar.file(f"{name}c", _compiled(source))
        else:
            tar.file(name, source.read_bytes())
    return tar.finish()


def changes() -> str:
    """The image's config, as ``POST /images/create`` takes it."""
    python = str(Path(sys.executable).resolve())
    lines = (f'ENTRYPOINT ["{python}","/app/program.pyc"]',
             "LABEL moby.buildkit.frontend.network.none=true "
             "moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,moby.buildkit.frontend.contexts,"
             "moby.buildkit.frontend.subrequests",
             "ENV FROM_IMAGE=yes")
    return "".join(f"&changes={quote(line)}" for line in lines)
