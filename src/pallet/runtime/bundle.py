"""An OCI bundle for a runtime program: what the native runtime does itself, written down.

Owns   config.json and process.json: the user resolved, HOME, the init, the network namespace.
Runs   in a shim. Pure but for reading the container's passwd and group files.
Spec   runtime-spec bundle.md, config.md.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import SyscallError
from pallet.linux import safepath
from pallet.runtime import user
from pallet.runtime.failure import StartFailureError
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Sequence

_INIT_PATH = "/sbin/docker-init"
_MAX_DATABASE_BYTES = 16 * 1024 * 1024


def _read(root_fd: int, path: str) -> str:
    try:
        fd = safepath.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except SyscallError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _MAX_DATABASE_BYTES).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def resolve_process(
    process: oci.Process, name: str, group_add: Sequence[str], root_fd: int
) -> oci.Process:
    """Return ``process`` with numbers for its user, and HOME.

    Args:
        name: as ``user.resolve`` takes it.
        root_fd: the container's root directory.

    Raises:
        StartFailureError: unknown user or group.
    """
    identity = user.resolve(name, group_add, _read(root_fd, "/etc/passwd"),
                            _read(root_fd, "/etc/group"))
    env = process.env
    if not any(entry.startswith("HOME=") and entry != "HOME=" for entry in env):
        env = [*env, f"HOME={identity.home}"]
    numbers = msgspec.structs.replace(
        process.user, uid=identity.uid, gid=identity.gid, additional_gids=list(identity.groups))
    return msgspec.structs.replace(process, user=numbers, env=env)


def write_config(
    spec: oci.Spec, path: str, *, process: oci.Process, rootfs: str, netns: str, init: str | None,
) -> None:
    """Write config.json.

    Args:
        process: the resolved process.
        rootfs: the root directory, absolute.
        netns: path of the network namespace to join, "" for what ``spec`` says.
        init: path of a tini-like program on the host, or None.

    Raises:
        StartFailureError: ``init`` is "": Pallet's own init is the native runtime's.
    """
    mounts, linux = spec.mounts, spec.linux
    if init is not None:
        if not init:
            message = ("an init program is needed with this runtime: install tini, or set "
                       "init-path in the daemon's configuration")
            raise StartFailureError(message, plain=True)
        mounts = [*mounts, oci.Mount(destination=_INIT_PATH, type="bind", source=init,
                                     options=["bind", "ro"])]
        process = msgspec.structs.replace(process, args=[_INIT_PATH, "--", *process.args])
    if netns:
        linux = msgspec.structs.replace(linux, namespaces=[
            msgspec.structs.replace(entry, path=netns) if entry.type == "network" else entry
            for entry in linux.namespaces])
    root = oci.Root(path=rootfs, readonly=spec.root.readonly if spec.root else False)
    document = msgspec.structs.replace(spec, process=process, mounts=mounts, linux=linux, root=root)
    with open(path, "wb", buffering=0) as file:
        file.write(msgspec.json.encode(document))


def make_cwd(root_fd: int, cwd: str) -> None:
    """Make a missing working directory, as the native runtime does.

    Raises:
        StartFailureError: Docker's "Cannot mkdir: … is not a directory"; plain.
    """
    try:
        os.close(safepath.make_directories(root_fd, cwd))
    except SyscallError as error:
        message = f"Cannot mkdir: {cwd} is not a directory"
        raise StartFailureError(message, code=error.errno or 0, path=cwd, plain=True) from error
