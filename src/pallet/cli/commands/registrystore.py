"""``pallet registry gc`` and ``pallet registry check``: a registry's store, beside running servers."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pallet.cli.errors import CommandError
from pallet.cli.session import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session
    from pallet.registry.config import RegistryConfig

_STORE: Table = (
    ("config", "c", "string", "Configuration file (TOML)"),
    ("root", "", "string", "Directory of the content", "/var/lib/pallet/registry"),
)
GC_FLAGS: Table = (
    *_STORE,
    ("dry-run", "", "bool", "Only say which tags and manifests retention would remove"),
    ("grace", "", "string", "Keep what a push used so recently (seconds), instead of gc.grace_s"),
)
CHECK_FLAGS: Table = (
    *_STORE,
    ("repair", "", "bool", "Forget what is damaged, delete what nothing names"),
    ("quick", "q", "bool", "Compare sizes only"),
)


def settings(flags: Flags) -> RegistryConfig:
    """The configuration of ``--config``, with ``--root`` where one was given."""
    from msgspec.structs import replace

    from pallet.registry.config import RegistryConfig, StorageConfig, read_config

    if not flags["config"]:
        return RegistryConfig(storage=StorageConfig(root=flags["root"]))
    config = read_config(Path(flags["config"]))
    if "root" in flags:
        config = replace(config, storage=replace(config.storage, root=flags["root"]))
    return config


def _existing(config: RegistryConfig) -> RegistryConfig:
    """Refuse to make a store where a path was mistyped."""
    if config.storage.s3 is None and not (Path(config.storage.root) / "blobs").is_dir():
        message = f"there is no registry at {config.storage.root}"
        raise CommandError(message)
    return config


def gc(session: Session, flags: Flags) -> int:
    """``pallet registry gc``: what went, one a line, and a sum."""
    from msgspec.structs import replace

    from pallet.errors import InvalidParameterError
    from pallet.registry.gc import collect
    from pallet.registry.store import open_store

    config = _existing(settings(flags))
    if flags["grace"]:
        try:
            grace_s = float(flags["grace"])
        except ValueError:
            message = f"invalid grace {flags['grace']!r}: want seconds"
            raise InvalidParameterError(message) from None
        config = replace(config, gc=replace(config.gc, grace_s=grace_s))
    with contextlib.closing(open_store(config)) as store:
        done = collect(store, dry_run=flags["dry-run"])
    for tag in done.tags:
        out(f"Untagged: {tag}")
    for manifest in done.manifests:
        out(f"Deleted: {manifest}")
    if not flags["dry-run"]:
        out(f"Removed {done.blobs} blobs and {done.uploads} stale uploads: "
            f"{done.freed_bytes} bytes freed")
    return 0


def check(session: Session, flags: Flags) -> int:
    """``pallet registry check``: problems, one a line; 1 when any is left."""
    from pallet.registry.check import check as check_store
    from pallet.registry.store import open_store

    left = found = 0
    with contextlib.closing(open_store(_existing(settings(flags)))) as store:
        for problem in check_store(store, repair=flags["repair"], quick=flags["quick"]):
            found += 1
            left += not problem.repaired
            out(f"{problem.subject}: {problem.message}"
                + (f" ({problem.repaired})" if problem.repaired else ""))
    if not found:
        out("The store is clean")
    return 1 if left else 0
