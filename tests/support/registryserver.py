"""``pallet registry serve`` with a configuration file, its workers included."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
from pathlib import Path

from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.daemon import pallet_command
from tests.support.registry import MANIFEST, free_port
from tests.support.waiting import eventually


class Server:
    """A running registry; ``stop`` or ``kill`` it."""

    def __init__(self, config: Path, wrap: tuple[str, ...] = (), *flags: str, port: int = 0) -> None:
        """Start and wait until it answers."""
        self.config, self.port = config, port or free_port()
        self.log = config.with_suffix(f".{self.port}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*wrap, *pallet_command(), "registry", "serve", "--config", config, "--address",
                 f"127.0.0.1:{self.port}", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True)
        try:
            eventually(self._answers, what="the registry answers")
        except AssertionError as error:
            error.add_note(self.log.read_text(errors="replace"))
            self.kill()
            self.process.wait()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.request("GET", "/v2/")[0] == 200

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One call on a connection of its own: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()

    def push(self, name: str, data: bytes) -> str:
        """Upload a blob; its digest."""
        digest = digests.of_bytes(data)
        status, _, reply = self.request("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data)
        assert status == 201, reply
        return digest

    def push_image(self, name: str, tag: str, data: bytes) -> None:
        """Push a manifest over one blob."""
        record = stores.image([digests.parse(self.push(name, data))])
        status, _, reply = self.request("PUT", f"/v2/{name}/manifests/{tag}", record.raw, Content_Type=MANIFEST)
        assert status == 201, reply

    def kill(self) -> None:
        """End it with its workers, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Let it finish, and wait for it."""
        self.process.terminate()
        self.process.wait(20)
