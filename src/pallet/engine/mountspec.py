"""What a container mounts besides its root: parsing ``Binds``, ``Mounts``, ``Tmpfs``, ``VolumesFrom``.

Pure functions; ``engine/mountplan.py`` makes the volumes and host directories.
Engine API HostConfig.Binds, HostConfig.Mounts; semantics rows "volumes".
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field

from pallet.errors import InvalidParameterError
from pallet.volume.store import check_name

PROPAGATIONS = frozenset({"shared", "slave", "private", "rshared", "rslave", "rprivate"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """One wanted mount, before its volume or host path was looked at."""

    type: str
    """``bind``, ``volume`` or ``tmpfs``."""
    destination: str
    source: str = ""
    """Host path (bind), volume name (volume; "" is anonymous)."""
    read_only: bool = False
    recursive_read_only: bool = False
    non_recursive: bool = False
    propagation: str = ""
    mode: str = ""
    """The option string as given, for ``MountPoint.Mode``."""
    copy_up: bool = True
    create_source: bool = False
    """A missing host directory is made (``-v``, not ``--mount``)."""
    driver: str = ""
    driver_options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    subpath: str = ""
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    tmpfs_options: str = ""
    from_mounts: bool = False
    """Given by ``HostConfig.Mounts``, which inspect reports separately."""


def _invalid(text: str, why: str = "") -> InvalidParameterError:
    return InvalidParameterError(f"invalid volume specification: '{text}'" + (f": {why}" if why else ""))


def _check_destination(text: str, destination: str, kind: str) -> str:
    if not destination.startswith("/"):
        raise _invalid(text, f'invalid mount config for type "{kind}": invalid mount path: '
                             f"'{destination}' mount path must be absolute")
    clean = posixpath.normpath(destination).replace("//", "/")
    if clean == "/":
        raise _invalid(text, "destination can't be '/'")
    return clean


def parse_bind(text: str, *, volume_driver: str = "") -> MountSpec:
    """Parse one ``SOURCE:DESTINATION[:OPTIONS]`` of ``HostConfig.Binds``.

    Raises:
        InvalidParameterError: Docker's "invalid volume specification" and "invalid mode" words.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]) or (len(parts) == 3 and parts[2] == ""):
        raise _invalid(text)
    if len(parts) == 1:
        return MountSpec(type="volume", destination=_check_destination(text, parts[0], "volume"),
                         driver=volume_driver)
    source, destination = parts[0], parts[1]
    is_bind = source.startswith("/")
    mode = parts[2] if len(parts) == 3 else ""
    options = mode.split(",") if mode else []
    read_only, propagation, copy_up = _parse_mode(options, mode, is_bind=is_bind)
    kind = "bind" if is_bind else "volume"
    target = _check_destination(text, destination, kind)
    if is_bind:
        source = posixpath.normpath(source)
    else:
        check_name(source)
    return MountSpec(
        type=kind, source=source, destination=target, read_only=read_only, propagation=propagation,
        mode=mode, copy_up=copy_up, create_source=is_bind, driver="" if is_bind else volume_driver)


def _parse_mode(options: list[str], mode: str, *, is_bind: bool) -> tuple[bool, str, bool]:
    bad = InvalidParameterError(f"invalid mode: {mode}")
    access = [o for o in options if o in {"ro", "rw"}]
    relabel = [o for o in options if o in {"z", "Z"}]
    propagation = [o for o in options if o in PROPAGATIONS]
    nocopy = [o for o in options if o == "nocopy"]
    consistency = [o for o in options if o in _CONSISTENCY]
    groups = (access, relabel, propagation, nocopy, consistency)
    if any(len(group) > 1 for group in groups) or sum(map(len, groups)) != len(options):
        raise bad
    if (propagation and not is_bind) or (nocopy and is_bind):
        raise bad
    return access == ["ro"], propagation[0] if propagation else "", not nocopy


def parse_tmpfs(destination: str, options: str) -> MountSpec:
    """One entry of ``HostConfig.Tmpfs`` (``--tmpfs``)."""
    target = _check_destination(destination, destination, "tmpfs")
    return MountSpec(type="tmpfs", destination=target, tmpfs_options=options)


def parse_volumes_from(text: str) -> tuple[str, bool | None]:
    """``CONTAINER[:MODE]`` → (container, read-only or None for as in the source).

    Raises:
        InvalidParameterError: an empty name or an unknown mode.
    """
    name, _, mode = text.partition(":")
    if not name:
        msg = f"invalid volumes-from specification: {text}"
        raise InvalidParameterError(msg)
    if not mode:
        return name, None
    read_only, _, _ = _parse_mode(mode.split(","), mode, is_bind=True)
    return name, read_only


def check_duplicates(specs: list[MountSpec]) -> None:
    """Refuse two mounts on one destination.

    Raises:
        InvalidParameterError: "Duplicate mount point: /x".
    """
    seen: set[str] = set()
    for spec in specs:
        if spec.destination in seen:
            msg = f"Duplicate mount point: {spec.destination}"
            raise InvalidParameterError(msg)
        seen.add(spec.destination)
