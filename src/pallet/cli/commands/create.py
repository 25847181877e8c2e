"""``pallet create``, and the creation step of ``pallet run``."""

from __future__ import annotations

import os

from pallet.cli.errors import CommandError
from pallet.cli.run.config import container_config
from pallet.cli.run.options import CREATE_FLAGS
from pallet.cli.session import Session, out, warn
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags

__all__ = ("CREATE_FLAGS", "create", "create_container")

_IMAGE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/:")


def create(session: Session, flags: Flags) -> int:
    """``pallet create``: prints the id."""
    try:
        body = container_config(flags, session.env)
    except CommandError as error:
        hint = f"Run 'pallet {session.path} --help' for more information"
        raise CommandError(str(error), 125, hint) from None
    out(create_container(session, flags, body))
    return 0


def create_container(session: Session, flags: Flags, body: dict[str, Any]) -> str:
    """Create a container, pulling its image as ``--pull`` says, and return its id.

    Raises:
        CommandError, DaemonError: it was not created.
    """
    policy = flags["pull"]
    if policy not in ("always", "missing", "never"):
        raise CommandError(f"invalid pull option: '{policy}': must be one of \"always\", "
                           '"missing" or "never"')
    image = body["Image"]
    if not _IMAGE_CHARACTERS.issuperset(image):
        check_reference(image)
    cid_file = flags["cidfile"]
    if cid_file and os.path.exists(cid_file):
        raise CommandError("container ID file found, make sure the other container isn't running "
                           f"or delete {cid_file}")
    platform = flags["platform"] or session.env.get("DOCKER_DEFAULT_PLATFORM", "")
    query = {"name": flags["name"] or None, "platform": platform or None}
    if policy == "always":
        _pull(session, flags, image, platform)
    engine = session.engine
    if "proxies" in session.config:
        from pallet.client.config import proxy_environment

        known = body.get("Env", [])
        body["Env"] = known + proxy_environment(session.config, session.endpoint.url, known)
    if "MacAddress" in body:
        _place_mac_address(session, body)
    try:
        reply = engine.json("POST", "/containers/create", query, body=body)
    except DaemonError as error:
        if policy != "missing" or not _image_is_missing(error):
            raise
        if not flags["quiet"]:
            warn(f"Unable to find image '{tagged(image)}' locally")
        _pull(session, flags, image, platform)
        reply = engine.json("POST", "/containers/create", query, body=body)
    for warning in reply.get("Warnings") or ():
        warn(f"WARNING: {warning}")
    container_id = str(reply["Id"])
    if cid_file:
        try:
            with open(cid_file, "x", encoding="ascii") as file:
                file.write(container_id)
        except OSError as error:
            raise CommandError("failed to create the container ID file: "
                               f"open {cid_file}: {os.strerror(error.errno or 0).lower()}"
                               ) from None
    return container_id


def _place_mac_address(session: Session, body: dict[str, Any]) -> None:
    """Keep the MAC address where the daemon's API version has it: with the endpoint from 1.44 on."""
    known = session.engine.version or session.engine.daemon_api_version()
    major, _, minor = known.partition(".")
    if not minor.isdigit() or (int(major), int(minor)) >= (1, 44):
        del body["MacAddress"]


def _image_is_missing(error: DaemonError) -> bool:
    return error.status == 404 and "no such image" in error.message.lower()


def _pull(session: Session, flags: Flags, image: str, platform: str) -> None:
    from pallet.cli.commands.pull import pull_image

    pull_image(session, image, platform=platform, quiet=flags["quiet"], to_stderr=True)


def check_reference(image: str) -> None:
    """Refuse an image name that is no reference and no id.

    Raises:
        CommandError: with Docker's words.
    """
    from pallet.cli.references import parse_reference

    if len(image) == 64 and not set(image) - set("0123456789abcdef"):
        return
    parse_reference(image)


def tagged(image: str) -> str:
    """Return ``image`` with ``:latest`` where it has neither tag nor digest."""
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"
