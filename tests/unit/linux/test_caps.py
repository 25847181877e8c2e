"""Capability names and masks."""

from __future__ import annotations

from pathlib import Path

from pallet.linux import caps


def test_the_table_is_the_kernels() -> None:
    """capabilities(7): the last one is CAP_CHECKPOINT_RESTORE, number 40, since Linux 5.9."""
    assert len(set(caps.NAMES)) == len(caps.NAMES) == 41
    assert caps.NUMBERS["CAP_SYS_ADMIN"] == 21
    assert caps.NUMBERS["CAP_SETFCAP"] == 31
    assert caps.NUMBERS["CAP_CHECKPOINT_RESTORE"] == 40


def test_last_cap_is_the_kernels() -> None:
    assert caps.last_cap() == int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def test_masks_and_names_are_each_others_inverse() -> None:
    names = ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]
    assert caps.mask_of(names) == 1 | 1 << 21 | 1 << 40
    assert caps.names_of(caps.mask_of(reversed(names))) == names


def test_unknown_names_are_left_out() -> None:
    assert caps.mask_of(["CAP_FUTURE", "CAP_KILL"]) == 1 << 5


def test_available_is_what_proc_says() -> None:
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines()
                  if line.startswith("Cap"))
    assert caps.available() == int(status["CapPrm"], 16) & int(status["CapBnd"], 16)
