"""``exec`` operations: commands with their mounts, and the file systems that they leave.

Runs   anywhere; pure.
Spec   BuildKit's ``pb.ExecOp``. An output is the root, or a writable mount that has an output's number.
"""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING, Literal

from pallet.api.buildkit.wire import llb_pb2
from pallet.build.graph import RunMount, RunOp, ScratchOp, Vertex
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.api.buildkit.llb.definition import Place

_NONE = -1
_SHARING: dict[int, Literal["shared", "private", "locked"]] = {
    llb_pb2.SHARED: "shared", llb_pb2.PRIVATE: "private", llb_pb2.LOCKED: "locked"}
_NETWORKS: dict[int, Literal["default", "none", "host"]] = {
    llb_pb2.UNSET: "default", llb_pb2.HOST: "host", llb_pb2.NONE: "none"}


def roots(op: llb_pb2.ExecOp) -> set[int]:
    """Inputs that something is written on: trees of clients have to be layers there."""
    return {mount.input for mount in op.mounts
            if mount.mountType == llb_pb2.BIND and (_is_root(mount) or not mount.readonly)}


def vertices(op: llb_pb2.ExecOp, inputs: Sequence[Vertex], place: Place) -> dict[int, Vertex]:
    """The command's outputs by their numbers.

    Raises:
        InvalidParameterError: no root, no command, or an input that is not there.
    """
    root = next((mount for mount in op.mounts if _is_root(mount)), None)
    if root is None or not op.meta.args:
        message = "invalid exec op: no root mount" if root is None else "invalid exec op: no command"
        raise InvalidParameterError(message)
    texts = (*op.meta.args, *op.meta.env, op.meta.cwd, *(text for mount in op.mounts for text in (
        mount.dest, mount.selector)))
    if any("\0" in text for text in texts):
        message = "invalid exec op: a null byte"
        raise InvalidParameterError(message)
    given = [_input(root.input, inputs) or Vertex(op=ScratchOp(), name="")]
    mounts: list[RunMount] = []
    outputs: dict[int, int | Vertex | None] = {}
    if root.output >= 0:
        outputs[root.output] = given[0] if root.readonly else None
    for mount in op.mounts:
        if _is_root(mount):
            continue
        made = _mount(mount, inputs, given, op.meta.cwd)
        if mount.mountType == llb_pb2.BIND and mount.output >= 0:
            below = _input(mount.input, inputs) or Vertex(op=ScratchOp(), name="")
            outputs[mount.output] = len(mounts) if made.kept else below
        mounts.append(made)
    mounts += [RunMount(kind="secret", target="", id=secret.ID, env=secret.name, required=not secret.optional)
               for secret in op.secretenv]
    command = _command(op, tuple(mounts), readonly=root.readonly)
    first = Vertex(op=command, inputs=tuple(given), name=place.name, span=place.span,
                   ignore_cache=place.ignore_cache, platform=place.platform)
    found: dict[int, Vertex] = {}
    for number, which in outputs.items():
        if isinstance(which, Vertex):
            found[number] = which
        else:
            found[number] = first if which is None else dataclasses.replace(
                first, op=dataclasses.replace(command, output=which))
    return found


def _is_root(mount: llb_pb2.Mount) -> bool:
    return mount.mountType == llb_pb2.BIND and posixpath.normpath(f"/{mount.dest.lstrip('/')}") == "/"


def _input(number: int, inputs: Sequence[Vertex]) -> Vertex | None:
    if number == _NONE:
        return None
    if not 0 <= number < len(inputs):
        message = f"invalid input index {number}: there are {len(inputs)}"
        raise InvalidParameterError(message)
    return inputs[number]


def _command(op: llb_pb2.ExecOp, mounts: tuple[RunMount, ...], *, readonly: bool) -> RunOp:
    meta = op.meta
    proxies = meta.proxy_env
    proxy = {"http_proxy": proxies.http_proxy, "https_proxy": proxies.https_proxy, "ftp_proxy": proxies.ftp_proxy,
             "no_proxy": proxies.no_proxy, "all_proxy": proxies.all_proxy}
    unkeyed = [f"{key}={value}" for name, value in proxy.items() if value for key in (name.upper(), name)]
    return RunOp(
        args=tuple(meta.args), env=tuple(meta.env), unkeyed_env=tuple(unkeyed),
        cwd=posixpath.normpath(meta.cwd or "/"), user=meta.user, network=_NETWORKS.get(op.network, "default"),
        security="insecure" if op.security == llb_pb2.INSECURE else "sandbox", hostname=meta.hostname, mounts=mounts,
        devices=tuple(f"{device.name}{'' if device.optional else ',required'}" for device in op.cdiDevices),
        readonly_root=readonly, valid_exit_codes=tuple(meta.validExitCodes),
        extra_hosts=tuple((host.Host, host.IP) for host in meta.extraHosts),
        ulimits=tuple((limit.Name, limit.Soft, limit.Hard) for limit in meta.ulimit),
        cgroup_parent=meta.cgroupParent)


def _mount(mount: llb_pb2.Mount, inputs: Sequence[Vertex], given: list[Vertex], cwd: str) -> RunMount:
    """One mount; what it comes from is added to the vertex's inputs."""
    target = posixpath.normpath(posixpath.join("/", cwd, mount.dest))
    if mount.mountType == llb_pb2.TMPFS:
        return RunMount(kind="tmpfs", target=target, readonly=False, size_bytes=mount.TmpfsOpt.size)
    if mount.mountType in (llb_pb2.SECRET, llb_pb2.SSH):
        secret = mount.mountType == llb_pb2.SECRET
        wanted = mount.secretOpt if secret else mount.SSHOpt
        return RunMount(kind="secret" if secret else "ssh", target=target, id=wanted.ID, uid=wanted.uid,
                        gid=wanted.gid, mode=wanted.mode or None, required=not wanted.optional)
    below = _input(mount.input, inputs)
    slot = None
    if below is not None:
        slot = next((number for number, one in enumerate(given) if number and one is below), len(given))
        if slot == len(given):
            given.append(below)
    source = posixpath.normpath(f"/{mount.selector.lstrip('/')}")
    if mount.mountType == llb_pb2.CACHE:
        return RunMount(kind="cache", target=target, input=slot, source=source, readonly=mount.readonly,
                        id=mount.cacheOpt.ID, sharing=_SHARING.get(mount.cacheOpt.sharing, "shared"))
    return RunMount(kind="bind", target=target, input=slot, source=source, readonly=mount.readonly,
                    kept=mount.output >= 0 and not mount.readonly)
