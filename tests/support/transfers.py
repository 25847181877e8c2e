"""The stores and transfers of a daemon, without the daemon: what pull and push tests use."""

from __future__ import annotations

import asyncio
import http.client
import io
import tarfile
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.config import RegistryConfig
from pallet.paths import DataPaths
from pallet.spec.reference import parse_normalized
from pallet.storage.content import ContentStore
from pallet.storage.leases import Lease
from pallet.storage.metadata import Metadata
from pallet.storage.overlay import OverlaySnapshotter
from pallet.supervisor.client import Supervisor
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.pull import PullRequest
from pallet.transfer.service import Transfers
from tests.support.registry import BuiltImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.platform import Platform
    from pallet.transfer.image_pull import PulledImage


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A layer of plain files, the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def upload(authority: str, repository: str, tag: str, image: BuiltImage,
           headers: dict[str, str] | None = None) -> None:
    """Put an image into a registry by plain requests."""
    host, _, port = authority.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as connection:
        def call(method: str, path: str, body: bytes, kind: str) -> int:
            connection.request(method, path, body, {"Content-Type": kind, **(headers or {})})
            reply = connection.getresponse()
            reply.read()
            return reply.status

        for digest, data in image.blobs.items():
            path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
            assert call("POST", path, data, "application/octet-stream") == 201
        path = f"/v2/{repository}/manifests/{tag}"
        assert call("PUT", path, image.manifest, image.media_type) == 201


@dataclass
class Site:
    """One data root with everything a pull needs."""

    paths: DataPaths
    content: ContentStore
    metadata: Metadata
    snapshotter: OverlaySnapshotter
    supervisor: Supervisor
    transfers: Transfers
    messages: list[ProgressMessage] = field(default_factory=list)
    pulled: list[PulledImage] = field(default_factory=list)

    async def pull(self, name: str, *, credentials: LoginCredentials | None = None,
                   platform: Platform | None = None) -> list[str]:
        """Pull and return the texts of the messages, byte counts left out."""
        reference = parse_normalized(name)
        self.messages.clear()

        async def record(pulled: PulledImage) -> bool:
            await asyncio.to_thread(self.snapshotter.settle, pulled.config.rootfs.diff_ids)
            self.pulled.append(pulled)
            return True

        await self.transfers.puller.pull(
            PullRequest(reference=reference, credentials=credentials or LoginCredentials(),
                        platform=platform, all_tags=reference.is_name_only, headers={}),
            self.messages.append, record)
        return self.texts()

    def texts(self) -> list[str]:
        """``id: status`` of every message without a byte count."""
        return [f"{message.id}: {message.status}" if isinstance(message.id, str)
                else str(message.status)
                for message in self.messages if not isinstance(message.progress, str)]

    def file(self, diff_id: str, name: str) -> bytes:
        """Content of a file in an unpacked layer."""
        for layer in self.paths.layers.iterdir():
            path = layer / "fs" / name
            if path.is_file() and self.snapshotter.has_layer(diff_id):  # type: ignore[arg-type]
                return path.read_bytes()
        raise AssertionError(name)

    def assert_nothing_half_made(self) -> None:
        """No ingest, no draft, no lease."""
        assert list(self.paths.ingest.iterdir()) == []
        assert list(self.paths.drafts.iterdir()) == []
        assert self.metadata.leases() == {}


@asynccontextmanager
async def site(root: Path, *, retry_base_s: float = 0.001, environ: dict[str, str] | None = None,
               **registry: object) -> AsyncIterator[Site]:
    """Make a site below ``root``; ``registry`` are fields of ``RegistryConfig``."""
    paths = DataPaths(root)
    root.mkdir(parents=True, exist_ok=True)
    content, metadata = ContentStore(paths), Metadata(paths.database)
    snapshotter = OverlaySnapshotter(paths, metadata)
    supervisor = Supervisor()
    await supervisor.start()
    transfers = Transfers(
        RegistryConfig(**registry), content=content,  # type: ignore[arg-type]
        snapshotter=snapshotter, workers=supervisor, lease=lambda: Lease(metadata),
        environ=environ or {}, retry_base_s=retry_base_s)
    try:
        yield Site(paths, content, metadata, snapshotter, supervisor, transfers)
    finally:
        await transfers.close()
        await supervisor.close()
        snapshotter.close()
        metadata.close()
