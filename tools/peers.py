"""Fetch what tests drive and the host's own release may not have: buildx, compose, a program of another processor.

All of it as Debian packages it, from a later suite, unpacked beside the sources and never installed:
``build-out/peers/cli-plugins``, which ``DOCKER_CONFIG=build-out/peers`` makes docker's, and
``build-out/peers/foreign``, whose busybox makes images for other platforms. Needs apt and Debian's
archive keyring; the host's package lists stay as they are. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = ROOT / "build-out" / "peers"
PLUGINS = TOP / "cli-plugins"
PROGRAMS = TOP / "foreign"
# The first suite that has both; a suite, not a version, so that a point release changes nothing here.
SUITES = ("forky", "sid", "trixie")
FOREIGN = "busybox.arm64"
PACKAGES = {"docker-buildx": "docker-buildx", "docker-compose": "docker-compose", FOREIGN: "busybox-static:arm64"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ATTEMPTS = 4


def archive() -> str:
    """Address of the archive that this host uses for Debian itself; "" without one."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for place in places:
        if place.is_file():
            for found in re.findall(r"https?://\S+/debian/?(?=\s|$)", place.read_text(encoding="utf-8")):
                return str(found).rstrip("/")
    return ""


def apt(scratch: Path, *arguments: str) -> bool:
    """Run apt-get with lists, cache and state of its own; whether it did what it was asked."""
    options = {
        "Dir::Etc::sourcelist": scratch / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": scratch / "state", "Dir::State::status": scratch / "status", "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root", "Acquire::Retries": "3", "Acquire::Languages": "none",
        "APT::Architectures": f"{native()},arm64",
        "APT::Update::Post-Invoke": "", "APT::Update::Post-Invoke-Success": "", "DPkg::Post-Invoke": "",
    }
    command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items()), *arguments]
    done = subprocess.run(command, cwd=scratch, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def native() -> str:
    """This host's architecture as Debian spells it."""
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def fetch(suite: str, packages: list[str]) -> None:
    """Download and unpack ``packages`` of one suite, and put the plugins that are in them in their place."""
    PLUGINS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=TOP) as name:
        scratch = Path(name)
        (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archive()} {suite} main\n")
        (scratch / "status").touch()
        (scratch / "state/lists/partial").mkdir(parents=True)
        (scratch / "cache/archives/partial").mkdir(parents=True)
        if not apt(scratch, "update") or not apt(scratch, "download", *packages):
            return
        for package in scratch.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(scratch / "tree")], check=False)
        for plugin in scratch.glob("tree/usr/lib*/docker/cli-plugins/*"):
            shutil.move(plugin, PLUGINS / f".{plugin.name}.new")
            os.replace(PLUGINS / f".{plugin.name}.new", PLUGINS / plugin.name)
        for program in (path for path in scratch.glob("tree/**/bin/busybox") if path.is_file()):
            PROGRAMS.mkdir(parents=True, exist_ok=True)
            shutil.move(program, PROGRAMS / FOREIGN)


def missing() -> list[str]:
    """What is not here yet; plugins also when they do not run."""
    found = [name for name in PACKAGES if name != FOREIGN and not works(PLUGINS / name)]
    return found if (PROGRAMS / FOREIGN).exists() else [*found, FOREIGN]


def works(plugin: Path) -> bool:
    """Whether the plugin is there and answers docker."""
    if not os.access(plugin, os.X_OK):
        return False
    try:
        return subprocess.run([str(plugin), "docker-cli-plugin-metadata"], capture_output=True, check=False,
                              timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    """Fetch what is missing; 1 with a reason when it cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list-only", action="store_true", help="say what is missing, fetch nothing")
    options = parser.parse_args()
    lacking = missing()
    if not lacking or options.list_only:
        print("\n".join(lacking), end="\n" if lacking else "")
        return 1 if lacking else 0
    if not shutil.which("apt-get") or not KEYRING.exists() or not archive():
        print(f"missing: {', '.join(lacking)}; they come from Debian's archive: apt-get that uses it and {KEYRING} "
              f"are needed, or put the plugins into {PLUGINS} and a static busybox into {PROGRAMS} by hand",
              file=sys.stderr)
        return 1
    for attempt in range(ATTEMPTS):
        for suite in SUITES:
            print(f"fetching {', '.join(lacking)} from Debian {suite}", file=sys.stderr, flush=True)
            fetch(suite, [PACKAGES[name] for name in lacking])
            lacking = missing()
            if not lacking:
                return 0
        if attempt + 1 < ATTEMPTS:
            time.sleep(2.0 ** attempt)
    print(f"could not be fetched, or do not run here: {', '.join(lacking)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
