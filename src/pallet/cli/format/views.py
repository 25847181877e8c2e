"""The fields of containers, images, networks, volumes and history lines, as Docker's lists have them.

Owns   how one Engine API record becomes the text of each column. Pure.
Spec   docker CLI "Format the output" of ps, images, network ls, volume ls, history.
"""

from __future__ import annotations

from pallet.cli.flags import go_quote
from pallet.cli.format.table import View
from pallet.cli.format.units import ZERO_TIME, ago, go_time, human_size, local_rfc3339, local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Record = dict[str, Any]

CONTAINER_TABLE = ("{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t"
                   "{{.Names}}")
IMAGE_TABLE = ("{{.Repository}}\t{{.Tag}}\t{{.ID}}\t"
               "{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}")
IMAGE_DIGEST_TABLE = IMAGE_TABLE.replace("{{.Tag}}\t", "{{.Tag}}\t{{.Digest}}\t")
NETWORK_TABLE = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
VOLUME_TABLE = "{{.Driver}}\t{{.Name}}"
_HISTORY_FROM = 946684800  # 2000: docker takes times up to it for made up, and tells no age
HISTORY_TABLE = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"


def short_id(text: str) -> str:
    """Return the first 12 hex digits of an id or digest."""
    return text.rpartition(":")[2][:12] if ":" in text else text[:12]


def ellipsis(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` characters, the last one an ellipsis."""
    if len(text) <= limit:
        return text
    return text[:limit - 1] + "…" if limit > 1 else text[:limit]


def joined_labels(labels: dict[str, str] | None) -> str:
    """Return ``k=v,k=v`` in key order."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def _label(record: Record, name: str) -> str:
    return str((record.get("Labels") or {}).get(name, ""))


# -- containers -----------------------------------------------------------------------------------


def display_ports(ports: Iterable[Record]) -> str:
    """Return ``0.0.0.0:80->80/tcp, 443/tcp``; runs of equal published ports become ranges."""
    ordered = sorted(ports, key=lambda port: (
        port["PrivatePort"], port.get("IP", ""), port.get("PublicPort", 0), port["Type"]))
    runs: dict[tuple[str, str], list[int]] = {}
    done: list[str] = []
    mapped: list[str] = []
    for port in ordered:
        private, address = port["PrivatePort"], port.get("IP", "")
        if address and port.get("PublicPort", 0) != private:
            host = f"[{address}]" if ":" in address else address
            mapped.append(f"{host}:{port.get('PublicPort', 0)}->{private}/{port['Type']}")
            continue
        key = (address, port["Type"])
        run = runs.get(key)
        if run and private == run[1] + 1:
            run[1] = private
        elif run:
            done.append(_port_run(key, run))
            run[:] = [private, private]
        else:
            runs[key] = [private, private]
    done += [_port_run(key, run) for key, run in runs.items()]
    return ", ".join(done + mapped)


def _port_run(key: tuple[str, str], run: list[int]) -> str:
    address, proto = key
    text = str(run[0]) if run[0] == run[1] else f"{run[0]}-{run[1]}"
    if address:
        host = f"[{address}]" if ":" in address else address
        text = f"{host}:{text}->{text}"
    return f"{text}/{proto}"


def container_view(*, truncate: bool) -> View:
    """Return the fields of ``ps``; ``truncate`` shortens ids, commands and mounts."""
    def names(record: Record) -> str:
        found = [name.removeprefix("/") for name in record.get("Names") or ()]
        if truncate:
            found = [name for name in found if "/" not in name]
        return ",".join(found)

    def image(record: Record) -> str:
        text = str(record.get("Image") or "<no image>")
        if truncate:
            if short_id(record.get("ImageID", "")) == short_id(text):
                return short_id(text)
            name, _, digest = text.partition("@")
            return name if digest else text
        return text

    def mounts(record: Record) -> str:
        found = [mount.get("Name") or mount.get("Source", "")
                 for mount in record.get("Mounts") or ()]
        return ",".join(ellipsis(name, 15) if truncate else name for name in found)

    def command(record: Record) -> str:
        text = record.get("Command") or ""
        return go_quote(ellipsis(text, 20) if truncate else text)

    def size(record: Record) -> str:
        text = human_size(record.get("SizeRw", 0), 3)
        whole = record.get("SizeRootFs", 0)
        return f"{text} (virtual {human_size(whole, 3)})" if whole > 0 else text

    return View("*formatter.ContainerContext", {
        "ID": ("CONTAINER ID", lambda c: short_id(c["Id"]) if truncate else c["Id"]),
        "Names": ("NAMES", names),
        "Image": ("IMAGE", image),
        "Command": ("COMMAND", command),
        "CreatedAt": ("CREATED AT", lambda c: local_time(c["Created"])),
        "RunningFor": ("CREATED", lambda c: ago(c["Created"])),
        "Ports": ("PORTS", lambda c: display_ports(c.get("Ports") or ())),
        "State": ("STATE", lambda c: c.get("State", "")),
        "Status": ("STATUS", lambda c: c.get("Status", "")),
        "Size": ("SIZE", size),
        "Labels": ("LABELS", lambda c: joined_labels(c.get("Labels"))),
        "Mounts": ("MOUNTS", mounts),
        "LocalVolumes": ("LOCAL VOLUMES", lambda c: str(sum(
            1 for mount in c.get("Mounts") or () if mount.get("Driver") == "local"))),
        "Platform": ("PLATFORM", lambda c: (c.get("ImageManifestDescriptor") or {}).get("platform")),
        "Networks": ("NETWORKS", lambda c: ",".join(
            sorted((c.get("NetworkSettings") or {}).get("Networks") or {}))),
    }, {"Label": _label})


# -- images ---------------------------------------------------------------------------------------


def image_rows(images: Iterable[Record], *, digests: bool) -> list[Record]:
    """Return one record a line of ``images``: an image has one for each tag (and digest)."""
    rows: list[Record] = []
    for image in images:
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        refs = [ref for ref in image.get("RepoDigests") or () if ref != "<none>@<none>"]
        by_repo: dict[str, list[str]] = {}
        for tag in tags:
            repo, _, name = tag.rpartition(":")
            by_repo.setdefault(repo, []).append(name)
        digests_of: dict[str, list[str]] = {}
        for ref in refs:
            repo, _, digest = ref.partition("@")
            digests_of.setdefault(repo, []).append(digest)
        found = [
            (repo, name, digest) for repo, names in by_repo.items() for name in names
            for digest in (digests_of.get(repo, ["<none>"]) if digests else ["<none>"])]
        found += [(repo, "<none>", digest) for repo, known in digests_of.items()
                  if repo not in by_repo for digest in (known if digests else known[:1])]
        for repo, name, digest in found or [("<none>", "<none>", "<none>")]:
            rows.append({**image, "_repo": repo, "_tag": name,
                         "_digest": digest if digests else "<none>"})
    return rows


def _count(value: int | None) -> str:
    return "N/A" if value is None or value < 0 else str(value)


def _maybe_size(value: int | None) -> str:
    return "N/A" if value is None or value < 0 else human_size(value)


def image_view(*, truncate: bool, pins: bool = False) -> View:
    """Return the fields of ``images`` for records of ``image_rows``; with ``pins`` Pallet's own too."""
    def unique(image: Record) -> str:
        shared = image.get("SharedSize", -1)
        return "N/A" if shared < 0 else human_size(image["Size"] - shared)

    return View("*formatter.imageContext", {
        "ID": ("IMAGE ID", lambda i: short_id(i["Id"]) if truncate else i["Id"]),
        "Repository": ("REPOSITORY", lambda i: i["_repo"]),
        "Tag": ("TAG", lambda i: i["_tag"]),
        "Digest": ("DIGEST", lambda i: i["_digest"]),
        "CreatedSince": ("CREATED", lambda i: "" if i["Created"] == ZERO_TIME else ago(i["Created"])),
        "CreatedAt": ("CREATED AT", lambda i: local_time(i["Created"])),
        "Size": ("SIZE", lambda i: human_size(i["Size"], 3)),
        "Containers": ("CONTAINERS", lambda i: _count(i.get("Containers"))),
        "VirtualSize": ("SIZE", lambda i: human_size(i["Size"])),
        "SharedSize": ("SHARED SIZE", lambda i: _maybe_size(i.get("SharedSize"))),
        "UniqueSize": ("UNIQUE SIZE", unique),
        **({"Pinned": ("PINNED", lambda i: str(i["_pinned"]).lower())} if pins else {}),
    })


def history_view(*, truncate: bool, human: bool) -> View:
    """Return the fields of ``history``; ``human`` prints ages and sizes in words."""
    def identity(layer: Record) -> str:
        return short_id(layer["Id"]) if truncate and ":" in layer["Id"] else str(layer["Id"])

    def created_by(layer: Record) -> str:
        text = (layer.get("CreatedBy") or "").replace("\t", " ")
        return ellipsis(text, 45) if truncate else text

    def created_since(layer: Record) -> str:
        if not human:
            return local_rfc3339(layer["Created"])
        return ago(layer["Created"]) if layer["Created"] > _HISTORY_FROM else "N/A"

    return View("*formatter.historyContext", {
        "ID": ("IMAGE", identity),
        "CreatedAt": ("CREATED AT", lambda h: local_rfc3339(h["Created"])),
        "CreatedSince": ("CREATED" if human else "CREATED AT", created_since),
        "CreatedBy": ("CREATED BY", created_by),
        "Size": ("SIZE", lambda h: human_size(h["Size"], 3) if human else str(h["Size"])),
        "Comment": ("COMMENT", lambda h: h.get("Comment", "")),
    })


# -- networks and volumes -------------------------------------------------------------------------


def _word(value: object) -> str:
    return "true" if value else "false"


def network_view(*, truncate: bool) -> View:
    """Return the fields of ``network ls``."""
    return View("*network.networkContext", {
        "ID": ("NETWORK ID", lambda n: short_id(n["Id"]) if truncate else n["Id"]),
        "Name": ("NAME", lambda n: n["Name"]),
        "Driver": ("DRIVER", lambda n: n["Driver"]),
        "Scope": ("SCOPE", lambda n: n["Scope"]),
        "IPv4": ("IPV4", lambda n: _word(n.get("EnableIPv4"))),
        "IPv6": ("IPV6", lambda n: _word(n.get("EnableIPv6"))),
        "Internal": ("INTERNAL", lambda n: _word(n.get("Internal"))),
        "Labels": ("LABELS", lambda n: joined_labels(n.get("Labels"))),
        "CreatedAt": ("CREATED AT", lambda n: go_time(n.get("Created", ""))),
    }, {"Label": _label})


def volume_view() -> View:
    """Return the fields of ``volume ls``."""
    def usage(volume: Record, field: str) -> int | None:
        value = (volume.get("UsageData") or {}).get(field)
        return value if isinstance(value, int) else None

    return View("*formatter.volumeContext", {
        "Name": ("VOLUME NAME", lambda v: v["Name"]),
        "Driver": ("DRIVER", lambda v: v["Driver"]),
        "Scope": ("SCOPE", lambda v: v.get("Scope", "")),
        "Mountpoint": ("MOUNTPOINT", lambda v: v.get("Mountpoint", "")),
        "Labels": ("LABELS", lambda v: joined_labels(v.get("Labels"))),
        "Links": ("LINKS", lambda v: _count(usage(v, "RefCount"))),
        "Size": ("SIZE", lambda v: _maybe_size(usage(v, "Size"))),
        "Availability": ("AVAILABILITY", lambda _: "N/A"),
        "Group": ("GROUP", lambda _: "N/A"),
        "Status": ("STATUS", lambda _: "N/A"),
    }, {"Label": _label})
