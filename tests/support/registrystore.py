"""Real servers below a registry: an S3-compatible object store and PostgreSQL, and stores on them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pallet.registry.config import GcConfig, RegistryConfig, S3Config, StorageConfig
from pallet.registry.manifests import record_of
from pallet.spec import digest as digests
from tests.support.registry import free_port
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.registry.metadata.records import ManifestRecord
    from pallet.registry.store import RegistryStore
    from pallet.types import Digest

KEY, SECRET = "pallet", "pallet-secret"


def weed() -> Path | None:
    """SeaweedFS's program from its Python package."""
    path = Path(sys.executable).parent / "weed"
    return path if path.exists() else None


def postgres_programs() -> Path | None:
    """Directory of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and importlib.util.find_spec("psycopg") else None


@contextlib.contextmanager
def object_store(root: Path) -> Iterator[S3Config]:
    """A SeaweedFS with one bucket, all of it below ``root``."""
    program = weed()
    assert program is not None
    import boto3
    import botocore.exceptions
    port, names = free_port(), ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                                "filer.port", "filer.port.grpc", "s3.port.grpc")
    root.mkdir(parents=True, exist_ok=True)
    identities = root / "s3.json"
    identities.write_text(json.dumps({"identities": [{
        "name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
    ports = [free_port() for _ in names]
    arguments = [f"-{name}={number}" for name, number in zip(names, ports, strict=True)]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "server", f"-dir={root}", "-ip=127.0.0.1", "-s3", f"-s3.port={port}",
             "-ip.bind=127.0.0.1", f"-s3.config={identities}", "-master.volumeSizeLimitMB=64",
             "-volume.max=40", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
             *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root, env={**os.environ, "HOME": str(root)})
    config = S3Config(bucket="test", endpoint=f"http://127.0.0.1:{port}", access_key=KEY,
                      secret_key=SECRET, part_bytes=5 << 20, redirect=False)
    client = boto3.client("s3", endpoint_url=config.endpoint, region_name="us-east-1",
                          aws_access_key_id=KEY, aws_secret_access_key=SECRET)

    def answers() -> bool:
        assert process.poll() is None, (root / "log").read_text()[-2000:]
        try:
            client.create_bucket(Bucket="test")
            client.put_object(Bucket="test", Key="probe", Body=b"x")
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            return False
        return True

    try:
        eventually(answers, what="the object store answers", timeout_s=60)
        client.delete_object(Bucket="test", Key="probe")
        yield config
    finally:
        client.close()
        process.kill()
        process.wait()
        for number in (port, *ports):  # it makes sockets there, whatever its directory
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                path.unlink()
        shutil.rmtree(root, ignore_errors=True)


_servers: dict[str, PostgresServer] = {}
"""Those that run, by URL."""


class PostgresServer:
    """A PostgreSQL server below ``root``; ``url`` lacks a database's name."""

    def __init__(self, root: Path) -> None:
        """Make its data directory."""
        programs = postgres_programs()
        assert programs is not None
        self.root, self.port = root, free_port()
        self.url = f"postgresql://pallet@127.0.0.1:{self.port}"
        self._program = programs / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(root, "postgres", "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": ()}
            for parent in root.parents:
                if not parent.stat().st_mode & 1:
                    parent.chmod(parent.stat().st_mode | 0o011)
        subprocess.run(
            [programs / "initdb", "-D", root / "data", "-U", "pallet", "-A", "trust", "-N"],
            check=True, capture_output=True, cwd=root, **self._user)  # fmt: skip

    def start(self) -> None:
        """Start and wait until it answers."""
        with (self.root / "log").open("ab") as log:
            # A session of its own, so that what ends this one's programs is not its end before the fixture's,
            # and an end that does not depend on the fixture.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "INT", self._program, "-D", self.root / "data", "-p", str(self.port),
                 "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.root}",
                 "-c", "fsync=off", "-c", "autovacuum=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root, start_new_session=True,
                **self._user)
        _servers[self.url] = self
        eventually(self._answers, what="PostgreSQL answers", timeout_s=30)

    def _answers(self) -> bool:
        import psycopg

        assert self._process is not None
        assert self._process.poll() is None, self.state()
        try:
            psycopg.connect(f"{self.url}/postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def state(self) -> str:
        """What has become of it, with the end of its log: for the error of who cannot reach it."""
        code = self._process.poll() if self._process is not None else None
        log = self.root / "log"
        return (f"PostgreSQL in {self.root}: exit code {code}; its log ends:\n"
                f"{log.read_text(errors='replace')[-2000:] if log.exists() else '(no log)'}")

    def stop(self) -> None:
        """End it, sessions or not, with everything committed kept; its children go too."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
            self._process = None
        _servers.pop(self.url, None)

    def remove(self) -> None:
        """Stop and delete."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def postgres(root: Path) -> Iterator[str]:
    """A running server's URL without a database's name."""
    server = PostgresServer(root)
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Config]:
    """A bucket for the session's tests; each takes a prefix of its own."""
    with object_store(tmp_path_factory.mktemp("s3")) as config:
        yield config


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A server for the session's tests; each makes a database of its own.

    Its directory is not pytest's, which other sessions tidy up.
    """
    with postgres(Path(tempfile.mkdtemp(prefix=f"t-postgres-{os.getpid()}-"))) as url:
        yield url


def new_database(server: str) -> str:
    """A fresh database's URL."""
    import psycopg
    name = f"t{uuid.uuid4().hex}"
    try:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
    except psycopg.OperationalError as error:
        message = f"{error}\n{_servers[server].state() if server in _servers else ''}"
        raise AssertionError(message) from error
    return f"{server}/{name}"


def settings(root: Path, *, database: str = "", s3: S3Config | None = None, grace_s: float = 0.0,
             **more: Any) -> RegistryConfig:
    """A configuration below ``root`` that collects only when told to."""
    return RegistryConfig(
        storage=StorageConfig(root=str(root), s3=s3, min_free_bytes=more.pop("min_free_bytes", 0)),
        database=database, gc=GcConfig(interval_s=0, grace_s=grace_s, upload_s=more.pop("upload_s", 3600)),
        **more)


def push_blob(store: RegistryStore, name: str, data: bytes) -> Digest:
    """Upload ``data`` as a blob."""
    upload = store.uploads.begin(name)
    upload.append(io.BytesIO(data))
    digest = digests.of_bytes(data)
    upload.finish(digest)
    return digest


def image(blobs: list[Digest], **more: Any) -> ManifestRecord:
    """A manifest over blobs; the first is the config."""
    descriptors = [{"mediaType": "application/octet-stream", "digest": digest, "size": 1} for digest in blobs]
    document = {"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1:], **more}
    raw = json.dumps(document).encode()
    return record_of(digests.of_bytes(raw), "application/vnd.oci.image.manifest.v1+json", raw, document)


def content(store: RegistryStore, name: str, digest: Digest) -> bytes:
    """Bytes of a repository's blob."""
    return b"".join(store.driver.read(store.blob(name, digest).location))
