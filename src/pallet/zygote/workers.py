"""The functions a daemon may have run in a zygote child.

Owns   the tables only. The zygote imports the modules at its start, so that a worker's fork finds
       them warm; a module that is not there is left out.
Runs   in the zygote.

A worker is ``run(request: bytes, fds: list[int]) -> bytes`` or returns ``(bytes, list[int])`` with
descriptors for the daemon. It runs in a process of its own, in the host's mount namespace until it
leaves that (``layer.rootview``), may change anything of that process, and raises the kinds of
``pallet.errors`` (or ``OSError``).
"""

from __future__ import annotations

WORKERS: dict[str, tuple[str, str]] = {
    "shim.cleanup": ("pallet.zygote.cleanup", "run"),
    "host.platforms": ("pallet.zygote.platforms", "run"),
    "network.sandboxes": ("pallet.zygote.netsandbox", "run"),
    "layer.apply": ("pallet.layer.worker", "run_apply"),
    "layer.copyup": ("pallet.layer.worker", "run_copyup"),
    "layer.diff": ("pallet.layer.diffworker", "run_layer"),
    "layer.export": ("pallet.layer.diffworker", "run_tree"),
    "layer.changes": ("pallet.layer.diffworker", "run_changes"),
    "container.archive": ("pallet.zygote.archive", "run"),
    "build.squash": ("pallet.build.exportworker", "run_squash"),
    "build.packages": ("pallet.build.exportworker", "run_packages"),
    "build.subjects": ("pallet.build.exportworker", "run_subjects"),
    "build.untar": ("pallet.build.contextworker", "run_untar"),
    "container.freeze": ("pallet.zygote.freeze", "run"),
    "layer.verify": ("pallet.layer.verify", "run_verify"),
    "layer.index": ("pallet.layer.index", "run_index"),
    "layer.explore": ("pallet.layer.explore", "run_explore"),
    "layer.seal": ("pallet.layer.seal", "run_seal"),
    "layer.tar": ("pallet.layer.seal", "run_tar"),
    "build.files": ("pallet.build.ops.fileworker", "run_files"),
    "build.digest": ("pallet.build.ops.fileworker", "run_digest"),
    "build.git": ("pallet.build.ops.gitworker", "run"),
}

HEAVY = frozenset({
    "layer.apply", "layer.copyup", "layer.verify", "layer.index", "layer.explore", "layer.diff",
    "layer.export", "layer.changes", "container.archive", "build.untar", "build.squash",
    "build.packages", "host.platforms", "layer.seal", "layer.tar", "build.files",
    "build.digest", "build.git", "build.subjects"})
"""Kinds whose modules (decompression, hashing) the zygote itself does not import: a process of
its own, forked when the first of them is asked for, does, and shims need not carry them."""
