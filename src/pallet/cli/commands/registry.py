"""``pallet registry serve``: an OCI distribution server in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path

from pallet.cli.errors import CommandError
from pallet.cli.session import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session
    from pallet.registry.config import RegistryConfig

SERVE_FLAGS: Table = (
    ("address", "", "string", "Listen on HOST:PORT; port 0 takes a free one", "127.0.0.1:5000"),
    ("config", "c", "string", "Configuration file (TOML)"),
    ("root", "", "string", "Directory of the content", "/var/lib/pallet/registry"),
    ("users", "", "string", "htpasswd file with bcrypt hashes; none lets everybody in"),
    ("tokens", "", "bool", "Bearer tokens from this server's own /token instead of basic auth"),
    ("anonymous-pull", "", "bool", "Reading needs no credentials; brings --tokens along"),
    ("allow-delete", "", "bool", "Manifests and blobs may be deleted", "true"),
    ("tlscert", "", "string", "Path to TLS certificate file"),
    ("tlskey", "", "string", "Path to TLS key file"),
    ("mirror", "", "list", "Mirror HOST, HOST=URL or * (every host)"),
    ("workers", "", "int", "Worker processes (0: one a processor, at most 4)", "0"),
    ("quiet", "q", "bool", "Do not print the address"),
)


def serve(session: Session, flags: Flags) -> int:
    """``pallet registry serve``: runs until interrupted."""
    from pallet.registry import serve as serve_registry

    def ready(authority: str) -> None:
        if not flags["quiet"]:
            sys.stdout.write(f"Listening on {authority}\n")
            sys.stdout.flush()

    config = settings_with_access(flags)
    behind_tls = config.tls.certificate or config.http.trusted_proxies
    if not behind_tls and not _is_loopback(flags["address"]):
        warn(f"WARNING: no TLS on {flags['address']}: clients on other hosts refuse that, and "
             "passwords can be read on the way")
    try:
        serve_registry(flags["address"], Path(flags["root"]), allow_delete=flags["allow-delete"],
                       config=config, reread=lambda: settings_with_access(flags), ready=ready)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise CommandError(f"cannot listen on {flags['address']}: {error}") from None
    return 0


def settings_with_access(flags: Flags) -> RegistryConfig:
    """The configuration file with what flags say about users and TLS."""
    from msgspec.structs import replace

    from pallet.cli.commands.registrystore import settings
    from pallet.registry.auth.settings import TokenConfig

    config = settings(flags)
    auth, tls = config.auth, config.tls
    if flags["users"]:
        auth = replace(auth, htpasswd=flags["users"])
    if not auth.htpasswd and (flags["tokens"] or flags["anonymous-pull"]):
        raise CommandError("tokens and anonymous pulls need a users file")
    if flags["tokens"] and auth.token is None:
        auth = replace(auth, token=TokenConfig())
    if flags["anonymous-pull"] and "pull" not in auth.anonymous:
        auth = replace(auth, anonymous=(*auth.anonymous, "pull"))
    if flags["tlscert"] or flags["tlskey"]:
        tls = replace(tls, certificate=flags["tlscert"], key=flags["tlskey"])
    if flags["mirror"]:
        from pallet.registry.mirror.settings import with_hosts

        config = replace(config, mirror=with_hosts(config.mirror, flags["mirror"]))
    return replace(config, auth=auth, tls=tls)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host in {"localhost", "::1"} or host.startswith("127.")
