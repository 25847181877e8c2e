"""Runs the recipes: package tools as processes, their tar streams as generators of chunks.

Needs  mmdebstrap or debootstrap for distributions; busybox-static, or apt and dpkg-deb to fetch it.
       Root, because a base image holds files of several owners.
Reproducible: entries sorted, times clamped to SOURCE_DATE_EPOCH, owners numeric.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile

from pallet.cli.errors import CommandError
from pallet.cli.host import recipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHUNK_BYTES = 1 << 18
_BUSYBOX_PATHS = ("/bin/busybox", "/usr/bin/busybox", "/usr/lib/initramfs-tools/bin/busybox")


def apt_sources() -> list[str]:
    """Return the texts of the host's apt source files."""
    texts = []
    names = ["/etc/apt/sources.list"]
    with contextlib.suppress(OSError):
        names += [f"/etc/apt/sources.list.d/{name}"
                  for name in sorted(os.listdir("/etc/apt/sources.list.d"))
                  if name.endswith((".list", ".sources"))]
    for name in names:
        with contextlib.suppress(OSError), open(name, encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
    return texts


def distribution_tar(
    recipe: recipes.Recipe, env: Mapping[str, str], *, quiet: bool
) -> tuple[str, Iterator[bytes]]:
    """Return the tool's name and version, and the image's tar stream.

    Raises:
        CommandError: no tool is installed; later, from the stream, the tool failed.
    """
    if shutil.which("mmdebstrap"):
        version = _output(["mmdebstrap", "--version"]).strip() or "mmdebstrap"
        return version, _stream(recipes.mmdebstrap_argv(recipe, quiet=quiet), env, quiet=quiet)
    if shutil.which("debootstrap"):
        version = _output(["debootstrap", "--version"]).strip() or "debootstrap"
        return version, _debootstrap(recipe, env, quiet=quiet)
    raise recipes.missing_tool(recipe.distribution)


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _stream(argv: list[str], env: Mapping[str, str], *, quiet: bool) -> Iterator[bytes]:
    """Yield a command's stdout; raise after its end if it failed, so that nothing is kept."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=dict(env),
            stderr=log if quiet else None)
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(_CHUNK_BYTES):
                yield chunk
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()  # its own handler unmounts and cleans up
                process.wait()
            process.stdout.close()
        if code:
            log.seek(0)
            tail = log.read().decode("utf-8", "replace").splitlines()[-15:]
            raise CommandError("\n".join([*tail, f"{argv[0]} failed with exit status {code}"]))


def _debootstrap(
    recipe: recipes.Recipe, env: Mapping[str, str], *, quiet: bool
) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(prefix="pallet-bootstrap-") as target:
        argv = recipes.debootstrap_argv(recipe, target)
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, env=dict(env), check=False,
                              stdout=subprocess.DEVNULL if quiet else 2)
        if done.returncode:
            raise CommandError(f"debootstrap failed with exit status {done.returncode}")
        for path, text, mode in recipes.hook_files():
            with open(target + path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(target + path, int(mode, 8))
        if recipe.mirrors:
            with open(f"{target}/etc/apt/sources.list", "w", encoding="utf-8") as file:
                file.write("\n".join([*recipe.mirrors, ""]))
        yield from tree_tar(target, epoch(env))


def epoch(env: Mapping[str, str]) -> int | None:
    """Return SOURCE_DATE_EPOCH, None where it is not set.

    Raises:
        CommandError: it is not a number.
    """
    text = env.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdigit():
        raise CommandError(f"SOURCE_DATE_EPOCH is not a number: {text}")
    return int(text) if text else None


def tree_tar(root: str, clamp: int | None) -> Iterator[bytes]:
    """Yield a directory as a tar stream: sorted, numeric owners, times not after ``clamp``."""
    def cleaned(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        top = info.name.split("/")[1:2]
        if info.name.startswith(("./var/cache/apt/archives/", "./var/lib/apt/lists/")) and (
                info.isfile()):
            return None
        if top and top[0] in ("proc", "sys", "dev") and info.name.count("/") > 1:
            return None
        info.uname = info.gname = ""
        if clamp is not None:
            info.mtime = min(int(info.mtime), clamp)
        return info

    buffer = _ChunkBuffer()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for directory, names, files in os.walk(root):
            names.sort()
            relative = os.path.relpath(directory, root)
            archive.add(directory, "./" + ("" if relative == "." else relative),
                        recursive=False, filter=cleaned)
            links = [name for name in names if os.path.islink(os.path.join(directory, name))]
            for name in sorted([*files, *links]):
                path = os.path.join(directory, name)
                archive.add(path, "./" + os.path.relpath(path, root), recursive=False,
                            filter=cleaned)
                yield from buffer.take()
            names[:] = [name for name in names if name not in links]
    yield from buffer.take()


class _ChunkBuffer(io.RawIOBase):
    """Collects what tarfile writes until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> list[bytes]:
        """Return and forget what was written."""
        parts, self._parts = self._parts, []
        return parts


def busybox_tar(env: Mapping[str, str]) -> tuple[str, Iterator[bytes]]:
    """Return the package's name and version, and the image's tar stream.

    Raises:
        CommandError: there is no static busybox and none can be fetched.
    """
    program, origin = _find_busybox()
    applets = _applets(program)
    return origin, iter([_busybox_archive(program, applets, epoch(env) or 0)])


def _find_busybox() -> tuple[bytes, str]:
    for path in _BUSYBOX_PATHS:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            data = file.read()
            if recipes.is_static_elf(data):
                version = _output(["dpkg-query", "-W", "-f=${Package} ${Version}",
                                   "busybox-static"]).strip()
                return data, version or path
    return _download_busybox()


def _download_busybox() -> tuple[bytes, str]:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise CommandError("a busybox image needs a static busybox, and apt-get to fetch one\n"
                           "Install it with your distribution's package busybox-static")
    with tempfile.TemporaryDirectory(prefix="pallet-bootstrap-") as folder:
        # apt fetches as its own user where it can; it must be able to write here.
        os.chmod(folder, 0o755)
        done = subprocess.run(
            ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "busybox-static"],
            cwd=folder, capture_output=True, text=True, check=False)
        packages = [name for name in os.listdir(folder) if name.endswith(".deb")]
        if done.returncode or not packages:
            raise CommandError(f"{done.stderr.strip()}\ncannot download busybox-static\n"
                               "Install it with: apt-get install busybox-static")
        package = f"{folder}/{packages[0]}"
        version = _output(["dpkg-deb", "-f", package, "Version"]).strip()
        unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", package],
                                  capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith("bin/busybox"):
                file = archive.extractfile(member)
                if file is not None:
                    return file.read(), f"busybox-static {version}"
    raise CommandError(f"{packages[0]} holds no busybox")


def _applets(program: bytes) -> list[str]:
    """Return the names the program answers to, by asking it."""
    with tempfile.TemporaryDirectory(prefix="pallet-bootstrap-") as folder:
        path = f"{folder}/busybox"
        with open(path, "wb") as file:
            file.write(program)
        os.chmod(path, 0o755)
        done = subprocess.run([path, "--list"], capture_output=True, text=True, check=False)
    names = sorted(set(done.stdout.split()) - {"busybox"})
    if "sh" not in names:
        raise CommandError("the static busybox has no shell")
    return names


def _busybox_archive(program: bytes, applets: list[str], mtime: int) -> bytes:
    entries: list[tuple[str, tarfile.TarInfo, bytes]] = []

    def add(name: str, mode: int, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE,
            link: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.mode, info.type, info.linkname, info.mtime = mode, kind, link, mtime
        info.size = len(data)
        entries.append((name, info, data))

    for name, mode in recipes.BUSYBOX_DIRECTORIES:
        add(name, mode, kind=tarfile.DIRTYPE)
    for name, mode, text in recipes.BUSYBOX_FILES:
        add(name, mode, text.encode())
    add("bin/busybox", 0o755, program)
    for name in applets:
        add(f"bin/{name}", 0o777, kind=tarfile.SYMTYPE, link="busybox")
    add("usr/bin/env", 0o777, kind=tarfile.SYMTYPE, link="../../bin/env")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for _, info, data in sorted(entries, key=lambda entry: entry[0]):
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
