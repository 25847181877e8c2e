"""``pallet manifest create``, ``annotate``, ``inspect``, ``push`` and ``rm``.

The lists are docker's: what one program begins the other can finish.
"""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.manifest.store import ManifestLists, missing, raw
from pallet.cli.references import parse_reference
from pallet.cli.session import out
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.manifest.remote import Remote
    from pallet.cli.session import Session
    from pallet.spec.reference import Reference

_INSECURE = ("insecure", "", "bool", "Allow communication with an insecure registry")
CREATE_FLAGS: Table = (
    ("amend", "a", "bool", "Amend an existing manifest list"),
    _INSECURE,
)
ANNOTATE_FLAGS: Table = (
    ("arch", "", "string", "Set architecture"),
    ("os", "", "string", "Set operating system"),
    ("os-features", "", "strings", "Set operating system feature"),
    ("os-version", "", "string", "Set operating system version"),
    ("variant", "", "string", "Set architecture variant"),
)
INSPECT_FLAGS: Table = (
    _INSECURE,
    ("verbose", "v", "bool", "Output additional info including layers and platform"),
)
PUSH_FLAGS: Table = (
    _INSECURE,
    ("purge", "p", "bool", "Remove the local manifest list after push"),
)
RM_FLAGS: Table = ()

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
_OS_ARCHES = {
    "darwin": "386 amd64 arm arm64", "dragonfly": "amd64", "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 ppc64le mips64 mips64le riscv64 s390x", "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm", "plan9": "386 amd64", "solaris": "amd64", "windows": "386 amd64",
}


def _named(text: str) -> Reference:
    reference = parse_reference(text)
    return reference if reference.digest else reference.with_default_tag()


def _remote(session: Session, flags: Flags) -> Remote:
    from pallet.cli.manifest.remote import Remote

    return Remote(session, insecure=flags["insecure"])


def create(session: Session, flags: Flags) -> int:
    """``pallet manifest create LIST IMAGE…``: looks the images up in their registries."""
    target = _named(flags.args[0])
    lists = ManifestLists(session.config_dir)
    if lists.exists(target) and not flags["amend"]:
        raise CommandError("refusing to amend an existing manifest list with no --amend flag")
    with _remote(session, flags) as remote:
        for text in flags.args[1:]:
            reference = _named(text)
            entry = lists.find(target, reference) or remote.entry(
                reference, remote.manifest(reference))
            lists.save(target, reference, entry)
    out(f"Created manifest list {target}")
    return 0


def annotate(session: Session, flags: Flags) -> int:
    """``pallet manifest annotate LIST IMAGE``: says what an image of the list is for."""
    target, image = _named(flags.args[0]), _named(flags.args[1])
    lists = ManifestLists(session.config_dir)
    entry = lists.find(target, image)
    if entry is None:
        raise CommandError(f"manifest for image {flags.args[1]} does not exist in {flags.args[0]}")
    old = entry["Descriptor"].get("platform") or {}
    features = [*old.get("os.features", []), *flags["os-features"]]
    platform = {
        "architecture": flags["arch"] or old.get("architecture", ""),
        "os": flags["os"] or old.get("os", ""),
        "os.version": flags["os-version"] or old.get("os.version", ""),
        "os.features": list(dict.fromkeys(features)),
        "variant": flags["variant"] or old.get("variant", "")}
    system, architecture = platform["os"], platform["architecture"]
    if architecture not in _OS_ARCHES.get(str(system), "").split():
        raise CommandError("manifest entry for image has unsupported os/arch combination: "
                           f"{flags['os']}/{flags['arch']}")
    entry["Descriptor"]["platform"] = {
        key: value for key, value in platform.items() if value or key in ("architecture", "os")}
    lists.save(target, image, entry)
    return 0


def inspect(session: Session, flags: Flags) -> int:
    """``pallet manifest inspect [LIST] IMAGE``: the local list first, then the registry."""
    lists = ManifestLists(session.config_dir)
    reference = _named(flags.args[-1])
    if len(flags.args) == 2:
        entry = lists.find(_named(flags.args[0]), reference)
        if entry is None:
            raise missing(reference)
        _show_image(entry, verbose=flags["verbose"])
        return 0
    if lists.exists(reference):
        _show_list(reference, lists.images(reference), verbose=flags["verbose"])
        return 0
    with _remote(session, flags) as remote:
        stored = remote.manifest(reference)
        if not stored.is_index:
            _show_image(remote.entry(reference, stored), verbose=flags["verbose"])
            return 0
        entries = []
        for child in stored.index().manifests:
            own = reference.with_digest(child.digest)
            entry = remote.entry(own, remote.manifest(own))
            entry["Ref"] = f"{reference.without_digest()}@{child.digest}"
            listed = child.platform
            if listed is not None:
                entry["Descriptor"]["platform"] = _platform(
                    architecture=listed.architecture, os=listed.os, os_version=listed.os_version,
                    os_features=list(listed.os_features or ()), variant=listed.variant)
            entries.append(entry)
    _show_list(reference, entries, verbose=flags["verbose"])
    return 0


def _platform(*, architecture: str, os: str, os_version: str, os_features: list[str],
              variant: str) -> dict[str, Any]:
    optional = {"os.version": os_version, "os.features": os_features, "variant": variant}
    return {"architecture": architecture, "os": os,
            **{key: value for key, value in optional.items() if value}}


def _show_image(entry: dict[str, Any], *, verbose: bool) -> None:
    if verbose:
        out(wire.indent(wire.escape_html(wire.encode_text(entry)), "\t"))
    else:
        out(wire.indent(raw(entry).decode("utf-8", "replace"), "\t"))


def _show_list(target: Reference, entries: list[dict[str, Any]], *, verbose: bool) -> None:
    if verbose:
        out(wire.indent(wire.escape_html(wire.encode_text(entries)), "\t"))
    else:
        out(_document(target, entries))


def _list_type(entries: list[dict[str, Any]]) -> str:
    """The first image's kind decides, as docker has it."""
    return OCI_INDEX if entries[0]["Descriptor"]["mediaType"] == OCI_MANIFEST else LIST_TYPE


def _document(target: Reference, entries: list[dict[str, Any]]) -> str:
    """The list as it is pushed: three blanks of indentation, as docker's library has it."""
    manifests = []
    for entry in entries:
        descriptor = entry["Descriptor"]
        source = parse_reference(entry["Ref"])
        if source.domain != target.domain:
            raise CommandError("cannot use source images from a different registry than the target "
                               f"image: {source.domain} != {target.domain}")
        manifests.append({
            "mediaType": descriptor["mediaType"], "size": descriptor["size"],
            "digest": descriptor["digest"],
            "platform": descriptor.get("platform") or {"architecture": "", "os": ""}})
    document = {"schemaVersion": 2, "mediaType": _list_type(entries), "manifests": manifests}
    return wire.indent(wire.escape_html(wire.encode_text(document)), "   ")


def push(session: Session, flags: Flags) -> int:
    """``pallet manifest push LIST``: the images by digest where they are elsewhere, the list last."""
    target = _named(flags.args[0])
    lists = ManifestLists(session.config_dir)
    entries = lists.images(target)
    if not entries:
        raise CommandError(f"{target} not found")
    for entry in entries:
        platform = entry["Descriptor"].get("platform") or {}
        if not platform.get("architecture") or not platform.get("os"):
            raise CommandError(f"manifest {entry['Ref']} must have an OS and Architecture to be "
                               "pushed to a registry")
    document = _document(target, entries).encode()
    with _remote(session, flags) as remote:
        for entry in entries:
            source = parse_reference(entry["Ref"])
            if source.name == target.name:
                continue
            remote.mount(target, source, raw(entry))
            digest = remote.put(target, entry["Descriptor"]["digest"], raw(entry),
                                entry["Descriptor"]["mediaType"])
            out(f"Pushed ref {target.repository()}@{digest} with digest: {digest}")
        out(remote.put(target, target.digest or target.tag or "latest", document,
                       _list_type(entries)))
    if flags["purge"]:
        lists.remove(target)
    return 0


def rm(session: Session, flags: Flags) -> int:
    """``pallet manifest rm LIST…``."""
    lists = ManifestLists(session.config_dir)
    failures = []
    for text in flags.args:
        try:
            lists.remove(_named(text))
        except CommandError as error:
            failures.append(str(error))
    if failures:
        raise CommandError("\n".join(failures))
    return 0
