"""What is installed in a root file system: dpkg's, apk's and Python's own records.

Owns   the scanner behind ``--sbom``: packages with versions and package URLs.
Runs   in a zygote child; every path is resolved inside the root.
Spec   deb-control(5), apk's installed database, PEP 376, package-url.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from pallet.errors import SyscallError
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_FILE_BYTES = 256 << 20
_MAX_METADATA_BYTES = 1 << 20
_PYTHON = re.compile(r"python3(\.[0-9]+)?\Z")
_PYTHON_ROOTS = ("usr/lib", "usr/local/lib", "opt/venv/lib", "venv/lib")
_SITES = ("dist-packages", "site-packages")


class Package(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installed package."""

    kind: str
    """``deb``, ``apk`` or ``pypi``."""
    name: str
    version: str
    architecture: str = ""
    license: str = ""
    maintainer: str = ""
    url: str
    """Package URL."""


def scan(root_fd: int) -> tuple[list[Package], str]:
    """List the packages, sorted, and the distribution's id."""
    distribution = _distribution(root_fd)
    found = [*_dpkg(root_fd, distribution), *_apk(root_fd, distribution), *_python(root_fd)]
    return sorted(dict.fromkeys(found, None), key=lambda item: (item.kind, item.name, item.version)), distribution


def _read(root_fd: int, path: str, limit_bytes: int = _MAX_FILE_BYTES) -> str:
    try:
        fd = safepath.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except SyscallError:
        return ""
    with os.fdopen(fd, "rb") as file:
        try:
            return file.read(limit_bytes).decode("utf-8", "replace")
        except OSError:
            return ""  # a directory


def _names(root_fd: int, path: str) -> list[str]:
    try:
        fd = safepath.open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _distribution(root_fd: int) -> str:
    text = _read(root_fd, "/etc/os-release", _MAX_METADATA_BYTES) or _read(
        root_fd, "/usr/lib/os-release", _MAX_METADATA_BYTES)
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "ID":
            return value.strip("\"' ")
    return ""


def _paragraphs(text: str, separator: str) -> Iterator[dict[str, str]]:
    """Fields of each paragraph; continuation lines are dropped."""
    fields: dict[str, str] = {}
    for line in [*text.split("\n"), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t":
            name, _, value = line.partition(separator)
            fields[name] = value.strip()


def _dpkg(root_fd: int, distribution: str) -> Iterator[Package]:
    texts = [_read(root_fd, "/var/lib/dpkg/status")]
    # Images without a package manager keep one file a package.
    texts += [_read(root_fd, f"/var/lib/dpkg/status.d/{name}", _MAX_METADATA_BYTES)
              for name in _names(root_fd, "/var/lib/dpkg/status.d") if not name.endswith(".md5sums")]
    for text in texts:
        for fields in _paragraphs(text, ":"):
            name, version = fields.get("Package", ""), fields.get("Version", "")
            if not name or not version or "installed" not in fields.get("Status", "install ok installed").split():
                continue
            architecture = fields.get("Architecture", "")
            yield Package(
                kind="deb", name=name, version=version, architecture=architecture,
                maintainer=fields.get("Maintainer", ""),
                url=_url("deb", distribution or "debian", name, version, architecture))


def _apk(root_fd: int, distribution: str) -> Iterator[Package]:
    text = _read(root_fd, "/lib/apk/db/installed") or _read(root_fd, "/usr/lib/apk/db/installed")
    for fields in _paragraphs(text, ":"):
        name, version = fields.get("P", ""), fields.get("V", "")
        if name and version:
            yield Package(
                kind="apk", name=name, version=version, architecture=fields.get("A", ""),
                license=fields.get("L", ""), maintainer=fields.get("m", ""),
                url=_url("apk", distribution or "alpine", name, version, fields.get("A", "")))


def _python(root_fd: int) -> Iterator[Package]:
    for top in _PYTHON_ROOTS:
        for interpreter in _names(root_fd, f"/{top}"):
            if not _PYTHON.match(interpreter):
                continue
            for site in _SITES:
                directory = f"/{top}/{interpreter}/{site}"
                for name in _names(root_fd, directory):
                    yield from _distribution_info(root_fd, directory, name)


def _distribution_info(root_fd: int, directory: str, name: str) -> Iterator[Package]:
    if name.endswith(".dist-info"):
        text = _read(root_fd, f"{directory}/{name}/METADATA", _MAX_METADATA_BYTES)
    elif name.endswith(".egg-info"):
        path = f"{directory}/{name}"
        text = _read(root_fd, f"{path}/PKG-INFO", _MAX_METADATA_BYTES) or _read(root_fd, path, _MAX_METADATA_BYTES)
    else:
        return
    fields = next(_paragraphs(text, ":"), {})
    if fields.get("Name") and fields.get("Version"):
        plain = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
        yield Package(kind="pypi", name=fields["Name"], version=fields["Version"],
                      license=fields.get("License", "")[:200],
                      url=f"pkg:pypi/{quote(plain)}@{quote(fields['Version'])}")


def _url(kind: str, namespace: str, name: str, version: str, architecture: str) -> str:
    found = f"pkg:{kind}/{quote(namespace)}/{quote(name)}@{quote(version, safe='')}"
    return f"{found}?arch={quote(architecture)}" if architecture else found
