"""Reads facts about this machine from /proc and /sys, and runs small tools to ask for others.

Needs  nothing: what cannot be read is reported as unknown.
"""

from __future__ import annotations

import os
import shutil

TYPE_CHECKING = False

# In the order of their bits.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE")


class Host:
    """This machine, or a tree that looks like one: ``root`` is put before every path."""

    def __init__(self, root: str = "") -> None:
        """``root`` is empty for the machine itself."""
        self.root = root

    def read(self, path: str) -> str:
        """Return a file's text without its last line end, empty when it cannot be read."""
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n")
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        """Return whether ``path`` is there."""
        return os.path.exists(self.root + path)

    def names(self, path: str) -> list[str]:
        """Return a directory's entries, none when it cannot be read."""
        try:
            return os.listdir(self.root + path)
        except OSError:
            return []

    def kernel(self) -> tuple[int, int]:
        """Return major and minor version of the kernel."""
        parts = self.read("/proc/sys/kernel/osrelease").split(".")
        try:
            return int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()))
        except (IndexError, ValueError):
            return 0, 0

    def capabilities(self) -> frozenset[str]:
        """Return the effective capabilities of this process."""
        for line in self.read("/proc/self/status").splitlines():
            if line.startswith("CapEff:"):
                mask = int(line.split()[1], 16)
                return frozenset(
                    name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)
        return frozenset()

    def has_module(self, name: str) -> bool | None:
        """Return whether the kernel has a module, built in or loadable; None when unknown."""
        if self.exists(f"/sys/module/{name}"):
            return True
        release = self.read("/proc/sys/kernel/osrelease")
        lists = [self.read(f"/lib/modules/{release}/{kind}")
                 for kind in ("modules.builtin", "modules.dep")]
        if not any(lists):
            return None
        return any(f"/{name}.ko" in text for text in lists)

    def mounts(self) -> list[tuple[str, str, str]]:
        """Return ``(mount point, file system type, super options)`` of every mount."""
        found = []
        for line in self.read("/proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            fields, rest = left.split(), right.split()
            if len(fields) > 4 and len(rest) > 2:
                found.append((fields[4].replace("\\040", " "), rest[0], rest[2]))
        return found

    def file_system_of(self, path: str) -> str:
        """Return the type of the file system that holds ``path`` (or will)."""
        best, kind = "", ""
        for point, name, _ in self.mounts():
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, name
        return kind

    @staticmethod
    def which(name: str) -> str:
        """Return where a program is, empty when it is not installed."""
        path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
        return shutil.which(name, path=path) or ""

    @staticmethod
    def ask(*argv: str) -> tuple[int, str]:
        """Return exit code and output of a small program; 127 when it cannot be run."""
        import subprocess

        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10,
                                  stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return 127, ""
        return done.returncode, done.stdout
