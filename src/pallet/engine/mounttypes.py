"""``HostConfig.Mounts`` (``--mount``): from the API's document to a ``MountSpec``. Pure."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from pallet.engine.mountspec import PROPAGATIONS, MountSpec
from pallet.errors import InvalidParameterError
from pallet.spec.engine.host_config import BindOptions, TmpfsOptions, VolumeDriverConfig, VolumeOptions
from pallet.spec.engine.wire import given
from pallet.volume.store import check_name

if TYPE_CHECKING:
    from pallet.spec.engine.host_config import Mount


def _refuse(kind: str, why: str) -> InvalidParameterError:
    return InvalidParameterError(f'invalid mount config for type "{kind}": {why}')


def _target(mount: Mount, kind: str) -> str:
    target = given(mount.target) or ""
    if not target:
        raise _refuse(kind, "field Target must not be empty")
    if not target.startswith("/"):
        raise _refuse(kind, f"invalid mount path: '{target}' mount path must be absolute")
    clean = posixpath.normpath(target)
    if clean == "/":
        raise _refuse(kind, "invalid specification: destination can't be '/'")
    return clean


def from_mount(mount: Mount) -> MountSpec:
    """Check one mount and return it.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    kind = given(mount.type) or ""
    makers = {"bind": _bind, "volume": _volume, "tmpfs": _tmpfs}
    if kind not in makers:
        msg = f'invalid mount config for type "{kind}": mount type unknown'
        raise InvalidParameterError(msg)
    for name, belongs_to in (("bind_options", "bind"), ("volume_options", "volume"), ("tmpfs_options", "tmpfs")):
        if kind != belongs_to and given(getattr(mount, name)) is not None:
            field = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions"}[belongs_to]
            raise _refuse(kind, f"field {field} must not be specified")
    return makers[kind](mount, _target(mount, kind))


def _bind(mount: Mount, target: str) -> MountSpec:
    source = given(mount.source) or ""
    if not source:
        raise _refuse("bind", "field Source must not be empty")
    if not source.startswith("/"):
        raise _refuse("bind", f"invalid mount path: '{source}' mount path must be absolute")
    options = given(mount.bind_options) or BindOptions()
    propagation = given(options.propagation) or ""
    if propagation and propagation not in PROPAGATIONS:
        raise _refuse("bind", f"invalid propagation mode: {propagation}")
    read_only = bool(given(mount.read_only))
    if given(options.read_only_force_recursive) and (not read_only or given(options.read_only_non_recursive)):
        raise _refuse("bind", "mount source must be read-only to be recursively read-only")
    return MountSpec(
        type="bind", source=posixpath.normpath(source), destination=target, read_only=read_only,
        recursive_read_only=read_only and not given(options.read_only_non_recursive),
        non_recursive=bool(given(options.non_recursive)), propagation=propagation,
        create_source=bool(given(options.create_mountpoint)), from_mounts=True)


def _volume(mount: Mount, target: str) -> MountSpec:
    source = given(mount.source) or ""
    options = given(mount.volume_options) or VolumeOptions()
    driver = given(options.driver_config) or VolumeDriverConfig()
    if source:
        check_name(source)
    elif given(options.subpath):
        raise _refuse("volume", "must not set Subpath when using anonymous volumes")
    return MountSpec(
        type="volume", source=source, destination=target, read_only=bool(given(mount.read_only)),
        copy_up=not given(options.no_copy), driver=given(driver.name) or "",
        driver_options=given(driver.options) or {}, labels=given(options.labels) or {},
        subpath=given(options.subpath) or "", from_mounts=True)


def _tmpfs(mount: Mount, target: str) -> MountSpec:
    if given(mount.source):
        raise _refuse("tmpfs", "field Source must not be specified")
    options = given(mount.tmpfs_options) or TmpfsOptions()
    words = ",".join("=".join(option) for option in given(options.options) or ())
    return MountSpec(
        type="tmpfs", destination=target, read_only=bool(given(mount.read_only)),
        tmpfs_size_bytes=given(options.size_bytes) or 0, tmpfs_mode=given(options.mode) or 0,
        tmpfs_options=words, from_mounts=True)
