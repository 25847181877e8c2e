"""A container with a user namespace of its own: the process between shim and init.

Owns   the order that makes it work: the root is mounted with the host's rights, then comes the
       user namespace, and inside it every other namespace, so that it owns them.
Runs   in a child of the shim, which ends once it has forked the init.
Needs  CAP_SYS_ADMIN; id maps are written by the shim.
Spec   runtime-spec config-linux.md#user-namespace-mappings; user_namespaces(7).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.linux import mount as m
from pallet.linux import namespaces
from pallet.runtime import init, process, sysctl
from pallet.runtime.failure import StartFailureError

if TYPE_CHECKING:
    from pallet.runtime.init import InitPlan
    from pallet.runtime.rootfs import Prepared
    from pallet.runtime.sync import InitSide


def run(plan: InitPlan, sync: InitSide) -> None:
    """Make the user namespace and fork the init into it.

    Raises:
        StartFailureError: a step failed.
    """
    process.restore_signals()
    os.umask(0)
    sysctl.check(plan.spec.linux.sysctl, plan.spec.linux.namespaces, plan.netns_fd)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
    except OSError as error:
        raise StartFailureError.of(error, "entering namespaces") from error
    prepared = init.prepare_mounts(plan)
    os.close(init.mount_root(plan))
    try:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        sync.request_maps()
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if any(entry.type == "pid" and not entry.path for entry in plan.spec.linux.namespaces):
            namespaces.unshare(namespaces.CLONE_NEWPID)
    except OSError as error:
        raise StartFailureError.of(error, "entering the user namespace") from error
    pid = os.fork()
    if not pid:
        _run_init(plan, sync, prepared)
    sync.send_pid(pid)
    os._exit(0)


def _run_init(plan: InitPlan, sync: InitSide, prepared: list[Prepared]) -> None:
    os.setsid()
    init.enter_namespaces(plan)
    # Mounts inherited from a more privileged mount namespace are locked in place, and a locked
    # mount cannot become the root: a clone of it can.
    tree_fd = m.clone_tree(plan.mount_point, recursive=True)
    target_fd = os.open(plan.mount_point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    m.attach_tree(tree_fd, target_fd)
    os.close(target_fd)
    os.close(tree_fd)
    root_fd = os.open(plan.mount_point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    init.execute(plan, init.set_up(plan, sync, prepared, root_fd), sync)
