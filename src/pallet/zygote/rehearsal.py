"""Walking through a start ahead of it.

A forked child pays for each page of the zygote's heap that it touches first, several hundred of
them on the way to a container's exec: every function called and object used has its reference count
written. A spare shim and its spare init have time for that before they are needed.

Owns   harmless calls of what a start calls.
Runs   in spare shims and spare inits.
"""

from __future__ import annotations

import contextlib
import os

from pallet.linux import caps, namespaces, procfs, safepath
from pallet.linux import mount as m
from pallet.runtime import options, search, user
from pallet.runtime.cgroup import open_cgroup
from pallet.runtime.failure import StartFailureError
from pallet.spec import runtime as oci
from pallet.spec.mounts import RootMount
from pallet.zygote import messages
from pallet.zygote.poller import Poller
from pallet.zygote.stdio import Hub

_NOWHERE = "/proc/self/nowhere"
_FLAGS = ["nosuid", "noexec", "nodev"]
_NAMES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]

_REQUEST = messages.encoder.encode(messages.StartContainer(
    id="0" * 64, shim_dir=_NOWHERE,
    root=RootMount(base_dir=_NOWHERE, lower=["a", "b"], upper="u", work="w", options=["volatile"]),
    stdio=messages.Stdio(log=messages.LogSink(path=_NOWHERE), attach=[
        messages.Attach(stream_id=1, stdout=True)]),
    spec=oci.Spec(
        process=oci.Process(args=["sh"], env=["PATH=/bin", "A=b"], user=oci.User(),
                            rlimits=[oci.Rlimit(type="RLIMIT_NOFILE", soft=1, hard=1)],
                            capabilities=oci.Capabilities(
                                bounding=_NAMES, effective=_NAMES, permitted=_NAMES)),
        root=oci.Root(path="rootfs"), hostname="box",
        mounts=[oci.Mount(destination="/proc", type="proc", source="proc", options=_FLAGS),
                oci.Mount(destination="/x", type="bind", source=_NOWHERE,
                          options=["rbind", "rprivate", "ro"])],
        linux=oci.Linux(
            namespaces=[oci.Namespace(type=kind) for kind in messages.ALL_NAMESPACES],
            sysctl={"a.b": "c"}, masked_paths=[_NOWHERE], readonly_paths=[_NOWHERE],
            cgroups_path="/pallet/x", resources=oci.LinuxResources(
                devices=[oci.DeviceRule(allow=False, access="rwm")],
                memory=oci.MemoryResources(limit=1), pids=oci.PidsResources(limit=1))))))

_ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\n"
_GROUP = "root:x:0:\n"


def _decode() -> messages.StartContainer:
    request = messages.request_decoder.decode(_REQUEST)
    assert isinstance(request, messages.StartContainer)
    return request


def of_shim() -> None:
    """Touch what a shim needs until its container runs."""
    request = _decode()
    hub = Hub(Poller(), messages.Stdio(open_stdin=True), terminal=False, fork=lambda _body: 0,
              on_stream_end=lambda _key, _how: None)
    for fd in hub.make_pipes():
        os.close(fd)
    hub.open_log()
    hub.complete_log()
    own = os.getpid()
    messages.encoder.encode(messages.ShimState(
        id=request.id, shim_pid=own, shim_start_time=procfs.start_time(own), pid=own,
        pid_start_time=0, started_at_ns=0, cgroups_path="/pallet/x"))
    messages.encoder.encode(messages.Started(pid=1, shim_pid=own, started_at_ns=1))
    open_cgroup("/pallet/x").exists()


def of_init() -> None:
    """Touch what an init needs until its exec. Precondition: umask and cwd do not matter yet."""
    request = _decode()
    for mount in request.spec.mounts:
        parsed = options.parse(mount.options)
        parsed.attributes()
        parsed.cleared_attributes()
    user.resolve("0:0", ["0"], _ACCOUNTS, _GROUP)
    user.read_database(_NOWHERE)
    with contextlib.suppress(StartFailureError):
        search.find_program("nowhere", "/proc")
    for attempt in (
        lambda: m.mount("none", _NOWHERE, "tmpfs", data="mode=755"),
        lambda: m.clone_tree(_NOWHERE, recursive=True),
        lambda: m.set_attributes(_NOWHERE, attr_set=1),
        lambda: m.attach_tree(-1, -1),
        lambda: namespaces.setns(-1, 0),
        lambda: safepath.open_in_root(-1, "x"),
        lambda: os.mknod(_NOWHERE, 0, 0),
        lambda: os.symlink("x", _NOWHERE),
    ):
        with contextlib.suppress(OSError):
            attempt()
    caps.mask_of(_NAMES)
    caps.drop_bounding(caps.available())
    os.setgroups(os.getgroups())
    os.umask(0)
    open_cgroup("/pallet/x").directories()
