"""palletd: reads its settings, claims its directories, serves until it is told to stop.

Owns   the process: pid files, locks, umask, listeners, signals, exit code.
Needs  ``daemon.app.Daemon`` for everything behind the API. Imports it only once the settings are
       good, so that ``--help`` and a mistake answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pallet import __version__, log
from pallet.daemon import flags, options
from pallet.errors import PalletError, SystemFailureError
from pallet.paths import ExecPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pallet.config import Config
    from pallet.daemon.options import Options

logger = logging.getLogger("pallet.daemon.main")  # also when run as __main__

_USAGE_ERROR: Final = 125
_RELOADED: Final = frozenset({"debug", "log_level"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        asked = flags.parse_argv(words)
        if asked.get("help"):
            sys.stdout.write(flags.help_text())
            return 0
        if asked.get("version"):
            sys.stdout.write(f"Pallet version {__version__}\n")
            return 0
        chosen = options.load(words)
    except flags.FlagError as error:
        sys.stderr.write(f"{error}\nSee 'palletd --help'.\n")
        return _USAGE_ERROR
    except PalletError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if chosen.validate:
        sys.stdout.write("configuration OK\n")
        return 0
    return _run(words, chosen)


def _run(words: Sequence[str], chosen: Options) -> int:
    config = chosen.config
    log.configure(_level(config))
    for warning in chosen.warnings:
        logger.warning("%s", warning)
    os.umask(0o022)
    os.environ.update(chosen.proxies)
    os.environ.update({name.lower(): value for name, value in chosen.proxies.items()})
    try:
        with claim_roots(config), pid_file(config.pid_file):
            asyncio.run(_serve(words, chosen))
    except PalletError as error:
        sys.stderr.write(f"failed to start daemon: {error}\n")
        return 1
    return 0


def _level(config: Config) -> str:
    return "debug" if config.debug else config.log_level


async def _serve(words: Sequence[str], chosen: Options) -> None:
    from pallet.api.app import EngineApi
    from pallet.daemon import listeners, systemd
    from pallet.daemon.app import Daemon
    from pallet.daemon.signals import Signals
    from pallet.http.server import Server

    config = chosen.config
    signals = Signals(lambda: _reload(words, config))
    signals.install()
    opened = listeners.open_all(config, allow_plain_tcp=chosen.allow_plain_tcp)
    try:
        daemon = Daemon(config)
        try:
            await daemon.start()
            version = (await daemon.backends.system.version()).version
            api = EngineApi(daemon.backends, server_version=version)
            server = Server(api)
            for listener in opened:
                await server.listen(listener.sock, tls=listener.tls)
                logger.info("API listen on %s", listener.url)
            _settle_memory()
            _say_ready(chosen.ready_fd)
            systemd.notify("READY=1")
            await signals.stop.wait()
            systemd.notify("STOPPING=1")
            # First, so that builds tell their clients; the others' requests get the server's grace.
            await daemon.end_steps()
            await asyncio.gather(server.close(), api.close())
        finally:
            await daemon.close()
    finally:
        listeners.close_all(opened)
        signals.remove()
    logger.info("Daemon shutdown complete")


def _settle_memory() -> None:
    """Put what start-up made out of the collector's sight: it lives as long as the daemon."""
    gc.collect()
    gc.freeze()


def _say_ready(fd: int | None) -> None:
    if fd is None:
        return
    try:
        os.write(fd, b"1")
        os.close(fd)
    except OSError as error:
        logger.warning("cannot write to --ready-fd %d: %s", fd, error)


def _reload(words: Sequence[str], running: Config) -> None:
    """Read the settings again; take over the log level, name what needs a restart."""
    try:
        found = options.load(words).config
    except PalletError as error:
        logger.error("settings not reloaded: %s", error)  # noqa: TRY400 - a mistake, no bug
        return
    log.configure(_level(found))
    changed = [
        field.name for field in fields(found)
        if field.name not in _RELOADED
        and getattr(found, field.name) != getattr(running, field.name)
    ]
    logger.info("Reloaded the log level: %s", _level(found))
    if changed:
        logger.warning("these settings changed and need a restart: %s", ", ".join(changed))


@contextlib.contextmanager
def claim_roots(config: Config) -> Iterator[None]:
    """Hold the locks of the data root and of the exec root's pid file.

    Raises:
        SystemFailureError: another daemon has one of them, or they cannot be made.
    """
    pid_path = ExecPaths(config.exec_root).pid_file
    with contextlib.ExitStack() as stack:
        try:
            for root in (config.data_root, config.exec_root):
                root.mkdir(mode=0o711, parents=True, exist_ok=True)
            data_fd = os.open(config.data_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, data_fd)
            pid_fd = os.open(pid_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, pid_fd)
        except OSError as error:
            msg = f"{error.filename}: {str(error.strerror).lower()}"
            raise SystemFailureError(msg) from error
        for fd, root in ((data_fd, config.data_root), (pid_fd, config.exec_root)):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(pid_fd, 32, 0).decode(errors="replace").strip()
                msg = f"another palletd uses {root}" + (f" (pid {owner})" if owner else "")
                raise SystemFailureError(msg) from None
        os.ftruncate(pid_fd, 0)
        os.pwrite(pid_fd, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            # Unlinked while still locked: a successor that opened it before finds no name, and
            # makes its own.
            pid_path.unlink(missing_ok=True)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Write the pid for others to read, as ``--pidfile`` asks.

    Raises:
        SystemFailureError: the file names a process that runs.
    """
    if path is None:
        yield
        return
    with contextlib.suppress(FileNotFoundError, ValueError):
        owner = int(path.read_text())
        if owner != os.getpid() and Path(f"/proc/{owner}").exists():
            msg = (f"process with PID {owner} is still running: ensure it is not palletd "
                   f"or delete {path}")
            raise SystemFailureError(msg)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        msg = f"cannot write {path}: {str(error.strerror).lower()}"
        raise SystemFailureError(msg) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
