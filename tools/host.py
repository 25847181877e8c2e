"""Find or install what the host must provide: Debian packages behind the commands we call.

``host.py run`` is what running Pallet wants, ``host.py test`` adds what the test suite drives and
compares with. Standard library only: it runs before the virtual environment exists. As root on a
Debian-like host missing packages are installed; otherwise they are listed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# (package, command | lib:NAME | module:NAME | file:PATH, what it is for)
RUN = (
    ("python3-venv", "module:ensurepip", "makes the virtual environment"),
    ("libseccomp2", "lib:seccomp", "compiles the system call filter"),
    ("ca-certificates", "file:/etc/ssl/certs/ca-certificates.crt", "TLS to registries"),
    ("mmdebstrap", "mmdebstrap", "pallet image bootstrap debian:…"),
    ("busybox-static", "busybox", "pallet image bootstrap busybox"),
    ("tini", "tini", "pallet run --init"),
)
TEST = (
    ("docker.io", "docker", "the real command line, driven against palletd"),
    ("docker.io", "dockerd", "the real daemon, for side by side comparisons"),
    ("runc", "runc", "OCI runtime behind --runtime"),
    ("crun", "crun", "OCI runtime behind --runtime"),
    ("nftables", "nft", "an independent view of the firewall tables"),
    ("iptables", "iptables", "dockerd's own networking"),
    ("skopeo", "skopeo", "an independent registry client"),
    ("podman", "podman", "archives of images as it writes and reads them"),
    ("buildah", "buildah", "images and archives as it makes them"),
    ("umoci", "umoci", "image layouts as it makes them"),
    ("docker-registry", "docker-registry", "an independent registry"),
    ("postgresql", "file:/usr/share/postgresql-common", "the registry's metadata for replicas"),
    ("iproute2", "ip", "an independent view of links and addresses"),
    ("qemu-user-static", "qemu-aarch64-static", "programs of other processors"),
    ("openssh-server", "file:/usr/sbin/sshd", "repositories over ssh"),
    ("openssl", "openssl", "certificates for the TLS tests"),
    ("procps", "ps", "process listings"),
    ("libc-bin", "ldconfig", "library look-up"),
)
BENCH = (
    ("podman", "podman", "compared in the benchmark"),
    ("wrk", "wrk", "load on the registry"),
)


def present(probe: str) -> bool:
    """Tell whether the thing ``probe`` names can be used by this interpreter or a shell."""
    kind, _, name = probe.rpartition(":")
    if kind == "module":
        return importlib.util.find_spec(name) is not None
    if kind == "lib":
        return ctypes.util.find_library(name) is not None
    if kind == "file":
        return Path(name).exists()
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") is not None


def install(packages: list[str]) -> bool:
    """Install ``packages`` with apt without starting their services; False when apt refuses."""
    print("installing:", " ".join(packages), flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    with keep_services_down():
        for attempt in (["apt-get", "update", "-q"], command):
            if subprocess.run(attempt, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr,
                              check=False).returncode:  # fmt: skip
                return False
    return True


class keep_services_down:  # noqa: N801 - reads as a statement
    """While packages are set up, ``policy-rc.d`` says "no", unless the host has its own."""

    path = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self.ours = not self.path.exists()
        if self.ours:
            self.path.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
            self.path.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self.ours:
            self.path.unlink(missing_ok=True)


def main() -> int:
    """Check one level, install or list what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("level", choices=("run", "test", "bench"))
    parser.add_argument("--list-only", action="store_true", help="never install")
    options = parser.parse_args()
    wanted = {"run": RUN, "test": RUN + TEST, "bench": RUN + TEST + BENCH}[options.level]
    missing = [row for row in wanted if not present(row[1])]
    if not missing:
        return 0
    packages = sorted({package for package, _, _ in missing})
    may_install = os.geteuid() == 0 and shutil.which("apt-get") and not options.list_only
    if may_install and install(packages):
        missing = [row for row in wanted if not present(row[1])]
    for package, probe, reason in missing:
        print(f"missing: {probe:28} {reason} (Debian package {package})", file=sys.stderr)
    if missing:
        print(f"as root: apt-get install {' '.join(packages)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
