"""The real ``docker`` command line (and ``pallet``, which takes the same words) against one daemon."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.probes import SYSTEM_PATH
from tests.support.terminal import Terminal
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence


@cache
def docker_binaries() -> tuple[str, ...]:
    """Every docker command line installed, newest first."""
    found = {}
    for directory in SYSTEM_PATH.split(":"):
        path = Path(directory, "docker")
        if path.exists() and path.resolve() not in found:
            found[path.resolve()] = str(path)
    return tuple(sorted(found.values(), key=_version, reverse=True))


def _version(binary: str) -> tuple[int, ...]:
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    word = text.split()[2].rstrip(",").split("+")[0]
    return tuple(int(part) for part in word.split(".") if part.isdigit())


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Standard output without surrounding white space."""
        return self.out.strip()


class DockerCli:
    """Runs one command line with its own configuration directory and no inherited settings."""

    def __init__(self, argv: Sequence[str], host: str, config: Path) -> None:
        self.argv = list(argv)
        self.host = host
        self.config = config
        config.mkdir(parents=True, exist_ok=True)
        self._started: list[subprocess.Popen[str]] = []
        self.env = {
            "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
            "HOME": str(config),
            "DOCKER_CONFIG": str(config),
            "DOCKER_HOST": host,
            "DOCKER_CLI_HINTS": "false",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
        }

    def run(
        self,
        *args: str,
        stdin: str | bytes | None = None,
        timeout_s: float = 60.0,
        check: bool = False,
    ) -> Result:
        """Run to the end without a terminal; standard input is empty unless given."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*self.argv, *args],
            input=data if data is not None else None,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True, timeout=timeout_s * PATIENCE, env=self.env, check=False,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout.decode(errors="replace"),
                        done.stderr.decode(errors="replace"))  # fmt: skip
        if check:
            assert result.code == 0, (
                f"{' '.join(args)}: exit {result.code}\n{result.err}{result.out}"
            )
        return result

    def ok(self, *args: str, stdin: str | bytes | None = None, timeout_s: float = 60.0) -> str:
        """Run, demand exit code 0 and return standard output, stripped."""
        return self.run(*args, stdin=stdin, timeout_s=timeout_s, check=True).text

    def events(self, *filters: str, template: str = "{{.Action}}") -> list[str]:
        """Past events up to this moment, oldest first, one formatted line each."""
        words = [word for text in filters for word in ("--filter", text)]
        until = f"{time.time():.9f}"
        return self.ok("events", "--since", "1h", "--until", until, *words, "--format",
                       template).splitlines()  # fmt: skip

    def inspect(self, name: str) -> Any:
        """``docker inspect NAME``, decoded."""
        return json.loads(self.ok("inspect", name))[0]

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start without waiting; text pipes on all three streams unless ``options`` say otherwise."""
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                                 "stderr": subprocess.PIPE, "text": True}  # fmt: skip
        process = subprocess.Popen([*self.argv, *args], env=self.env, **(pipes | options))
        self._started.append(process)
        return process

    def end_started(self) -> None:
        """Kill and reap what ``start`` started and the test did not wait for."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._started.clear()

    def terminal(self, *args: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Start on a pseudo-terminal."""
        return Terminal([*self.argv, *args], env=self.env, rows=rows, columns=columns)
