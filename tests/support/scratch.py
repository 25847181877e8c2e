"""Scratch root file systems and images, made from Debian's static busybox; nothing is downloaded.

``busybox_tar`` is a whole image in one layer. With the host's ``/usr`` bound into it (``HOST_TOOLS``)
it also runs the host's Python, for the few things busybox cannot do (UDP, odd system calls).
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from functools import cache
from pathlib import Path

from tests.support.probes import which

EPOCH = 1_700_000_000
HOST_TOOLS = ("-v", "/usr:/usr:ro")
PYTHON = "/usr/bin/python3"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:App:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
wheel:x:10:app
video:x:44:app
app:x:1000:
nogroup:x:65534:
"""


@cache
def applets() -> tuple[str, ...]:
    """Names that the host's static busybox answers to."""
    path = which("busybox")
    assert path, "busybox is not installed"
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=True)
    return tuple(listed.stdout.split())


class TreeTar:
    """A tar file built entry by entry, the same bytes every time."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, info: tarfile.TarInfo, data: bytes | None = None) -> None:
        """Add a header as it is, and its data."""
        info.mtime = EPOCH
        if data is not None:
            info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data) if data is not None else None)

    def directory(self, name: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """A directory."""
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, gid
        self.add(info)

    def file(
        self, name: str, data: bytes | str, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> None:
        """A regular file."""
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid = mode, uid, gid
        self.add(info, data.encode() if isinstance(data, str) else data)

    def symlink(self, name: str, target: str) -> None:
        """A symbolic link."""
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        self.add(info)

    def whiteout(self, name: str) -> None:
        """The image-spec's mark for "the lower layers' ``name`` is gone"."""
        directory, _, base = name.rpartition("/")
        self.file(f"{directory}/.wh.{base}" if directory else f".wh.{base}", b"", mode=0)

    def finish(self) -> bytes:
        """Close the archive and return its bytes."""
        self._tar.close()
        return self._buffer.getvalue()


def tar_of(**files: str) -> bytes:
    """An archive of text files."""
    tree = TreeTar()
    for name, content in files.items():
        tree.file(name, content)
    return tree.finish()


@cache
def busybox_tar(program: str = "") -> bytes:
    """A small root file system: busybox with its applets, users, the usual directories.

    Args:
        program: another busybox than the host's, as for another processor.
    """
    path = program or which("busybox")
    assert path, "busybox is not installed"
    tree = TreeTar()
    for name in (
        "bin",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "sys",
        "usr",
        "usr/bin",
        "var",
        "srv",
    ):
        tree.directory(name)
    tree.directory("tmp", mode=0o1777)
    tree.directory("home/app", uid=1000, gid=1000)
    tree.file("bin/busybox", Path(path).read_bytes(), mode=0o755)
    for name in applets():
        if name != "busybox":
            tree.symlink(f"bin/{name}", "/bin/busybox")
    for name in ("lib", "lib64"):
        tree.symlink(name, f"usr/{name}")
    tree.file("etc/passwd", PASSWD)
    tree.file("etc/group", GROUP)
    tree.file("etc/notexec", "data\n")
    tree.file("srv/index.html", "hello from the container\n")
    return tree.finish()


def unpack_busybox(target: Path) -> Path:
    """Unpack ``busybox_tar`` at ``target`` for tests that need a root without an engine."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as tar:
        tar.extraction_filter = lambda member, path: member  # the filter argument came in 3.11.4
        tar.extractall(target)
    return target
