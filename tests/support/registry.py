"""Registries on loopback: Debian's docker-registry and Pallet's own, and images pushed into them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.support.probes import which
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def digest(data: bytes) -> str:
    """``sha256:<hex>`` of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An OCI image as bytes: blobs by digest and the manifest."""

    manifest: bytes
    blobs: dict[str, bytes]
    media_type: str = MANIFEST

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest(self.manifest)


def build_image(
    layers: Sequence[bytes],
    *,
    compression: str = "gzip",
    architecture: str = "amd64",
    **config: Any,
) -> BuiltImage:
    """Make an image of uncompressed layer tars; ``config`` is the image-spec ``config`` object."""
    blobs, descriptors = {}, []
    for tar in layers:
        data = gzip.compress(tar, 1, mtime=0) if compression == "gzip" else tar
        suffix = "+gzip" if compression == "gzip" else ""
        blobs[digest(data)] = data
        descriptors.append({"mediaType": LAYER + suffix, "digest": digest(data), "size": len(data)})
    document = {
        "architecture": architecture,
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in layers]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "test"} for _ in layers],
    }
    raw = json.dumps(document).encode()
    blobs[digest(raw)] = raw
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(raw), "size": len(raw)},
        "layers": descriptors,
    }
    return BuiltImage(manifest=json.dumps(manifest).encode(), blobs=blobs)


@dataclass(slots=True)
class Registry:
    """A registry process on loopback. Use as a context."""

    root: Path
    user: str | None = None
    password: str | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:<port>``, as in an image reference."""
        return f"127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        """The server's command."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Start and wait until it answers."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        try:
            eventually(self._answers, what="registry answers")
        except AssertionError as error:
            error.add_note((self.root / "log").read_text(errors="replace"))
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"the registry ended with {self.process.returncode}"
        return self.status("GET", "/v2/") in (200, 401)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop and delete its storage."""
        if self.process:
            self.process.terminate()
            self.process.wait(20)
        shutil.rmtree(self.root, ignore_errors=True)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One call, with credentials if the registry has any."""
        sent = dict(headers or {})
        if self.user:
            sent["Authorization"] = basic(self.user, self.password or "")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

    def status(self, method: str, path: str) -> int:
        """Status code of one call."""
        return self.request(method, path)[0]

    def push(self, repository: str, tag: str, image: BuiltImage) -> str:
        """Upload ``image`` and return its full reference by tag."""
        for key, data in image.blobs.items():
            if self.request("HEAD", f"/v2/{repository}/blobs/{key}")[0] == 200:
                continue
            code, headers, body = self.request("POST", f"/v2/{repository}/blobs/uploads/")
            assert code == 202, body
            location = headers["location"].replace(f"http://{self.address}", "")
            joint = "&" if "?" in location else "?"
            code, _, body = self.request(
                "PUT", f"{location}{joint}digest={key}", data,
                {"Content-Type": "application/octet-stream"},
            )  # fmt: skip
            assert code == 201, body
        code, _, body = self.request(
            "PUT", f"/v2/{repository}/manifests/{tag}", image.manifest,
            {"Content-Type": image.media_type},
        )  # fmt: skip
        assert code == 201, body
        return f"{self.address}/{repository}:{tag}"


def basic(user: str, password: str) -> str:
    """The value of a basic ``Authorization`` header."""
    import base64

    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass(slots=True)
class DebianRegistry(Registry):
    """Debian's docker-registry, configured by a file under its root."""

    def argv(self) -> list[str]:
        """``docker-registry serve FILE``."""
        auth = ""
        if self.user:
            hashed = bcrypt_line(self.user, self.password or "")
            (self.root / "users").write_text(hashed)
            auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {self.root}/users\n"
        (self.root / "config.yml").write_text(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.root}/store\n"
            "  delete:\n    enabled: true\n"
            f"http:\n  addr: 127.0.0.1:{self.port}\n  secret: test\n{auth}"
        )
        return [which("docker-registry") or "docker-registry", "serve",
                str(self.root / "config.yml")]  # fmt: skip


def bcrypt_line(user: str, password: str) -> str:
    """An htpasswd line with bcrypt, the only hash that docker-registry takes."""
    import ctypes

    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    salt = b"$2b$05$" + b"abcdefghijklmnopqrstuu"
    return f"{user}:{crypt(password.encode(), salt).decode().replace('$2b$', '$2y$')}\n"


@dataclass(slots=True)
class PalletRegistry(Registry):
    """``pallet registry serve`` from this source tree; ``workers`` 0 is as many as it takes by itself."""

    workers: int = 0

    def argv(self) -> list[str]:
        """Own storage root and port."""
        from tests.support.daemon import pallet_command

        return [*pallet_command(), "registry", "serve", "--address", self.address,
                "--root", str(self.root / "store"), "--workers", str(self.workers)]  # fmt: skip
