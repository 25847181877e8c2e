"""The registry's configuration file (TOML): storage, database, collection, serving, webhooks.

Owns   names, defaults and checks of these settings.
Runs   once at start.
Needs  nothing.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from pallet.errors import InvalidParameterError
from pallet.registry.auth.settings import AuthConfig, LimitsConfig, RuleConfig, TlsConfig
from pallet.registry.mirror.settings import MirrorConfig

_MOST_WORKERS = 4
_CONNECTIONS, _LEAST_CONNECTIONS = 16, 4
DEFAULT_ROOT = "/var/lib/pallet/registry"


class S3Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[storage.s3]``. Credentials left out are looked for as the AWS tools do."""

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""
    redirect: bool = True
    """Clients get blobs from the object store itself, by URLs that are good for a while."""
    redirect_s: int = 1200
    part_bytes: int = 8 << 20


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[storage]``."""

    root: str = DEFAULT_ROOT
    """Directory of the content, and of the database unless there is another."""
    s3: S3Config | None = None
    min_free_bytes: int = 64 << 20
    """With less room on the disk than this the registry is read-only."""


class GcConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[gc]``. Seconds."""

    interval_s: float = 3600.0
    """Between collections in the background; 0: none."""
    grace_s: float = 3600.0
    """What a push used so recently stays."""
    upload_s: float = 7 * 86400.0
    """Upload sessions that nobody went on with for so long are dropped."""


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[retention]]``: the first rule whose patterns fit a repository and a tag decides on it.

    A tag stays when any of the conditions given keeps it.
    """

    repositories: tuple[str, ...] = ("*",)
    tags: tuple[str, ...] = ("*",)
    keep: bool = False
    """Keep every such tag."""
    keep_last: int | None = None
    """The newest so many in each repository."""
    keep_days: float | None = None
    """Set within so many days."""
    untagged_days: float | None = None
    """Remove manifests that have had no tag, list or subject for so long; None keeps them."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[http]``: how requests are served. Every limit is one worker's."""

    workers: int = 0
    """Processes that share the port; 0: one for each processor, at most 4 (``worker_count``)."""
    max_connections: int = 1024
    max_uploads: int = 64
    """Large bodies that are read, or passed on from elsewhere, at once; further ones wait."""
    head_s: float = 20.0
    """From a request's first byte to the end of its head."""
    idle_s: float = 120.0
    """Without a request."""
    stall_s: float = 60.0
    """Without a byte of a body or a reply getting through."""
    drain_s: float = 60.0
    """For requests that run when the registry is told to stop."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of balancers whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""
    cache_bytes: int = 64 << 20
    """Of manifests and small blobs kept in memory; 0: none."""


    @property
    def worker_count(self) -> int:
        """``workers`` with its default."""
        return self.workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[log]``."""

    access: Literal["json", "text", "off"] = "off"
    """A line a request."""
    file: str = ""
    """Where to; "" is standard output. SIGHUP opens it anew."""


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[metrics]``."""

    address: str = ""
    """``HOST:PORT`` of a listener of its own for ``GET /metrics``; "": none."""


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[webhook]]``: a receiver of notifications."""

    url: str
    name: str = ""
    """What the queue knows it by; "" is the URL."""
    events: tuple[Literal["push", "pull", "delete"], ...] = ("push", "delete")
    repositories: tuple[str, ...] = ("*",)
    """Patterns of the repositories it hears of."""
    secret: str = ""
    """Key of the signature in ``X-Hub-Signature-256``; "": none."""
    headers: dict[str, str] = {}
    timeout_s: float = 10.0
    retries: int = 10
    """Attempts after the first, before a notification is given up."""


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All sections; unknown ones are ignored, unknown settings in a section are not."""

    storage: StorageConfig = StorageConfig()
    database: str = ""
    """``sqlite:///PATH`` or ``postgresql://…``; "" is ``registry.db`` in the root."""
    gc: GcConfig = GcConfig()
    retention: tuple[RetentionRule, ...] = ()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    webhook: tuple[WebhookConfig, ...] = ()
    auth: AuthConfig = AuthConfig()
    rule: tuple[RuleConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    tls: TlsConfig = TlsConfig()
    mirror: MirrorConfig | None = None

    @property
    def database_connections(self) -> int:
        """To PostgreSQL, of each worker: all of them together are about ``_CONNECTIONS``."""
        return max(_CONNECTIONS // self.http.worker_count, _LEAST_CONNECTIONS)

    @property
    def database_url(self) -> str:
        """``database`` with its default."""
        return self.database or f"sqlite:///{Path(self.storage.root) / 'registry.db'}"


def read_config(path: Path) -> RegistryConfig:
    """Read a configuration file.

    Raises:
        InvalidParameterError: it is not there, no TOML, or has a wrong setting.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(document, RegistryConfig)
    except (OSError, ValueError) as error:  # both libraries' errors are ValueErrors
        message = f"{path}: {error}"
        raise InvalidParameterError(message) from error
