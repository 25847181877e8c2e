"""Seccomp documents: Docker's profile format, and the OCI one it is resolved to.

Spec   Docker's seccomp profile format (``archMap``, ``includes``, ``excludes``);
       runtime-spec config-linux.md#seccomp.
"""

from __future__ import annotations

from msgspec import Struct


class Arg(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A comparison of one argument; ``value_two`` is the wanted result of a masked one."""

    index: int
    value: int
    value_two: int = 0
    op: str


class Syscall(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One OCI rule: an action for system calls, if all ``args`` match."""

    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[Arg] = []


class LinuxSeccomp(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The OCI document. ``flags`` None leaves the choice to the runtime, ``[]`` means none."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] | None = None
    listener_path: str = ""
    syscalls: list[Syscall] = []


class Filter(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A condition on the container's bounding set, the host's architecture and its kernel."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class ProfileSyscall(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One rule of a Docker profile; ``name`` is the old form of ``names``."""

    name: str = ""
    names: list[str] | None = None
    action: str = ""
    errno_ret: int | None = None
    args: list[Arg] | None = None
    includes: Filter | None = None
    excludes: Filter | None = None


class ArchMap(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A native architecture with those whose programs it can also run."""

    architecture: str
    sub_architectures: list[str] | None = None


class Profile(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A Docker profile. Without default action and system calls it means "no filter"."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[ArchMap] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    syscalls: list[ProfileSyscall] | None = None
