"""``pallet registry serve``: an OCI distribution server in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

SERVE_FLAGS: Table = (
    ("address", "", "string", "Listen on HOST:PORT; port 0 takes a free one", "127.0.0.1:5000"),
    ("config", "c", "string", "Configuration file (TOML)"),
    ("root", "", "string", "Directory of the content", "/var/lib/pallet/registry"),
    ("users", "", "string", "File of NAME:HASH lines; none lets everybody in"),
    ("tokens", "", "bool", "Bearer tokens from this server's own /token instead of basic auth"),
    ("anonymous-pull", "", "bool", "Reading needs no credentials"),
    ("allow-delete", "", "bool", "Manifests and blobs may be deleted", "true"),
    ("tlscert", "", "string", "Path to TLS certificate file"),
    ("tlskey", "", "string", "Path to TLS key file"),
    ("workers", "", "int", "Worker processes (0: one a processor, at most 4)", "0"),
    ("quiet", "q", "bool", "Do not print the address"),
)


def serve(session: Session, flags: Flags) -> int:
    """``pallet registry serve``: runs until interrupted."""
    from msgspec.structs import replace

    from pallet.cli.commands.registrystore import settings
    from pallet.registry import serve as serve_registry

    def ready(authority: str) -> None:
        if not flags["quiet"]:
            sys.stdout.write(f"Listening on {authority}\n")
            sys.stdout.flush()

    def path(name: str) -> Path | None:
        return Path(flags[name]) if flags[name] else None

    config = settings(flags)
    if "workers" in flags:
        config = replace(config, http=replace(config.http, workers=flags["workers"]))
    try:
        serve_registry(
            flags["address"], Path(flags["root"]), users_file=path("users"),
            tokens=flags["tokens"], anonymous_pull=flags["anonymous-pull"],
            allow_delete=flags["allow-delete"], tls_cert=path("tlscert"), tls_key=path("tlskey"),
            config=config, ready=ready)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise CommandError(f"cannot listen on {flags['address']}: {error}") from None
    return 0
