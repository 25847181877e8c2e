"""Targets as builds that run at the same time.

Owns   a target's fields as options of ``pallet build``; the threads that talk to the daemon, one a target.
Spec   docker buildx bake.
"""

from __future__ import annotations

import posixpath
import threading
import time

from pallet.cli.bake import composefiles
from pallet.cli.bake.board import CancelledError, Shared, TargetView
from pallet.cli.bake.remote import HERE, is_url
from pallet.cli.bake.resolve import links
from pallet.cli.build.request import prepare
from pallet.cli.build.talk import BuildFailedError, Conversation
from pallet.cli.commands.build import BUILD_FLAGS
from pallet.cli.errors import CommandError
from pallet.cli.flags import Flags
from pallet.errors import PalletError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.remote import Remote
    from pallet.cli.bake.resolve import Plan
    from pallet.cli.build.request import Prepared
    from pallet.cli.build.talk import View
    from pallet.cli.session import Session

_BODY = "/pallet/build"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
_LISTED = (("tags", "tag"), ("platforms", "platform"), ("annotations", "annotation"), ("ulimits", "ulimit"),
           ("no-cache-filter", "no-cache-filter"), ("entitlements", "allow"))
_ENTRIES = (("cache-from", "cache-from"), ("cache-to", "cache-to"), ("output", "output"), ("secret", "secret"),
            ("attest", "attest"))
_TEXTS = (("target", "target"), ("network", "network"), ("shm-size", "shm-size"), ("call", "call"))


def option_line(target: Mapping[str, Any]) -> list[str]:
    """A target as a command line of ``pallet build``."""
    line = [f"--build-arg={name}={value}" for name, value in target.get("args", {}).items()]
    line += [f"--label={name}={value}" for name, value in target.get("labels", {}).items()]
    line += [f"--add-host={name}={address}" for name, value in target.get("extra-hosts", {}).items()
             for address in value.split(",")]
    line += [f"--build-context={name}={_here(value)}" for name, value in target.get("contexts", {}).items()]
    for field, option in _LISTED:
        line += [f"--{option}={value}" for value in target.get(field, ())]
    for field, option in _ENTRIES:
        line += [f"--{option}={_short(entry)}" for entry in target.get(field, ())]
    for entry in target.get("ssh", ()):
        line.append(f"--ssh={entry.get('id', 'default')}" + (f"={entry['paths'][0]}" if entry.get("paths") else ""))
    line += [f"--{option}={target[field]}" for field, option in _TEXTS if target.get(field)]
    line += [f"--{option}" for option in ("no-cache", "pull") if target.get(option)]
    if target.get("network") == "host" and "network.host" not in target.get("entitlements", ()):
        line.append("--allow=network.host")
    context, dockerfile = _here(target["context"]), target["dockerfile"]
    if dockerfile.startswith("cwd://"):
        dockerfile = _here(dockerfile)
    elif not context.startswith(_REMOTE) and context != "-":
        dockerfile = posixpath.join(context, dockerfile)
    return [*line, f"--file={dockerfile}", "--", context]


def _here(path: str) -> str:
    return (path.removeprefix("cwd://") or ".") if path.startswith("cwd://") else path


def _short(entry: Mapping[str, Any]) -> str:
    parts = []
    for name, value in entry.items():
        text = f"{name}={'true' if value is True else value}"
        parts.append(f'"{text}"' if "," in text else text)
    return ",".join(parts)


def prepared(session: Session, plan: Plan, remote: Remote | None = None) -> dict[str, Prepared]:
    """All targets as requests, with those that they are built on inside.

    Args:
        remote: where their paths are, for a definition that is not from here.

    Raises:
        CommandError: a field has no meaning, or a file is not there.
    """
    found: dict[str, Prepared] = {}
    for name, target in plan.targets.items():
        flags = Flags(BUILD_FLAGS)
        located = target if remote is None else remote.located(target)
        try:
            flags.parse(option_line(located))
        except PalletError as error:
            raise CommandError(f"target {name}: {error}") from None
        inline = target.get("dockerfile-inline")
        if inline is None and target["dockerfile"].startswith(HERE) and is_url(located["context"]):
            inline = composefiles.read(target["dockerfile"].removeprefix(HERE))
        if target["context"] == "-" and len(plan.targets) > 1:
            raise CommandError("context can not be - when several targets are built")
        found[name] = prepare(session, flags, None if inline is None else inline.encode())
    whole: dict[str, Prepared] = {}
    for name in plan.targets:
        whole[name] = _linked(name, plan, found, whole)
    return whole


def _linked(name: str, plan: Plan, found: dict[str, Prepared], whole: dict[str, Prepared]) -> Prepared:
    """A request with the requests of the targets that its contexts name."""
    if name in whole:
        return whole[name]
    made = found[name]
    inputs: dict[str, Any] = {}
    for other in links(plan.targets[name]):
        below = whole[other] = _linked(other, plan, found, whole)
        inputs[other] = {key: value for key, value in below.call.items() if key not in (
            "exports", "cache_from", "cache_to", "attestations")}
        for source, directory in below.sources.directories.items():
            made.sources.directories[f"input:{other}/{source}"] = directory
        made.sources.secrets = {**below.sources.secrets, **made.sources.secrets}
        made.sources.agents = {**below.sources.agents, **made.sources.agents}
        made.sources.layouts = {**below.sources.layouts, **made.sources.layouts}
    contexts = made.call["contexts"]
    for label, value in contexts.items():
        if value.startswith("target:"):
            contexts[label] = f"input:{value.removeprefix('target:')}"
    made.call["inputs"] = inputs
    return made


class Bakery:
    """The builds of one command line."""

    def __init__(self, session: Session, wanted: Mapping[str, Prepared], view: View) -> None:
        self._session = session
        self._wanted = wanted
        self._shared = Shared(view)
        self.results: dict[str, dict[str, Any]] = {}
        self.failed = ""
        self.error: CommandError | None = None
        self._lock = threading.Lock()

    def tell(self, read: Sequence[tuple[str, int]], started_ns: int, *, remote: bool) -> None:
        """Show which files the definition was read from."""
        digest, now_ns = "bake:definitions", time.time_ns()
        name = f"[internal] load {'remote' if remote else 'local'} bake definitions"
        events = [{"vertex": {"digest": digest, "name": name, "started": started_ns}}]
        events += [{"status": {"id": f"reading {file}", "name": f"reading {file}", "vertex": digest, "current": size,
                               "total": size, "timestamp": now_ns, "started": started_ns, "completed": now_ns}}
                   for file, size in read]
        events.append({"vertex": {"digest": digest, "name": name, "started": started_ns, "completed": now_ns}})
        self._shared.events("", "", events)

    def run(self) -> None:
        """Build everything; the first failure ends it all and is in ``failed`` and ``error``."""
        threads = [threading.Thread(target=self._one, args=(name, made), daemon=True)
                   for name, made in self._wanted.items()]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._shared.cancelled = True
            for thread in threads:
                thread.join(timeout=2)
            raise
        self._shared.finish()

    def _one(self, name: str, made: Prepared) -> None:
        try:
            result = self._conversation(name, made)
        except CancelledError:
            return
        except PalletError as error:
            self._fail(name, error if isinstance(error, CommandError) else CommandError(str(error)))
        except Exception as error:  # noqa: BLE001  the others have to stop, and the user has to hear of it
            self._fail(name, CommandError(f"internal error: {error!r}"))
        else:
            with self._lock:
                self.results[name] = result

    def _fail(self, name: str, error: CommandError) -> None:
        with self._lock:
            if self.error is None:
                self.failed, self.error = name, error
            self._shared.cancelled = True

    def _conversation(self, name: str, made: Prepared) -> dict[str, Any]:
        with self._lock:
            pending = self._session.engine.hijack(_BODY, body=made.call)
        connection = pending.stream()
        try:
            view = TargetView(self._shared, name, prefix=len(self._wanted) > 1)
            return Conversation(connection, made.sources, view).run()
        finally:
            connection.close()

    def snippet(self) -> Iterator[str]:
        """The lines of the Dockerfile that failed."""
        if isinstance(self.error, BuildFailedError) and self.error.details.get("snippet"):
            yield self.error.details["snippet"].rstrip("\n")
