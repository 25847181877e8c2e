"""Environment and label files, binds, tmpfs and devices of ``run`` and ``create``."""

from __future__ import annotations

import os

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def environment(
    files: Iterable[str], given: Iterable[str], env: Mapping[str, str]
) -> list[str]:
    """Return ``K=V`` entries: files first, then ``--env``.

    A name without ``=`` takes its value from ``env``. Without one there, a file's entry is left
    out, and ``--env NAME`` is sent as it is, which removes the image's variable.

    Raises:
        CommandError: a file cannot be read or is malformed.
    """
    entries = [entry for path in files for entry in read_pairs(path, "environment")]
    found = [entry if "=" in entry else f"{entry}={env[entry]}"
             for entry in entries if "=" in entry or entry in env]
    found += [f"{entry}={env[entry]}" if "=" not in entry and entry in env else entry
              for entry in given]
    return found


def labels(files: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """Return labels: files first, then ``--label``, where a key alone has an empty value."""
    entries = [entry for path in files for entry in read_pairs(path, "label") if "=" in entry]
    return pairs([*entries, *given])


def pairs(entries: Iterable[str]) -> dict[str, str]:
    """Return a map of ``k=v`` entries; ``k`` alone has an empty value."""
    split = (entry.partition("=") for entry in entries)
    return {key: value for key, _, value in split}


def read_pairs(path: str, what: str) -> list[str]:
    """Return the entries of an environment or label file, comments and blank lines left out.

    Raises:
        CommandError: as above.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CommandError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        raise CommandError(f"invalid utf8 bytes in {path}") from None
    found = []
    for line in text.splitlines():
        entry = line.lstrip()
        if not entry or entry.startswith("#"):
            continue
        name, equals, value = entry.partition("=")
        if not name:
            raise CommandError(f"invalid {what} variable: {entry}"
                               if what == "environment" else f"invalid label: {entry}")
        if any(char.isspace() for char in name) and (equals or name != name.rstrip()
                                                     or " " in name.strip()):
            subject = "variable" if what == "environment" else "label"
            raise CommandError(
                f"poorly formatted environment: {subject} '{name}' contains whitespaces")
        found.append(f"{name}={value}" if equals else name)
    return found


def volumes(specs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return binds (``SOURCE:TARGET[:OPTIONS]``) and anonymous volume targets of ``--volume``.

    Raises:
        CommandError: a value has empty or too many sections.
    """
    binds, anonymous = [], []
    for spec in specs:
        if not spec:
            raise CommandError("invalid empty volume spec")
        parts = spec.split(":")
        if len(spec) > 1 and not all(parts):
            raise CommandError(f"invalid spec: {spec}: empty section between colons")
        if len(parts) > 3:
            raise CommandError(f"invalid spec: {spec}: too many colons")
        if len(parts) == 1 or len(spec) == 1:
            anonymous.append(spec)
            continue
        source = parts[0]
        if source.startswith("."):
            source = os.path.abspath(source)
        binds.append(":".join([source, *parts[1:]]))
    return binds, anonymous


def tmpfs(specs: Iterable[str]) -> dict[str, str]:
    """Return target to options of ``--tmpfs``."""
    split = (spec.partition(":") for spec in specs)
    return {target: options for target, _, options in split}


def devices(specs: Iterable[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Return Devices documents and CDI names (``vendor.com/class=name``) of ``--device``.

    Raises:
        CommandError: a value is malformed.
    """
    found, cdi = [], []
    for spec in specs:
        if "=" in spec and not spec.startswith("/"):
            cdi.append(spec)
            continue
        parts = spec.split(":")
        if len(parts) > 3:
            raise CommandError(f"bad format for path: {spec}")
        path, mode = "", "rwm"
        if len(parts) == 3:
            path, mode = parts[1], parts[2]
            if not _is_device_mode(mode):
                raise CommandError(f"bad mode specified: {mode}")
        elif len(parts) == 2:
            if _is_device_mode(parts[1]):
                mode = parts[1]
            else:
                path = parts[1]
        path = path or parts[0]
        if not path.startswith("/"):
            raise CommandError(f"{path} is not an absolute path")
        found.append({"PathOnHost": parts[0], "PathInContainer": path, "CgroupPermissions": mode})
    return found, cdi


def _is_device_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and not set(text) - set("rwm")
