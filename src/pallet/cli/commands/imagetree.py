"""``pallet images --tree``: images with the platforms of each that are here.

Spec   docker CLI ``image ls --tree``: the same columns, colours on a terminal only.
"""

from __future__ import annotations

import os
import sys

from pallet.cli.errors import CommandError
from pallet.cli.format.units import human_size
from pallet.cli.format.views import short_id
from pallet.cli.session import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags

    Record = dict[str, Any]

_COLUMNS = (("ID", 12, "<"), ("DISK USAGE", 10, ">"), ("CONTENT SIZE", 12, ">"), ("EXTRA", 5, "<"))
_SPACING = 3
_LEAST_NAME = 12
_OTHERS = (("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest"), ("format", "format"))
_BOLD, _NAME, _PLAIN, _FAINT, _CHIP = "\033[39;1m", "\033[34;1m", "\033[39m", "\033[2m", "\033[30;102m"
_RESET = "\033[0m"


def refuse_others(flags: Flags) -> None:
    """Refuse what does not go with ``--tree``.

    Raises:
        CommandError: with Docker's words.
    """
    for flag, name in _OTHERS:
        if flags[flag]:
            raise CommandError(f"--{name} is not yet supported with --tree")


def show(images: list[Record]) -> None:
    """Print the tree of ``images``, each with its ``Manifests``, in their order."""
    _Tree(images, on_terminal=sys.stdout.isatty()).show()


class _Tree:
    def __init__(self, images: list[Record], *, on_terminal: bool) -> None:
        self._images = images
        self._on_terminal = on_terminal
        self._screen = _screen_width()
        left, columns = self._screen, []
        for column in _COLUMNS:
            if left - column[1] - _SPACING < _LEAST_NAME:
                break
            left -= column[1] + _SPACING
            columns.append(column)
        self._columns = columns
        names = [name for image in images for name in image.get("RepoTags") or ()]
        names += [_branch(one, last=True) for image in images for one in _platforms(image)]
        # Docker counts bytes; a branch is four more than it shows.
        self._name_width = min(left, max([len("IMAGE"), *(len(name.encode()) for name in names)]))

    def show(self) -> None:
        out(("Info -> " + self._chip(" U ") + "In Use ").rjust(self._screen + self._invisible()))
        out("")
        titles = ["IMAGE".ljust(self._name_width), *(f"{name:{side}{width}}" for name, width, side in self._columns)]
        out((" " * _SPACING).join(self._painted(title, _BOLD) for title in titles))
        spaced = any(_platforms(image) for image in self._images)
        for image in self._images:
            self._image(image)
            if spaced:
                out("")

    def _image(self, image: Record) -> None:
        platforms = _platforms(image)
        *above, last = sorted(image.get("RepoTags") or ()) or ["<untagged>"]
        for name in above:
            # Nothing follows these on their line: the whole width is theirs.
            out(self._painted(_cut(name, self._screen) if self._on_terminal else name, _NAME))
        content = sum(one["Size"]["Content"] for one in image.get("Manifests") or ())
        used = image.get("Containers", 0) > 0 or any(map(_in_use, platforms))
        self._line(last, image["Id"], (image["Size"], content), used=used,
                   color=_NAME if image.get("RepoTags") else _FAINT)
        for at, one in enumerate(platforms, 1):
            size = one["Size"]
            self._line(_branch(one, last=at == len(platforms)), one["ID"], (size["Total"], size["Content"]),
                       used=_in_use(one), color=_PLAIN if one["Available"] else _FAINT)

    def _line(self, name: str, digest: str, sizes: tuple[int, int], *, used: bool, color: str) -> None:
        chip = self._chip(" U ") + "  " if used and self._on_terminal else "U" if used else ""
        cells = (short_id(digest), *(human_size(size, 3) for size in sizes), chip)
        rest = [cell if cell == chip and self._on_terminal else f"{cell:{side}{width}}"
                for cell, (_, width, side) in zip(cells, self._columns, strict=False)]
        out((" " * _SPACING).join([self._name(name, color), *rest]))

    def _name(self, name: str, color: str) -> str:
        return self._painted(_cut(name, self._name_width).ljust(self._name_width), color)

    def _chip(self, text: str) -> str:
        return self._painted(text, _CHIP)

    def _painted(self, text: str, color: str) -> str:
        return f"{color}{text}{_RESET}" if self._on_terminal else text

    def _invisible(self) -> int:
        return len(_CHIP + _RESET) if self._on_terminal else 0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width - 1] + "…"


def _platforms(image: Record) -> list[Record]:
    return [one for one in image.get("Manifests") or () if one.get("Kind") == "image"]


def _in_use(manifest: Record) -> bool:
    return bool((manifest.get("ImageData") or {}).get("Containers"))


def _branch(manifest: Record, *, last: bool) -> str:
    platform = manifest["ImageData"]["Platform"]
    parts = (platform.get("os") or "unknown", platform.get("architecture"), platform.get("variant"))
    return ("└─ " if last else "├─ ") + "/".join(part for part in parts if part)


def _screen_width() -> int:
    try:
        return max(20, os.get_terminal_size(1).columns or 80)
    except OSError:
        return 80
