"""Builds side by side: a rebuild without changes, a cold build of a C project, a large context.

dockerd builds with its classic builder, and with the BuildKit inside it (what ``docker build`` uses since version
23) where docker's buildx plugin has been fetched; a newer BuildKit takes part when ``BENCH_BUILDKIT_HOST`` names its
daemon's socket; buildah when it is installed. The disk is synced before each build that is timed.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from bench.engines import command_line, settle
from bench.model import Figure
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.plugins import with_plugins
from tests.support.probes import lacking
from tests.support.scratch import busybox_tar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

_BUILDKIT = "dockerd, BuildKit"
STEPS = 20
FILES = 50_000
SOURCES = 12
TOOLCHAIN = (
    "gcc-12", "cpp-12", "binutils", "binutils-common", "binutils-x86-64-linux-gnu", "libbinutils", "libctf0",
    "libctf-nobfd0", "libc6", "libc6-dev", "linux-libc-dev", "libgcc-12-dev", "libgcc-s1", "libisl23", "libmpc3",
    "libmpfr6", "libgmp10", "libzstd1", "zlib1g", "libjansson4")
"""Packages of this machine (Debian 12) whose files make the compiler's image."""


def builds(engines: dict[str, Daemon], rounds: int, share: float) -> list[Figure]:
    """All figures of builds."""
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        top = Path(scratch)
        builders = _builders(engines, top)
        try:
            return [_rebuild(builders, top, rounds), *_cold(engines, builders, top, rounds),
                    *_large(builders, top, max(1, rounds - 1), int(FILES * share))]
        finally:
            if "buildah" in builders:
                subprocess.run([*_buildah(top), "rmi", "--all", "--force"], capture_output=True, check=False)
                shutil.rmtree(top / "buildah", ignore_errors=True)


def _builders(engines: dict[str, Daemon], top: Path) -> dict[str, Callable[..., object]]:
    """By competitor, what builds a directory with further options; the options that drop its cache."""
    found: dict[str, Callable[..., object]] = {}
    for name, daemon in engines.items():
        cli = daemon.cli(command_line(name))
        cli.env["DOCKER_BUILDKIT"] = "0"
        found[name] = partial(_with_cli, cli)
    if "dockerd" in engines and not lacking("buildx"):
        found[_BUILDKIT] = partial(_with_cli, with_plugins(engines["dockerd"]))
    if host := os.environ.get("BENCH_BUILDKIT_HOST"):
        cli = DockerCli([docker_binaries()[0], "buildx"], host, top / "buildkit")
        cli.env["DOCKER_CONFIG"] = os.environ.get("BENCH_BUILDKIT_CONFIG", cli.env["DOCKER_CONFIG"])
        found["buildkit"] = partial(_with_cli, cli)
    if which("buildah"):
        base = _buildah(top)
        done = subprocess.run([*base, "from", "--name", "probe", "scratch"], capture_output=True, check=False)
        if done.returncode == 0:
            _buildah_import(top, busybox_tar(), "localhost/busybox")
            found["buildah"] = partial(_with_buildah, base)
    return found


def _with_cli(cli: DockerCli, directory: Path, *options: str) -> None:
    cli.run("build", "-q", *options, str(directory), check=True, timeout_s=900)


def _buildah(top: Path) -> list[str]:
    return ["buildah", "--root", str(top / "buildah/root"), "--runroot", str(top / "buildah/run"),
            "--storage-driver", "overlay"]


def _with_buildah(base: list[str], directory: Path, *options: str) -> None:
    subprocess.run([*base, "bud", "--layers", "--isolation", "chroot", "-q", *options, str(directory)],
                   capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=900)


def _buildah_import(top: Path, tar: bytes, name: str) -> None:
    base = _buildah(top)
    directory = top / "tree"
    directory.mkdir()
    (directory / "root.tar").write_bytes(tar)
    (directory / "Dockerfile").write_text("FROM scratch\nADD root.tar /\nCMD [\"sh\"]\n")
    subprocess.run([*base, "bud", "-q", "-t", name, str(directory)], capture_output=True, check=True)
    shutil.rmtree(directory)


def _timed(figure: Figure, builders: dict[str, Callable[..., object]], rounds: int, directory: Path,
           prepare: Callable[[int], tuple[str, ...]], scale: float) -> Figure:
    """Fill a figure; a competitor that fails is left out."""
    failed: set[str] = set()
    for number in range(rounds):
        for name, build in builders.items():
            options = prepare(number)
            if name in failed:
                continue
            settle()
            began = time.monotonic()
            try:
                build(directory, *options)
            except (AssertionError, subprocess.SubprocessError) as error:
                failed.add(name)
                figure.samples.pop(name, None)
                figure.note += f" {name} failed: {str(error).splitlines()[0][:80]}"
                continue
            figure.add(name, (time.monotonic() - began) * scale)
    return figure


def _rebuild(builders: dict[str, Callable[..., object]], top: Path, rounds: int) -> Figure:
    """Nothing changed in a Dockerfile of twenty steps."""
    directory = top / "steps"
    directory.mkdir()
    lines = ["FROM busybox", "ENV A=b", "WORKDIR /w", "COPY a /w/a"]
    lines += [f"RUN echo {number} > /w/{number}" for number in range(STEPS - len(lines) - 1)]
    (directory / "Dockerfile").write_text("\n".join([*lines, 'CMD ["sh"]', ""]))
    (directory / "a").write_text("a")
    for build in builders.values():
        build(directory, "-t", "bench-steps")
    figure = Figure(name=f"rebuild without changes of {STEPS} steps, whole process", unit="ms", goal=150, factor=5)
    return _timed(figure, builders, rounds * 5, directory, lambda _: ("-t", "bench-steps"), 1000)


def _cold(engines: dict[str, Daemon], builders: dict[str, Callable[..., object]], top: Path,
          rounds: int) -> list[Figure]:
    """Three stages without a cache: a thousand small files as packages have them, a compiler, the result."""
    toolchain = _toolchain()
    if toolchain is None:
        return []
    for daemon in engines.values():
        daemon.cli().run("import", "-", "toolchain:latest", stdin=toolchain, check=True)
    if "buildah" in builders:
        _buildah_import(top, toolchain, "localhost/toolchain")
    directory = top / "project"
    (directory / "src").mkdir(parents=True)
    for number in range(SOURCES):
        body = "\n".join(f"int f{number}_{item}(int x) {{ return x * {item} + {number}; }}" for item in range(40))
        (directory / f"src/part{number}.c").write_text(f"#include <stdio.h>\n#include <stdlib.h>\n{body}\n")
    (directory / "src/main.c").write_text("#include <stdio.h>\nint main(void) { puts(\"built\"); return 0; }\n")
    (directory / "Dockerfile").write_text(
        "FROM toolchain AS packages\n"
        "RUN for p in $(seq 1 20); do mkdir -p /opt/p$p/doc && for f in $(seq 1 50); do "
        "echo $p $f > /opt/p$p/doc/$f; done; done\n"
        "RUN for p in $(seq 1 20); do echo \"installed p$p\" >> /opt/status; done\n"
        "FROM toolchain AS build\nWORKDIR /src\nCOPY src/ /src/\n"
        "RUN for f in *.c; do gcc-12 -O1 -c $f -o /tmp/$f.o; done\n"
        "RUN gcc-12 -static -o /app /tmp/*.o\n"
        "FROM busybox\nCOPY --from=packages /opt /opt\nCOPY --from=build /app /app\n"
        "RUN /app\n")
    figure = Figure(name=f"cold build of three stages, {SOURCES} C files, 1000 package files", unit="s", factor=1.5)
    return [_timed(figure, builders, rounds, directory, lambda _: ("--no-cache", "-t", "bench-project"), 1)]


def _toolchain() -> bytes | None:
    """A root file system with busybox and this machine's compiler; None where it has another one."""
    done = subprocess.run(["dpkg", "-L", *TOOLCHAIN], capture_output=True, text=True, check=False)
    if done.returncode or not which("gcc-12"):
        return None
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a") as archive:
        known = set(archive.getnames())
        # Through the links of a merged /usr: no path of the archive may lead over one.
        names = {f"{os.path.realpath(os.path.dirname(line))}/{os.path.basename(line)}".lstrip("/")
                 for line in done.stdout.splitlines()} - known
        for name in sorted(names):
            path = Path("/") / name
            if name.startswith(("usr/share/doc", "usr/share/man", "usr/share/locale")) or not name:
                continue
            if path.is_symlink() or path.is_file():
                archive.add(path, name, recursive=False)
    return out.getvalue()


def _large(builders: dict[str, Callable[..., object]], top: Path, rounds: int, count: int) -> list[Figure]:
    """A context of many files of which one changed."""
    directory = top / "large"
    for number in range(count):
        path = directory / f"src/d{number // 200}/f{number}.c"
        if number % 200 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"int x{number};\n" * 8)
    (directory / "Dockerfile").write_text("FROM busybox\nCOPY . /src\n")
    (directory / ".dockerignore").write_text("build\n")
    for build in builders.values():
        build(directory, "-t", "bench-large")

    def change(number: int) -> tuple[str, ...]:
        with (directory / "src/d0/f0.c").open("a") as file:
            file.write(f"int y{number}_{time.monotonic_ns()};\n")
        return ("-t", "bench-large")

    same = Figure(name=f"rebuild, context of {count} files, none changed, COPY of all", unit="s", goal=1)
    changed = Figure(name=f"rebuild, context of {count} files, one changed, COPY of all", unit="s", goal=1)
    return [_timed(same, builders, rounds, directory, lambda _: ("-t", "bench-large"), 1),
            _timed(changed, builders, rounds, directory, change, 1)]
