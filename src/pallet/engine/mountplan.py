"""Turning wanted mounts into real ones: host directories, volumes, copy-up.

Semantics rows "volumes": order (volumes-from, binds, mounts, image volumes), ``-v`` against
``--mount``, anonymous volumes, copy-up once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.engine.container import Container, MountRecord
from pallet.engine.mountspec import (
    MountSpec,
    check_duplicates,
    parse_bind,
    parse_tmpfs,
    parse_volumes_from,
)
from pallet.engine.mounttypes import from_mount
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.layer.worker import CopyUpReply, CopyUpRequest
from pallet.spec.engine.wire import given

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.engine.index import ContainerIndex
    from pallet.engine.volumes import Volumes
    from pallet.image.model import Image
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor


class MountPlanner:
    """Plans a container's mounts at its creation and drops its volumes at its removal."""

    def __init__(
        self, *, volumes: Volumes, index: ContainerIndex, snapshotter: Snapshotter, supervisor: Supervisor,
        default_driver: str = "local",
    ) -> None:
        self._volumes = volumes
        self._index = index
        self._snapshotter = snapshotter
        self._supervisor = supervisor
        self._default_driver = default_driver

    @staticmethod
    def has_any(container: Container) -> bool:
        """Whether anything is to be planned: most containers have no mounts of their own."""
        host = container.host_config
        return bool(host.binds or given(host.mounts) or given(host.tmpfs) or host.volumes_from
                    or container.config.volumes)

    async def plan(self, container: Container, image: Image) -> list[MountRecord]:
        """Make what the container's mounts need; return them in the order of their definition.

        Raises:
            InvalidParameterError: a mount that makes no sense, or two on one destination.
        """
        specs = self._specs(container)
        check_duplicates(specs)
        records = {record.destination: record for record in self._inherited(container)}
        for record in records.values():
            if record.type == "volume":
                self._volumes.claim(record.name, container.id)
        taken = {spec.destination for spec in specs}
        for path in container.config.volumes or ():
            if path not in taken and path not in records:
                specs.append(MountSpec(type="volume", destination=path))
        made: list[str] = []
        try:
            for spec in specs:
                record = await self._make(container, spec, image)
                records[record.destination] = record
                if record.anonymous:
                    made.append(record.name)
        except BaseException:
            for name in made:
                await self._volumes.discard(name)
            raise
        return list(records.values())

    @staticmethod
    def _specs(container: Container) -> list[MountSpec]:
        host = container.host_config
        specs = [parse_bind(text, volume_driver=host.volume_driver) for text in host.binds or ()]
        specs += [from_mount(mount) for mount in given(host.mounts) or ()]
        specs += [parse_tmpfs(path, options) for path, options in (given(host.tmpfs) or {}).items()]
        return specs

    def _inherited(self, container: Container) -> Iterable[MountRecord]:
        for text in container.host_config.volumes_from or ():
            name, read_only = parse_volumes_from(text)
            for record in self._donor(name).mounts:
                if record.type != "tmpfs":
                    yield MountRecord(
                        type=record.type, source=record.source, destination=record.destination, name=record.name,
                        driver=record.driver, propagation=record.propagation, mode=record.mode,
                        anonymous=record.anonymous,  # the last container that has it takes it along
                        read_only=record.read_only if read_only is None else read_only)

    def _donor(self, name: str) -> Container:
        """Raises: InvalidParameterError for an unknown one: 404 makes the command line pull the image."""
        try:
            return self._index.get(name)
        except NotFoundError as error:
            raise InvalidParameterError(str(error)) from error

    async def _make(self, container: Container, spec: MountSpec, image: Image) -> MountRecord:
        if spec.type == "bind":
            return await run_blocking(_bind, spec)
        if spec.type == "tmpfs":
            return MountRecord(type="tmpfs", source="", destination=spec.destination, read_only=spec.read_only,
                               tmpfs_options=_tmpfs_options(spec), from_mounts=spec.from_mounts)
        if spec.source:
            self._volumes.claim(spec.source, container.id)
        volume = await self._volumes.ensure(
            spec.source, driver=spec.driver or self._default_driver, options=spec.driver_options, labels=spec.labels)
        self._volumes.claim(volume.name, container.id)
        if spec.copy_up:
            await self._copy_up(image, spec.destination, volume.mountpoint)
        source = volume.mountpoint
        if spec.subpath:
            source = await run_blocking(_inside, volume.mountpoint, spec.subpath)
        return MountRecord(
            type="volume", name=volume.name, source=source, destination=spec.destination, driver=volume.driver,
            read_only=spec.read_only, recursive_read_only=spec.recursive_read_only,
            mode="z" if spec.source and not spec.from_mounts and not spec.mode else spec.mode,
            anonymous=not spec.source, from_mounts=spec.from_mounts)

    async def _copy_up(self, image: Image, path: str, target: str) -> None:
        root = await run_blocking(self._snapshotter.root_mount_of_layers, image.diff_ids)
        request = CopyUpRequest(root=root, path=path, target=target)
        reply = await self._supervisor.run_worker("layer.copyup", request, reply_type=CopyUpReply)
        reply.result()

    async def remove_anonymous(self, container: Container) -> None:
        """Remove the volumes made for this container that no other uses (``rm -v``, ``--rm``)."""
        for mount in container.mounts:
            if mount.anonymous and not self._used_elsewhere(mount.name, container):
                await self._volumes.discard(mount.name)

    def settle(self, container_id: str) -> None:
        """The container is in the index, or its creation failed: the plan's claims end."""
        self._volumes.settle(container_id)

    def _used_elsewhere(self, volume: str, container: Container) -> bool:
        return any(user != container.id for user in self._volumes.users(volume))


def _bind(spec: MountSpec) -> MountRecord:
    """Check or make a bind's source. Blocking."""
    if not os.path.lexists(spec.source):
        if not spec.create_source:
            msg = f'invalid mount config for type "bind": bind source path does not exist: {spec.source}'
            raise InvalidParameterError(msg)
        os.makedirs(spec.source, mode=0o755, exist_ok=True)
    return MountRecord(
        type="bind", source=spec.source, destination=spec.destination, read_only=spec.read_only,
        recursive_read_only=spec.recursive_read_only, non_recursive=spec.non_recursive, mode=spec.mode,
        propagation=spec.propagation or "rprivate", from_mounts=spec.from_mounts)


def _inside(root: str, subpath: str) -> str:
    """The real path of ``subpath`` in a volume. Blocking.

    Raises:
        InvalidParameterError: it leads out of the volume, also by a symbolic link, or is missing.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(f"{real_root}/{subpath}")
    if not real.startswith(real_root + "/"):
        msg = f"cannot access path {subpath}: path is outside of the volume"
        raise InvalidParameterError(msg)
    if not os.path.lexists(real):
        msg = f"cannot access path {subpath}: no such file or directory"
        raise InvalidParameterError(msg)
    return real


def _tmpfs_options(spec: MountSpec) -> str:
    options = [spec.tmpfs_options] if spec.tmpfs_options else []
    if spec.tmpfs_size_bytes:
        options.append(f"size={spec.tmpfs_size_bytes}")
    if spec.tmpfs_mode:
        options.append(f"mode={spec.tmpfs_mode:o}")
    return ",".join(options)
