"""``pallet build``.

Spec   docker buildx build; ``docs/build.md``.
"""

from __future__ import annotations

import os
import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.build.request import Prepared
    from pallet.cli.build.talk import View
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

BUILD_FLAGS: Table = (
    ("add-host", "", "list", 'Add a custom host-to-IP mapping (format: "host:ip")'),
    ("allow", "", "list", 'Allow extra privileged entitlement (e.g., "network.host", "security.insecure")'),
    ("annotation", "", "list", "Add annotation to the image"),
    ("attest", "", "list", 'Attestation parameters (format: "type=sbom,generator=image")'),
    ("build-arg", "", "list", "Set build-time variables"),
    ("build-context", "", "list", "Additional build contexts (e.g., name=path)"),
    ("builder", "", "string", "Override the configured builder instance", "", "hidden"),
    ("cache-from", "", "list", 'External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")'),
    ("cache-to", "", "list",
     'Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")'),
    ("call", "", "string", 'Set method for evaluating build ("check", "outline", "targets")', "build"),
    ("cgroup-parent", "", "string", 'Set the parent cgroup for the "RUN" instructions during build'),
    ("check", "", "bool", 'Shorthand for "--call=check"'),
    ("compress", "", "bool", "Compress the build context using gzip", "", "hidden"),
    ("cpu-period", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) period", "", "hidden"),
    ("cpu-quota", "", "int", "Limit the CPU CFS (Completely Fair Scheduler) quota", "", "hidden"),
    ("cpu-shares", "c", "int", "CPU shares (relative weight)", "", "hidden"),
    ("cpuset-cpus", "", "string", 'CPUs in which to allow execution ("0-3", "0,1")', "", "hidden"),
    ("cpuset-mems", "", "string", 'MEMs in which to allow execution ("0-3", "0,1")', "", "hidden"),
    ("debug-shell", "", "bool", "Open a shell in a step that fails, with its files and its environment"),
    ("disable-content-trust", "", "bool", "Skip image verification", "true", "hidden"),
    ("file", "f", "string", 'Name of the Dockerfile (default: "PATH/Dockerfile")'),
    ("force-rm", "", "bool", "Always remove intermediate containers", "", "hidden"),
    ("iidfile", "", "string", "Write the image ID to a file"),
    ("isolation", "", "string", "Container isolation technology", "", "hidden"),
    ("label", "", "list", "Set metadata for an image"),
    ("load", "", "bool", 'Shorthand for "--output=type=docker"'),
    ("memory", "m", "bytes", "Memory limit", "", "hidden"),
    ("memory-swap", "", "memswap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap", "",
     "hidden"),
    ("metadata-file", "", "string", "Write build result metadata to a file"),
    ("network", "", "string", 'Set the networking mode for the "RUN" instructions during build', "default"),
    ("no-cache", "", "bool", "Do not use cache when building the image"),
    ("no-cache-filter", "", "strings", "Do not cache specified stages"),
    ("output", "o", "list", 'Output destination (format: "type=local,dest=path")'),
    ("platform", "", "list", "Set target platform for build"),
    ("progress", "", "string",
     'Set type of progress output ("auto", "plain", "quiet", "rawjson", "tty")', "auto"),
    ("provenance", "", "string", 'Shorthand for "--attest=type=provenance"'),
    ("pull", "", "bool", "Always attempt to pull all referenced images"),
    ("push", "", "bool", 'Shorthand for "--output=type=registry"'),
    ("quiet", "q", "bool", "Suppress the build output and print image ID on success"),
    ("rm", "", "bool", "Remove intermediate containers after a successful build", "true", "hidden"),
    ("sbom", "", "string", 'Shorthand for "--attest=type=sbom"'),
    ("secret", "", "list", 'Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")'),
    ("security-opt", "", "strings", "Security options", "", "hidden"),
    ("shm-size", "", "bytes", "Shared memory size for build containers"),
    ("squash", "", "bool", "Squash newly built layers into a single new layer"),
    ("ssh", "", "list",
     'SSH agent socket to expose to the build (format: "default|<id>[=<socket>]")'),
    ("tag", "t", "list", 'Image identifier (format: "[registry/]repository[:tag]")'),
    ("target", "", "string", "Set the target build stage to build"),
    ("ulimit", "", "list:ulimit", "Ulimit options"),
)
_BODY = "/pallet/build"


def build(session: Session, flags: Flags) -> int:
    """``pallet build``: prints the progress on stderr, with ``--quiet`` the image's id on stdout."""
    from pallet.cli.build.request import prepare
    from pallet.cli.build.talk import BuildFailedError, Conversation, QuietView

    for name in ("security-opt", "isolation"):
        if flags[name]:
            warn(f"WARNING: {name} flag is not supported with this builder.")
    made = prepare(session, flags)
    called = flags["check"] or flags["call"] not in ("", "build")
    view = QuietView() if flags["quiet"] or called else view_of(flags["progress"])
    made.call["quiet"] = type(view) is QuietView
    connection = session.engine.hijack(_BODY, body=made.call).stream()
    from pallet.cli.build import walk  # noqa: F401 - the daemon will ask for a tree: it works meanwhile

    try:
        result = Conversation(connection, made.sources, view).run()
    except BuildFailedError as error:
        view.finish()
        return _failed(session, flags, error.details)
    except CommandError:
        view.finish()
        raise
    finally:
        connection.close()
    view.finish()
    if made.call["call"]:
        return print_answer(made.call["call"], result)
    _keep(flags, made, result)
    if flags["quiet"]:
        out(result.get("image_id", ""))
    return 0


def view_of(kind: str) -> View:
    """The view for a ``--progress``.

    Raises:
        CommandError: there is none of that name, or no terminal for it.
    """
    kind = os.environ.get("BUILDKIT_PROGRESS", kind) if kind == "auto" else kind
    if kind == "auto":
        kind = "tty" if sys.stderr.isatty() else "plain"
    if kind == "tty":
        if not sys.stderr.isatty():
            raise CommandError("failed to get console: provided file is not a console")
        from pallet.cli.build.live import LiveView

        return LiveView(sys.stderr)
    if kind in ("quiet", "none"):
        from pallet.cli.build.talk import QuietView

        return QuietView()
    from pallet.cli.build.views import PlainView, RawView

    if kind == "rawjson":
        return RawView(sys.stderr)
    if kind != "plain":
        raise CommandError(f"invalid progress mode {kind}")
    return PlainView(sys.stderr)


def _failed(session: Session, flags: Flags, details: dict[str, Any]) -> int:
    if details.get("snippet"):
        warn(details["snippet"].rstrip("\n"))
    warn(f"ERROR: failed to build: failed to solve: {details['message']}")
    if details.get("state") and flags["debug-shell"]:
        from pallet.cli.build.debugshell import open_shell

        open_shell(session, details)
    return 1


def print_answer(call: str, result: dict[str, Any]) -> int:
    """Print what a ``--call`` found; a check that finds something fails."""
    from pallet.client import wire

    texts = result.get("texts", {})
    if call != "check":
        sys.stdout.write(texts.get("result.txt", ""))
        return 0
    found = wire.decode(texts.get("result.json") or "{}")
    count = len(found.get("warnings") or ())
    if not count and not found.get("buildError"):
        out("Check complete, no warnings found.")
        return 0
    if count:
        out(f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!")
    sys.stdout.write(texts.get("result.txt", ""))
    return 1


def _keep(flags: Flags, made: Prepared, result: dict[str, Any]) -> None:
    """Write ``--iidfile`` and ``--metadata-file``."""
    if flags["iidfile"]:
        _write(flags["iidfile"], str(result.get("image_id", "")))
    if flags["metadata-file"]:
        write_document(flags["metadata-file"], metadata_of(made.call["ref"], result))


def metadata_of(ref: str, result: dict[str, Any]) -> dict[str, Any]:
    """What ``--metadata-file`` says of a build."""
    import binascii

    from pallet.client import wire

    found: dict[str, Any] = {"buildx.build.ref": ref, **result.get("response", {})}
    for name, value in found.items():
        if name == "containerimage.descriptor":
            found[name] = wire.decode(binascii.a2b_base64(value))
    return dict(sorted(found.items()))


def write_document(path: str, document: dict[str, Any]) -> None:
    """Write JSON that people read."""
    from pallet.client import wire

    _write(path, wire.indent(wire.encode_text(document), "  "))


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise CommandError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
