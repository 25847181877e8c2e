"""A container's own files on the host: hosts, hostname, resolv.conf, log.

Semantics rows "hosts file", "resolv.conf", "modes". The three text files are written at each start
and bind-mounted by the runtime; a resolv.conf that the user edited is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.engine import links
from pallet.network import files as texts

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.config import Config
    from pallet.engine.container import Container
    from pallet.engine.index import ContainerIndex
    from pallet.engine.joins import Joins
    from pallet.engine.tasks import Tasks
    from pallet.network.model import Endpoint
    from pallet.paths import DataPaths

logger = logging.getLogger(__name__)

_REMOVAL_DELAY_S = 0.1
_OURS_NS = 1_000_000_000
"""Modification time of a resolv.conf as written here; any other means that the user edited it."""


@dataclass(frozen=True, slots=True)
class FilePaths:
    """Paths as inspect shows them."""

    hosts: str
    hostname: str
    resolv_conf: str
    log: str


class ContainerFiles:
    """Writes and removes the files of containers."""

    def __init__(
        self, paths: DataPaths, config: Config, joins: Joins, index: ContainerIndex, tasks: Tasks
    ) -> None:
        self._paths = paths
        self._config = config
        self._joins = joins
        self._index = index
        self._tasks = tasks
        self._doomed: list[str] = []
        self._root = os.fspath(paths.containers)
        self._host_resolver: tuple[tuple[int, int], texts.Resolver] | None = None

    def directory(self, container_id: str) -> str:
        """The container's directory."""
        return f"{self._root}/{container_id}"

    def log_path(self, container_id: str) -> Path:
        """The json-file log."""
        return self._paths.containers / container_id / f"{container_id}-json.log"

    def prepare(self, container_id: str) -> None:
        """Make the directory."""
        os.makedirs(self.directory(container_id), mode=0o710, exist_ok=True)

    def paths(self, container: Container) -> FilePaths:
        """Paths of the container's files; the text files appear with the first start."""
        base = self.directory(container.id)
        ran = bool(container.started_at_ns)
        has_log = container.host_config.log_config.type == "json-file"
        return FilePaths(
            hosts=f"{base}/hosts" if ran else "", hostname=f"{base}/hostname" if ran else "",
            resolv_conf=f"{base}/resolv.conf" if ran else "",
            log=os.fspath(self.log_path(container.id)) if ran and has_log else "")

    def write(self, container: Container, endpoint: Endpoint | None) -> dict[str, str]:
        """Write what the container's ``/etc`` gets; return container path → host path.

        Raises:
            OSError: the data root cannot be written.
            InvalidParameterError: ``host-gateway`` without a gateway.
        """
        donor = self._joins.donor(container, "network")
        owner = donor or container
        base = self.directory(owner.id)
        if donor is None:
            self._write_hosts(container, endpoint, base)
            self._write_resolv_conf(container, endpoint, base)
            _write(f"{base}/hostname", texts.hostname_file(container.hostname))
        return {"/etc/resolv.conf": f"{base}/resolv.conf", "/etc/hostname": f"{base}/hostname",
                "/etc/hosts": f"{base}/hosts"}

    def write_step(self, container: Container, endpoint: Endpoint | None) -> dict[str, str]:
        """Write what a build's command gets; as ``write`` but for BuildKit's ``/etc/hosts``."""
        found = self.write(container, endpoint)
        _write(found["/etc/hosts"], texts.step_hosts_file(
            hostname=container.hostname, extra_hosts=container.host_config.extra_hosts or (),
            host_gateway=endpoint.gateway if endpoint is not None else ""))
        del found["/etc/hostname"]  # the image's own
        return found

    def _write_hosts(self, container: Container, endpoint: Endpoint | None, base: str) -> None:
        host = container.host_config
        if host.network_mode == "host":
            with open("/etc/hosts", encoding="utf-8") as source:
                text = source.read()
            for extra in host.extra_hosts or ():
                name, address = texts.split_extra_host(extra)
                text += f"{'127.0.0.1' if address == texts.HOST_GATEWAY else address}\t{name}\n"
        else:
            addresses = [endpoint.ip, endpoint.ip6] if endpoint is not None else []
            text = texts.hosts_file(
                hostname=container.hostname, domainname=container.config.domainname, addresses=addresses,
                extra_hosts=host.extra_hosts or (), host_gateway=endpoint.gateway if endpoint is not None else "")
            if host.links:
                text += "".join(links.host_lines(links.resolve(self._index, container)))
        _write(f"{base}/hosts", text)

    def _write_resolv_conf(self, container: Container, endpoint: Endpoint | None, base: str) -> None:
        host, config = container.host_config, self._config
        path = f"{base}/resolv.conf"
        if container.started_at_ns and _edited(path):
            return
        text = texts.resolv_conf(
            self._resolver(), servers=host.dns or config.dns, search=host.dns_search or config.dns_search,
            options=host.dns_options or config.dns_options, ipv6=bool(endpoint and endpoint.ip6),
            keep_loopback=host.network_mode == "host")
        _write(path, text)
        os.utime(path, ns=(_OURS_NS, _OURS_NS))

    def _resolver(self) -> texts.Resolver:
        """The host's resolv.conf, read again only when it changed."""
        path = texts.HOST_RESOLV_CONF
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return texts.Resolver()
        stamp = (status.st_ino, status.st_mtime_ns)
        if self._host_resolver is None or self._host_resolver[0] != stamp:
            resolver = texts.parse_resolv_conf(_read(path))
            if texts.is_local_stub(resolver) and os.path.exists(texts.SYSTEMD_RESOLV_CONF):
                resolver = texts.parse_resolv_conf(_read(texts.SYSTEMD_RESOLV_CONF))
            self._host_resolver = (stamp, resolver)
        return self._host_resolver[1]

    def remove_later(self, container_id: str) -> None:
        """Delete the directory and everything in it, together with others that go these days.

        A thread for each would cost the removal more than all of the rest; a daemon that is killed
        before leaves a directory without a record, which the next one sweeps.
        """
        self._doomed.append(self.directory(container_id))
        if len(self._doomed) == 1:
            asyncio.get_running_loop().call_later(_REMOVAL_DELAY_S, self._start_removal)

    def _start_removal(self) -> None:
        self._tasks.spawn(self.flush(), "files of removed containers")

    async def flush(self) -> None:
        """Delete what ``remove_later`` has put off."""
        doomed, self._doomed = self._doomed, []
        if doomed:
            await run_blocking(_remove_all, doomed)

    def remove(self, container_id: str) -> None:
        """Delete the directory and everything in it now; nothing when it is gone already."""
        _remove_all([self.directory(container_id)])

    def known(self) -> list[str]:
        """Ids that have a directory: the sweep at start-up compares them with the records."""
        try:
            return os.listdir(self._root)
        except FileNotFoundError:
            return []


def _remove_all(directories: list[str]) -> None:
    for base in directories:
        try:
            for name in os.listdir(base):
                os.unlink(f"{base}/{name}")
            os.rmdir(base)
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("files of a removed container stay until the next start: %s", error)


def _write(path: str, text: str) -> None:
    """Rewrite in place: a running donor's bind mount keeps seeing the same inode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _edited(path: str) -> bool:
    try:
        return os.stat(path).st_mtime_ns != _OURS_NS
    except FileNotFoundError:
        return False


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()
