"""``pallet pull`` and ``pallet push``."""

from __future__ import annotations

import sys

from pallet.cli import progress
from pallet.cli.errors import CommandError
from pallet.cli.references import auth_key, parse_reference
from pallet.cli.session import out
from pallet.client.credentials import registry_auth_header
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

PULL_FLAGS: Table = (
    ("all-tags", "a", "bool", "Download all tagged images in the repository"),
    ("disable-content-trust", "", "bool", "Skip image verification", "true", "hidden"),
    ("platform", "", "string", "Set platform if server is multi-platform capable"),
    ("quiet", "q", "bool", "Suppress verbose output"),
)
PUSH_FLAGS: Table = (
    ("all-tags", "a", "bool", "Push all tags of an image to the repository"),
    ("disable-content-trust", "", "bool", "Skip image signing", "true", "hidden"),
    ("platform", "", "string", "Push a platform-specific manifest as a single-platform image", "",
     "", "1.46"),
    ("quiet", "q", "bool", "Suppress verbose output"),
)


def pull(session: Session, flags: Flags) -> int:
    """``pallet pull``: ends with the canonical name of what was pulled."""
    text, all_tags = flags.args[0], flags["all-tags"]
    reference = parse_reference(text)
    if all_tags and not reference.is_name_only:
        raise CommandError("tag can't be used with --all-tags/-a")
    if not all_tags and reference.is_name_only:
        reference = reference.with_default_tag()
        if not flags["quiet"]:
            out(f"Using default tag: {reference.tag}")
    platform = flags["platform"] or session.env.get("DOCKER_DEFAULT_PLATFORM", "")
    pull_image(session, text, platform=platform, quiet=flags["quiet"], all_tags=all_tags)
    out(str(reference))
    return 0


def pull_image(
    session: Session, text: str, *, platform: str = "", quiet: bool = False,
    all_tags: bool = False, to_stderr: bool = False,
) -> None:
    """Pull ``text``, showing progress.

    Raises:
        CommandError, DaemonError: the image was not pulled.
    """
    reference = parse_reference(text)
    if not all_tags:
        reference = reference.with_default_tag()
    header = registry_auth_header(session.config_dir, session.env, auth_key(reference))
    tag = "" if all_tags else (reference.digest or reference.tag or "")
    engine = session.engine
    reply = engine.request(
        "POST", "/images/create",
        {"fromImage": reference.familiar_name, "tag": tag or None, "platform": platform or None},
        headers=(("X-Registry-Auth", header),))
    messages = engine.events(reply)
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        if quiet:
            progress.drain(messages)
        else:
            progress.show(messages, stream)
    except CommandError as error:
        raise DaemonError(500, str(error)) from None


def push(session: Session, flags: Flags) -> int:
    """``pallet push``."""
    reference = parse_reference(flags.args[0])
    if flags["all-tags"]:
        if reference.tag or reference.digest:
            raise CommandError("tag can't be used with --all-tags/-a")
    elif reference.is_name_only:
        reference = reference.with_default_tag()
        if not flags["quiet"]:
            out(f"Using default tag: {reference.tag}")
    header = registry_auth_header(session.config_dir, session.env, auth_key(reference))
    engine = session.engine
    reply = engine.request(
        "POST", f"/images/{quote(reference.familiar_name, '/:')}/push",
        {"tag": None if flags["all-tags"] else reference.tag,
         "platform": _platform_json(flags["platform"])},
        headers=(("X-Registry-Auth", header),))
    messages = engine.events(reply)
    if flags["quiet"]:
        progress.drain(messages)
        out(str(reference))
    else:
        notes: list[str] = []
        progress.show(messages, sys.stdout, lambda aux: _note(aux, notes))
        for note in notes:
            out(note)
    return 0


def _note(aux: dict[str, Any], notes: list[str]) -> None:
    """Keep what was pushed in place of an index; the digest record is in the daemon's words."""
    if aux.get("manifestPushedInsteadOfIndex"):
        notes.append(
            "\n Info -> Not all multiplatform-content is present and only the available "
            "single-platform image was pushed\n         "
            f"{aux['originalIndex']['digest']} -> {aux['selectedManifest']['digest']}")


def _platform_json(text: str) -> str | None:
    if not text:
        return None
    from pallet.cli.commands.images import platform_json

    return platform_json(text)
