"""Creating a container: config merge, checks, name, writable layer, volumes, record.

Engine API ContainerCreate; semantics rows "merge", "container names", "modes".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.engine import imageconfig, links, logconfig, merge, names, resources, security
from pallet.engine.container import Container
from pallet.errors import InvalidParameterError
from pallet.image import variants
from pallet.network.model import Endpoint
from pallet.network.view import check_request
from pallet.spec import platform as platforms
from pallet.spec.engine.container import ContainerCreateResponse
from pallet.spec.engine.wire import given

if TYPE_CHECKING:
    from pallet.config import Config
    from pallet.engine.files import ContainerFiles
    from pallet.engine.imageconfig import ImageDefaults
    from pallet.engine.index import ContainerIndex
    from pallet.engine.mountplan import MountPlanner
    from pallet.engine.store import ContainerStore
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.config import ContainerConfig
    from pallet.spec.engine.host_config import HostConfig
    from pallet.spec.engine.network import EndpointSettings
    from pallet.spec.engine.options import CreateOptions
    from pallet.storage.snapshot import Snapshotter


def _endpoint_request(options: CreateOptions, mode: str) -> EndpointSettings | None:
    """The settings of the one network that a container may be created with.

    Raises:
        InvalidParameterError: more networks than its mode allows.
    """
    wanted = options.networking.endpoints_config or {}
    others = [name for name in wanted if name not in {mode, "default" if mode == "bridge" else mode}]
    if (others and mode in {"host", "none"}) or (mode.startswith("container:") and wanted):
        msg = "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        raise InvalidParameterError(msg)
    for settings in wanted.values():
        if settings is not None:
            return settings
    return None


class Creator:
    """Makes containers."""

    def __init__(
        self, *, config: Config, cgroup_v2: bool, index: ContainerIndex, store: ContainerStore,
        images: ImageStore, defaults: ImageDefaults, snapshotter: Snapshotter, files: ContainerFiles,
        mounts: MountPlanner,
    ) -> None:
        self._config = config
        self._cgroup_v2 = cgroup_v2
        self._index = index
        self._store = store
        self._images = images
        self._defaults = defaults
        self._snapshotter = snapshotter
        self._files = files
        self._mounts = mounts

    async def create(self, options: CreateOptions) -> ContainerCreateResponse:
        """See ``api.backends.ContainerBackend.create``."""
        reference = options.config.image
        if not reference:
            msg = "no image specified: invalid reference format"
            raise InvalidParameterError(msg)
        image = self._image(reference, options.platform)
        self._defaults.check_platform(image, options.platform, reference)
        container_id = names.new_id()
        # What the client asked for is checked before the image's defaults blur whose wish it was.
        merge.check(options.config, options.host_config)
        config = merge.merge(options.config, self._defaults.of(image))
        host = self._host_defaults(options.host_config)
        # Only what the client asked for is in the way of sharing a network, not what the image exposes.
        merge.check(msgspec.structs.replace(config, exposed_ports=options.config.exposed_ports), host)
        config = self._config_defaults(config, host, container_id)
        settings = _endpoint_request(options, host.network_mode)
        if settings is not None and settings.mac_address and not given(config.mac_address):
            config = msgspec.structs.replace(config, mac_address=settings.mac_address)
        settings = _endpoint_request(options, host.network_mode)
        warnings = [*imageconfig.platform_warnings(image, options.platform),
                    *self._check(config, host, settings)]
        name = names.check(options.name) if options.name else names.generate(self._index.is_taken, container_id)
        self._index.reserve_name(name, container_id)
        try:
            container = Container(
                id=container_id, name=name, created_at_ns=time.time_ns(), image_id=image.id,
                image_ref=reference, layers=image.diff_ids, config=config, host_config=host,
                driver=self._snapshotter.name,
                mac=(settings.mac_address if settings is not None else "") or given(config.mac_address) or "")
            container.ended.set()
            if not host.network_mode.startswith("container:"):
                container.endpoint = Endpoint(network_name=host.network_mode, network_id="", endpoint_id="")
            if self._snapshotter.copies:
                await run_blocking(self._snapshotter.prepare, container_id, image.diff_ids)
            else:
                self._snapshotter.prepare(container_id, image.diff_ids)
            self._files.prepare(container_id)
            if self._mounts.has_any(container):
                container.mounts = await self._mounts.plan(container, image)
            self._store.save(container)
        except BaseException:
            self._undo(container_id)
            self._index.release_name(name)
            self._mounts.settle(container_id)
            raise
        self._index.add(container)
        self._mounts.settle(container_id)
        self._store.emit(container, "create")
        return ContainerCreateResponse(id=container_id, warnings=warnings)

    def _undo(self, container_id: str) -> None:
        self._snapshotter.remove(container_id)
        self._files.remove(container_id)

    def _image(self, reference: str, platform: str) -> Image:
        """The image of a name, for a platform where one is asked for and here."""
        image = self._images.resolve(reference)
        if not platform:
            return image
        return variants.choose(platforms.parse(platform), variants.of_name(self._images, reference)) or image

    def _host_defaults(self, host: HostConfig) -> HostConfig:
        """Fill in what the daemon decides, as inspect shows it."""
        mode = host.network_mode
        changes = {
            "network_mode": "bridge" if mode in {"", "default"} else mode,
            "log_config": logconfig.resolve(host.log_config, self._config),
            "shm_size": host.shm_size or self._config.default_shm_size_bytes,
            "ipc_mode": host.ipc_mode or "private",
            "cgroupns_mode": host.cgroupns_mode or self._cgroupns_default(host),
            "runtime": given(host.runtime) or self._config.default_runtime,
        }
        if host.masked_paths is None or host.readonly_paths is None:
            privileged = host.privileged
            if host.masked_paths is None:
                changes["masked_paths"] = [] if privileged else list(security.MASKED_PATHS)
            if host.readonly_paths is None:
                changes["readonly_paths"] = [] if privileged else list(security.READONLY_PATHS)
        return msgspec.structs.replace(host, **changes)

    def _cgroupns_default(self, host: HostConfig) -> str:
        return "private" if self._cgroup_v2 and not host.privileged else "host"

    def _config_defaults(self, config: ContainerConfig, host: HostConfig, container_id: str) -> ContainerConfig:
        hostname = config.hostname
        if not hostname and not host.network_mode.startswith("container:"):
            import socket

            hostname = socket.gethostname() if "host" in {host.network_mode, host.uts_mode} else container_id[:12]
        return msgspec.structs.replace(config, hostname=hostname)

    def _check(self, config: ContainerConfig, host: HostConfig, settings: EndpointSettings | None) -> list[str]:
        """Raise for impossible settings; return Docker's warnings for those that have no effect."""
        resources.check(host)
        known = {"pallet", *(runtime.name for runtime in self._config.runtimes)}
        if (runtime := given(host.runtime)) not in known:
            msg = f"unknown or invalid runtime name: {runtime}"
            raise InvalidParameterError(msg)
        check_request(config, host, settings)
        security.check(host)
        links.check(self._index, host.links)
        if given(host.storage_opt):
            msg = ("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
            raise InvalidParameterError(msg)
        return resources.warnings(host)
