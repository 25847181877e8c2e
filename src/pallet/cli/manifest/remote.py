"""Registries as ``pallet manifest`` uses them: from the client, without a daemon.

Spec   docker CLI "manifest": TLS that is verified, or plain HTTP and any certificate with
       ``--insecure``; credentials from config.json.
"""

from __future__ import annotations

import binascii

import msgspec

from pallet.cli.errors import CommandError
from pallet.cli.references import auth_key
from pallet.client import wire
from pallet.client.credentials import find
from pallet.errors import PalletError
from pallet.spec import image as documents
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RefusedError, RegistryError, UnreachableError
from pallet.transfer.proxies import ProxySettings
from pallet.transfer.resolver import HUB_HOST, Endpoint
from pallet.transfer.transport import Transport, read_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from pallet.cli.session import Session
    from pallet.spec.image import StoredManifest
    from pallet.spec.reference import Reference
    from pallet.types import Digest

    T = TypeVar("T")


class Remote:
    """Repositories on registries. A context manager."""

    def __init__(self, session: Session, *, insecure: bool) -> None:
        self._session = session
        self._insecure = insecure
        self._transport = Transport(proxies=ProxySettings.from_environment(session.env))
        self._clients: dict[str, RepositoryClient] = {}

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._transport.close()

    def _clients_of(self, reference: Reference, actions: str) -> list[RepositoryClient]:
        host = HUB_HOST if reference.domain == "docker.io" else reference.domain
        endpoints = [Endpoint(url=f"https://{host}", insecure=self._insecure)]
        if self._insecure:
            endpoints.insert(0, Endpoint(url=f"http://{host}", insecure=True))
        stored = find(self._session.config_dir, self._session.env, auth_key(reference))
        credentials = LoginCredentials(
            username=stored.get("username", ""), password=stored.get("password", ""),
            identity_token=stored.get("identitytoken", ""),
            registry_token=stored.get("registrytoken", ""))
        return [RepositoryClient(self._transport, endpoint, reference.path,
                                 credentials=credentials, actions=actions)
                for endpoint in endpoints]

    def _try(self, reference: Reference, actions: str,
             work: Callable[[RepositoryClient], T]) -> T:
        key = f"{actions} {reference.name}"
        known = self._clients.get(key)
        failure = ""
        for client in [known] if known else self._clients_of(reference, actions):
            try:
                found = work(client)
            except UnreachableError as error:
                failure = (f'failed to configure transport: error pinging v2 registry: '
                           f'Get "{client.endpoint.url}/v2/": {error.reason}')
                continue
            except RefusedError:
                self._clients[key] = client
                raise
            self._clients[key] = client
            return found
        raise CommandError(failure)

    def manifest(self, reference: Reference) -> StoredManifest:
        """Fetch a manifest or an index.

        Raises:
            CommandError: there is none, or the registry cannot be reached.
        """
        wanted = reference.digest or reference.tag or "latest"
        try:
            return self._try(reference, "pull", lambda client: client.manifest(wanted))
        except RefusedError as error:
            if error.status in {401, 403, 404}:
                raise CommandError(f"no such manifest: {reference}") from None
            raise CommandError(str(error)) from None
        except PalletError as error:
            raise CommandError(str(error)) from None

    def entry(self, reference: Reference, stored: StoredManifest) -> dict[str, Any]:
        """An image's entry in a list: its descriptor with the platform that its config names."""
        if stored.is_index:
            raise CommandError(f"{reference} is a manifest list")
        manifest = stored.manifest()
        try:
            raw = self._try(reference, "pull", lambda client: read_document(
                client.blob(manifest.config.digest)))
            config = documents.decode_config(raw)
        except (RegistryError, PalletError) as error:
            raise CommandError(str(error)) from None
        platform = {"architecture": config.architecture, "os": config.os,
                    "os.version": config.os_version, "variant": config.variant}
        kind = ("OCIManifest" if stored.media_type == documents.OCI_MANIFEST
                else "SchemaV2Manifest")
        return {
            "Ref": str(reference),
            "Descriptor": {
                "mediaType": stored.media_type, "digest": stored.digest, "size": len(stored.raw),
                "platform": {key: value for key, value in platform.items()
                             if value or key in {"architecture", "os"}}},
            "Raw": binascii.b2a_base64(stored.raw, newline=False).decode(),
            kind: wire.decode(stored.raw)}

    def put(self, reference: Reference, name: str, raw: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag or digest; return its digest."""
        from pallet.spec import digest as digests

        stored = documents.StoredManifest(raw=raw, media_type=media_type,
                                          digest=digests.of_bytes(raw))
        try:
            self._try(reference, "push,pull", lambda client: client.put_manifest(name, stored))
        except PalletError as error:
            raise CommandError(str(error)) from None
        return stored.digest

    def mount(self, target: Reference, source: Reference, raw: bytes) -> None:
        """Give the target's repository the blobs of a manifest of another one.

        Raises:
            CommandError: the registry does not mount them.
        """
        try:
            manifest = documents.decode_manifest(raw)
            for blob in (*manifest.layers, manifest.config):
                location = self._try(target, "push,pull", lambda client, blob=blob: (  # type: ignore[misc]
                    None if client.has_blob(blob.digest) else client.start_upload(
                        mount=blob.digest, source=source.path)))
                if location is not None:
                    raise CommandError(
                        f"failed to mount blob {blob.digest} from {source.path} to {target.path}")
        except (PalletError, msgspec.MsgspecError) as error:
            raise CommandError(str(error)) from None
