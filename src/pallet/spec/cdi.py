"""Container Device Interface: the documents that describe what a device brings into a container.

Owns   the documents; no I/O.
Runs   anywhere.
Spec   CDI SPEC.md, versions 0.3.0 to 1.0.0.
"""

from __future__ import annotations

import msgspec

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""Names of hooks, as runtime-spec config.md#posix-platform-hooks has them."""


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A field that a version does not know is an error: it would be a device without a part of it."""


class DeviceNode(_Document, frozen=True, kw_only=True):
    """A node of /dev; what is missing of type and numbers is that of the host's."""

    path: str
    """In the container."""
    host_path: str = ""
    """"" is the same path."""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    """Of ``rwm``; "" is all."""
    uid: int | None = None
    gid: int | None = None


class Mount(_Document, frozen=True, kw_only=True):
    """A mount, as runtime-spec config.md#mounts has it."""

    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Document, frozen=True, kw_only=True):
    """A program to run on the way of a container's start; ``timeout`` in seconds."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class IntelRdt(_Document, frozen=True, kw_only=True):
    """Cache and bandwidth allocation (runtime-spec config-linux.md#intel-rdt)."""

    clos_id: str = msgspec.field(name="closID", default="")
    l3_cache_schema: str = msgspec.field(name="l3CacheSchema", default="")
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(name="enableCMT", default=False)
    enable_mbm: bool = msgspec.field(name="enableMBM", default=False)


class Edits(_Document, frozen=True, kw_only=True):
    """What is done to a container's configuration."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    hooks: list[Hook] = []
    mounts: list[Mount] = []
    intel_rdt: IntelRdt | None = None
    additional_gids: list[int] = []


class Device(_Document, frozen=True, kw_only=True):
    """One device of a kind."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = Edits()


class Specification(_Document, frozen=True, kw_only=True):
    """A file: all devices of a kind that a vendor describes."""

    cdi_version: str
    kind: str
    """``vendor.com/class``."""
    annotations: dict[str, str] = {}
    devices: list[Device] = []
    container_edits: Edits = Edits()
    """What comes with each of them, once."""
