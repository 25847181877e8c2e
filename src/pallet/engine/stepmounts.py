"""What a step of a build has mounted, as things of this host: layers, directories, files, sockets.

Owns   the files that a step is given for its time: secrets and here-documents (in memory: on tmpfs,
       never on a disk), sockets of agents, and the mount points it lacks.
Runs   on the loop; ``StepFiles.make`` and ``remove`` in worker threads.
Spec   BuildKit's ``RUN --mount`` (dockerfile reference).
"""

from __future__ import annotations

import os
import posixpath
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from pallet.errors import SyscallError
from pallet.linux import safepath
from pallet.linux.statfs import is_tmpfs
from pallet.runtime.layerview import TYPE as LAYERS
from pallet.spec.runtime import Mount
from pallet.supervisor.agentrelay import AgentRelay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.mounts import RootMount
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.agentrelay import Dial
    from pallet.types import DiffID

_MEMORY = "/dev/shm"


class MountWish(Protocol):
    """``build.ports.StepMount``, which engine may not import."""

    @property
    def target(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def layers(self) -> Sequence[str]: ...
    @property
    def subpath(self) -> str: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def mode(self) -> int | None: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def dial(self) -> Dial | None: ...
    @property
    def snapshot(self) -> str: ...


class StepFiles:
    """The mounts of one step, from ``make`` to ``remove``."""

    def __init__(self, step_id: str, wishes: Sequence[MountWish], snapshotter: Snapshotter,
                 shim_dir: str) -> None:
        self._id = step_id
        self._wishes = sorted(wishes, key=lambda wish: wish.target.rstrip("/").count("/"))
        self._snapshotter = snapshotter
        self._shim_dir = shim_dir
        self._memory = ""
        self._scratch: list[str] = []
        self._mounts: list[Mount] = []
        self._points: list[tuple[str, bool]] = []
        self._relays: list[AgentRelay] = []

    def make(self) -> None:
        """Make everything; blocking.

        Raises:
            OSError: the run directory cannot be written.
            LayerNotFoundError: a layer has gone.
        """
        for number, wish in enumerate(self._wishes):
            if wish.kind == "tmpfs":
                self._mounts.append(_tmpfs(wish))
                self._points.append((wish.target, True))
            elif wish.kind == "overlay":
                self._mounts.append(self._layers(number, wish))
            elif wish.kind == "bind":
                self._bind(wish.source, wish.target, wish.readonly)
            elif wish.kind == "file":
                self._bind(self._file(number, wish), wish.target, True)
            elif wish.dial is not None:
                relay = AgentRelay(
                    f"{self._private()}/{number}.sock", wish.dial, owner=(wish.uid, wish.gid),
                    mode=0o600 if wish.mode is None else wish.mode)
                self._relays.append(relay)
                self._bind(relay.path, wish.target, True)

    def mounts(self) -> list[Mount]:
        """The mounts for the runtime, from shallow to deep."""
        for relay in self._relays:
            relay.serve()
        return self._mounts

    def root(self, root: RootMount) -> RootMount:
        """Put the mount points below all layers, so that none shows in the layer that the step makes."""
        if not self._points or root.upper is None or not root.lower:
            return root
        own = f"{posixpath.dirname(root.upper)}/points"
        for target, directory in self._points:
            path = os.path.normpath(f"/{target}").lstrip("/")
            where = f"{root.base_dir}/{own}/{path}"
            with suppress(FileExistsError, NotADirectoryError):
                os.makedirs(where if directory else posixpath.dirname(where), mode=0o755, exist_ok=True)
                if not directory:
                    os.close(os.open(where, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        return msgspec.structs.replace(root, lower=[*root.lower, own])

    def remove(self) -> None:
        """Take away what ``make`` made."""
        for relay in self._relays:
            relay.close()
        for key in self._scratch:
            self._snapshotter.remove(key)
        if self._memory:
            shutil.rmtree(self._memory, ignore_errors=True)

    def _bind(self, source: str, target: str, readonly: bool) -> None:
        options = ["rbind", "rprivate", "nosuid", "nodev", "ro" if readonly else "rw"]
        self._mounts.append(Mount(destination=target, type="bind", source=source, options=options))
        self._points.append((target, os.path.isdir(source)))

    def _layers(self, number: int, wish: MountWish) -> Mount:
        layers: list[DiffID] = list(wish.layers)  # type: ignore[arg-type]
        if wish.readonly:
            root = self._snapshotter.root_mount_of_layers(layers)
        else:
            key = wish.snapshot or f"{self._id}-{number}"
            if not wish.snapshot:
                self._scratch.append(key)
                self._snapshotter.prepare(key, layers)
            root = self._snapshotter.root_mount(key, volatile=True)
        # Without lower directories it is a copy of everything, to be mounted as it is.
        lower = root.lower or [root.upper or ""]
        options = ["lower=" + ":".join(lower), f"subpath={wish.subpath}",
                   "ro" if wish.readonly else "rw", *(f"option={item}" for item in root.options)]
        if root.upper is not None and root.lower:
            options += [f"upper={root.upper}", f"work={root.work}"]
        self._points.append((wish.target, _is_directory(root, wish.subpath)))
        return Mount(destination=wish.target, type=LAYERS, source=root.base_dir, options=options)

    def _private(self) -> str:
        """A directory on tmpfs that only root enters."""
        if not self._memory:
            if is_tmpfs(self._shim_dir):
                self._memory = f"{self._shim_dir}/step"
                os.mkdir(self._memory, 0o700)
            else:
                # The run directory lies on a disk, as in no usual installation.
                self._memory = memory_of(self._id)
                os.mkdir(self._memory, 0o700)
        return self._memory

    def _file(self, number: int, wish: MountWish) -> str:
        path = f"{self._private()}/{number}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(wish.data)
            os.fchown(fd, wish.uid, wish.gid)
            os.fchmod(fd, 0o400 if wish.mode is None else wish.mode)
        return path


def memory_of(step_id: str) -> str:
    """Where a step's secrets lie whose run directory is on a disk: found again by who sweeps after a kill."""
    return f"{_MEMORY}/pallet-step-{step_id}"


def _is_directory(root: RootMount, path: str) -> bool:
    """Whether the topmost layer that has something at ``path`` has a directory there."""
    for lower in root.lower or [root.upper or ""]:
        root_fd = os.open(os.path.join(root.base_dir, lower), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = safepath.open_in_root(root_fd, path)
        except SyscallError:
            continue
        finally:
            os.close(root_fd)
        try:
            return safepath.is_directory(fd)
        finally:
            os.close(fd)
    return True


def _tmpfs(wish: MountWish) -> Mount:
    options = ["nosuid", "nodev", f"mode={0o1777 if wish.mode is None else wish.mode:o}"]
    if wish.size_bytes:
        options.append(f"size={wish.size_bytes}")
    return Mount(destination=wish.target, type="tmpfs", source="tmpfs", options=options)
