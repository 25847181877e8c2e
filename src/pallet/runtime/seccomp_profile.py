"""Seccomp profiles: from Docker's JSON to a compiled filter, with a cache.

Owns   resolving a profile for one container (its capabilities, this host's architecture and
       kernel) to the OCI document, and the compiled files.
Runs   in a daemon thread or a zygote worker; the library is loaded at the first need only.
Needs  libseccomp >= 2.5.
Spec   Docker's seccomp profile format; runtime-spec config-linux.md#seccomp; seccomp(2).

(m) The default profile takes 5 ms to compile, and the first one 20 ms more to load libseccomp.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError
from pallet.linux import seccomp
from pallet.runtime.seccomp_compile import COMPILER_VERSION, MACHINES, compile_filter
from pallet.runtime.seccomp_default import default_profile
from pallet.spec.seccomp import Filter, LinuxSeccomp, Profile, Syscall

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_FLAGS = {"SECCOMP_FILTER_FLAG_LOG": seccomp.FLAG_LOG,
          "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp.FLAG_SPEC_ALLOW,
          "SECCOMP_FILTER_FLAG_TSYNC": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a profile's conditions are held against."""

    machine: str
    """As ``uname -m`` says."""
    kernel: tuple[int, int]

    @classmethod
    def here(cls) -> Host:
        """Return the host this runs on."""
        name = os.uname()
        numbers = re.match(r"(\d+)\.(\d+)", name.release)
        kernel = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        return cls(machine=name.machine, kernel=kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeccompFilter:
    """A compiled filter: what ``linux.seccomp.load`` takes, and the OCI document it came from."""

    bpf: bytes
    flags: int
    document: LinuxSeccomp


_KEPT = 256
"""Filters kept in memory, and as files: profiles may come from a generator, each a new one."""

_profile_decoder = msgspec.json.Decoder(Profile)
_encoder = msgspec.json.Encoder()


def parse_profile(text: str | bytes) -> Profile:
    """Decode a profile in Docker's format.

    Raises:
        InvalidParameterError: "Decoding seccomp profile failed: …".
    """
    try:
        return _profile_decoder.decode(text)
    except msgspec.MsgspecError as error:
        message = f"Decoding seccomp profile failed: {error}"
        raise InvalidParameterError(message) from error


def resolve(profile: Profile, *, bounding: Collection[str], host: Host) -> LinuxSeccomp | None:
    """Return the OCI document of ``profile`` for a container; None when it means "no filter".

    Args:
        profile: as ``parse_profile`` or ``default_profile`` gives it.
        bounding: the container's bounding set, names with ``CAP_``.
        host: whose architecture and kernel the conditions ask for.

    Raises:
        InvalidParameterError: contradictory fields, a malformed kernel version.
    """
    if not profile.default_action and not profile.syscalls:
        return None
    if profile.architectures and profile.arch_map:
        message = ("both 'architectures' and 'archMap' are specified in the seccomp profile, "
                   "use either 'architectures' or 'archMap'")
        raise InvalidParameterError(message)
    arch, native = MACHINES.get(host.machine, (host.machine, ""))
    architectures = list(profile.architectures or [])
    for entry in profile.arch_map or []:
        if entry.architecture == f"SCMP_ARCH_{native}":
            architectures = [entry.architecture, *(entry.sub_architectures or [])]
            break
    syscalls = []
    for rule in profile.syscalls or []:
        if rule.name and rule.names:
            message = ("both 'name' and 'names' are specified in the seccomp profile, "
                       "use either 'name' or 'names'")
            raise InvalidParameterError(message)
        if not _applies(rule.includes, rule.excludes, arch, bounding, host.kernel):
            continue
        syscalls.append(Syscall(names=[rule.name] if rule.name else rule.names or [],
                                action=rule.action, errno_ret=rule.errno_ret,
                                args=rule.args or []))
    return LinuxSeccomp(
        default_action=profile.default_action, default_errno_ret=profile.default_errno_ret,
        architectures=architectures, flags=profile.flags, listener_path=profile.listener_path,
        syscalls=syscalls)


def _applies(includes: Filter | None, excludes: Filter | None, arch: str,
             bounding: Collection[str], kernel: tuple[int, int]) -> bool:
    if excludes is not None:
        if arch in (excludes.arches or ()) or any(c in bounding for c in excludes.caps or ()):
            return False
        if excludes.min_kernel and kernel >= _kernel_version(excludes.min_kernel):
            return False
    if includes is not None:
        if includes.arches and arch not in includes.arches:
            return False
        if not all(c in bounding for c in includes.caps or ()):
            return False
        if includes.min_kernel and kernel < _kernel_version(includes.min_kernel):
            return False
    return True


def _kernel_version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text)
    if match is None or match[0].strip("0.") == "":
        message = f'invalid kernel version: "{text}", expected "<kernel>.<major>"'
        raise InvalidParameterError(message)
    return int(match[1]), int(match[2])


def flags_of(document: LinuxSeccomp) -> int:
    """Return the seccomp(2) flags of a document.

    Without ``flags`` speculation stays unrestricted, as the common OCI runtimes do it: the
    mitigation would slow down every program in the container.

    Raises:
        InvalidParameterError: an unknown flag.
    """
    if document.flags is None:
        return seccomp.FLAG_SPEC_ALLOW
    value = 0
    for name in document.flags:
        if name not in _FLAGS:
            message = f"seccomp flag {name!r} is not known"
            raise InvalidParameterError(message)
        value |= _FLAGS[name]
    return value


class SeccompCache:
    """Compiled filters, in memory and as files that outlive the daemon.

    Args:
        directory: ``DataPaths.seccomp``; made when the first filter is written.
        daemon_profile: text of the daemon's own default profile; None or ``builtin`` is Docker's,
            ``unconfined`` none.
        host: what conditions are held against; None is this host.

    Raises:
        InvalidParameterError: the daemon's profile cannot be read.
    """

    def __init__(self, directory: Path, *, daemon_profile: str | None = None,
                 host: Host | None = None) -> None:
        self._directory = directory
        self._host = Host.here() if host is None else host
        self._default = _named_profile(daemon_profile)
        self._memory: dict[tuple[str | None, frozenset[str]], SeccompFilter | None] = {}

    def filter_for(self, profile: str | None, bounding: Collection[str]) -> SeccompFilter | None:
        """Return the filter of a container; None when it runs without one.

        Blocks for the compiler (tens of ms) at a combination not seen before: call it on the
        blocking pool, or early for the common ones.

        Args:
            profile: JSON text, ``unconfined``, or None and ``builtin`` for the default.
            bounding: the container's bounding set, names with ``CAP_``.

        Raises:
            InvalidParameterError: the profile is malformed.
            SystemFailureError: libseccomp is not installed.
        """
        key = (None if profile == "" else profile, frozenset(bounding))
        if key in self._memory:
            return self._memory[key]
        result = self._make(*key)
        if len(self._memory) >= _KEPT:
            self._memory.clear()
        self._memory[key] = result
        return result

    def cached(self, profile: str | None, bounding: Collection[str]) -> SeccompFilter | None:
        """Return a filter that is in memory already, else None: never blocks."""
        return self._memory.get((None if profile == "" else profile, frozenset(bounding)))

    def _make(self, profile: str | None, bounding: frozenset[str]) -> SeccompFilter | None:
        parsed = self._default if profile is None else _named_profile(profile)
        if parsed is None:
            return None
        document = resolve(parsed, bounding=bounding, host=self._host)
        if document is None:
            return None
        text = _encoder.encode(document)
        key = (COMPILER_VERSION, self._host.machine, seccomp.library_version())
        name = hashlib.sha256("\0".join(key).encode() + b"\0" + text).hexdigest()
        path = self._directory / f"{name}.bpf"
        bpf = _read_cached(path)
        if bpf is None:
            bpf = compile_filter(document)
            _write_cached(path, bpf)
            _prune(self._directory)
        return SeccompFilter(bpf=bpf, flags=flags_of(document), document=document)


def _named_profile(profile: str | None) -> Profile | None:
    """Return the profile a name or JSON text means; None for no filter."""
    if profile == "unconfined":
        return None
    return default_profile() if profile in (None, "builtin") else parse_profile(profile or "")


def _read_cached(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    # A file cut short by a crash of the host is compiled again.
    digest, bpf = data[:32], data[32:]
    return bpf if bpf and hashlib.sha256(bpf).digest() == digest else None


def _write_cached(path: Path, bpf: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(bpf).digest() + bpf)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _prune(directory: Path) -> None:
    """Remove the oldest files beyond those to keep; another daemon may do the same."""
    found = sorted(directory.glob("*.bpf"), key=_modified)
    for path in found[:-_KEPT]:
        path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
