"""What a command has at hand: global options, the engine client, the output streams."""

from __future__ import annotations

import os
import sys

from pallet.cli.errors import CommandError
from pallet.client.endpoint import Endpoint, config_directory, resolve
from pallet.client.engine import Engine
from pallet.client.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pallet.cli.flags import Flags, Table

GLOBAL_FLAGS: Table = (
    ("config", "", "string", "Location of client config files"),
    ("context", "c", "string", "Name of the context to use to connect to the daemon (overrides "
     "DOCKER_HOST and the default context)"),
    ("debug", "D", "bool", "Enable debug mode"),
    ("host", "H", "list", "Daemon socket to connect to"),
    ("log-level", "l", "string", "Set the logging level (debug, info, warn, error, fatal)", "info"),
    ("tls", "", "bool", "Use TLS; implied by --tlsverify"),
    ("tlscacert", "", "string", "Trust certs signed only by this CA"),
    ("tlscert", "", "string", "Path to TLS certificate file"),
    ("tlskey", "", "string", "Path to TLS key file"),
    ("tlsverify", "", "bool", "Use TLS and verify the remote"),
    ("version", "v", "bool", "Print version information and quit"),
)


class Session:
    """One run of the command line."""

    def __init__(self, options: Flags, env: Mapping[str, str] | None = None) -> None:
        """``options`` are the global ones; ``env`` is the environment, by default the real one."""
        self.options = options
        self.env: Mapping[str, str] = os.environ if env is None else env
        self.path = ""
        self.config_dir = config_directory(options["config"], self.env)
        self._config: dict[str, Any] | None = None
        self._engine: Engine | None = None
        self._endpoint: Endpoint | None = None

    @property
    def config(self) -> dict[str, Any]:
        """config.json; empty where there is none. A broken one is reported once and ignored."""
        if self._config is None:
            self._config = {}
            if os.path.exists(f"{self.config_dir}/config.json"):
                from pallet.client.config import load_config

                try:
                    self._config = load_config(self.config_dir)
                except UsageError as error:
                    warn(f"WARNING: Error {error}")
        return self._config

    @property
    def endpoint(self) -> Endpoint:
        """The daemon's address."""
        if self._endpoint is None:
            options = self.options
            hosts = options["host"]
            if len(hosts) > 1:
                raise CommandError("Specify only one -H")
            level = options["log-level"]
            if level not in ("debug", "info", "warn", "error", "fatal"):
                raise CommandError(f"unable to parse logging level: {level}")
            self._endpoint = resolve(
                host=hosts[0] if hosts else "", context=options["context"],
                config=options["config"], tls=options["tls"], verify=options["tlsverify"],
                files=(options["tlscacert"], options["tlscert"], options["tlskey"]), env=self.env)
        return self._endpoint

    @property
    def engine(self) -> Engine:
        """The client of that daemon; connects at its first request."""
        if self._engine is None:
            endpoint = self.endpoint
            self._engine = Engine(
                endpoint, version=self.env.get("DOCKER_API_VERSION", "").removeprefix("v"),
                headers=self._extra_headers(),
                on_absent=self._start_daemon if endpoint.implicit else None)
        return self._engine

    def _extra_headers(self) -> list[tuple[str, str]]:
        own = self.config.get("HttpHeaders") or {}
        headers = [(str(name), str(value)) for name, value in own.items()]
        text = self.env.get("DOCKER_CUSTOM_HEADERS", "")
        pairs = (part.partition("=") for part in text.split(",") if part)
        return headers + [(name.strip(), value) for name, _, value in pairs]

    @staticmethod
    def _start_daemon(error: Exception) -> None:
        from pallet.cli.host.embedded import start_daemon

        start_daemon(error)

    def require_api(self, flags: Flags) -> None:
        """Refuse options that are newer than the daemon.

        Raises:
            CommandError: with Docker's words.
        """
        rows = flags.rows()
        for name in flags.changed:
            row = rows[name]
            since = row[6] if len(row) > 6 else ""
            if not since:
                continue
            known = self.engine.version or self.engine.daemon_api_version()
            if known and _version_key(known) < _version_key(since):
                raise CommandError(
                    f'"--{name}" requires API version {since}, '
                    f"but the Docker daemon API version is {known}")


def _version_key(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def out(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def warn(text: str) -> None:
    """Write a line to stderr, behind what stdout already holds."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
