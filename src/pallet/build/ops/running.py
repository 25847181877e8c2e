"""From a RUN to a step: mounts, secrets, agents and caches as things of this host.

Owns   what a step's mounts come from, for the time it runs.
Runs   on the loop.
Spec   Dockerfile reference RUN --mount, --network, --security; BuildKit's entitlements.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.build.cachekey import chain_key
from pallet.build.devices import grant
from pallet.build.ops.cachemounts import name_of
from pallet.build.ops.fileworker import Input
from pallet.build.ports import Step, StepMount
from pallet.errors import InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pallet.build import graph
    from pallet.build.devices import Devices
    from pallet.build.job import Job, Solved
    from pallet.build.ops.cachemounts import CacheMounts
    from pallet.build.ops.trees import Trees
    from pallet.build.ports import FrontendOptions
    from pallet.build.remotecache.mounts import MountImporter

_INSECURE, _HOST_NETWORK = "security.insecure", "network.host"
_PIPES = "/dev/pipes"
_CACHE_MODE = 0o755
_SECRET_MODE, _AGENT_MODE, _PIPE_MODE = 0o400, 0o600, 0o755


class KeepMount(Protocol):
    """Makes the snapshot of a mount that is an output: of its number and the layers below it, its key."""

    async def __call__(self, number: int, layers: Sequence[str], /) -> str:
        """Make one."""
        ...


class StepMaker:
    """Makes steps of RUN operations."""

    def __init__(self, caches: CacheMounts, trees: Trees, elsewhere: MountImporter, devices: Devices) -> None:
        self._caches = caches
        self._trees = trees
        self._elsewhere = elsewhere
        self._devices = devices

    @asynccontextmanager
    async def make(self, key: str, op: graph.RunOp, inputs: Sequence[Solved], job: Job,
                   keep: KeepMount) -> AsyncIterator[Step]:
        """Give the step for the time of its run.

        Args:
            keep: makes the snapshots of mounts that are outputs.

        Raises:
            InvalidParameterError: it needs an entitlement that was not given, or a secret that is unknown.
            NotFoundError: a device that it requires is not there.
        """
        check_entitlements(op, job)
        devices = await self._devices_of(op, job)
        async with AsyncExitStack() as stack:
            mounts: list[StepMount] = []
            env = [*op.env, *op.unkeyed_env]
            for number, mount in enumerate(op.mounts):
                made = await self._mount(mount, inputs, job, stack, env)
                if made is not None and mount.kept:
                    made = replace(made, snapshot=await keep(number, made.layers))
                if made is not None:
                    mounts.append(made)
            mounts += [StepMount(target=f"{_PIPES}/{name}", kind="file", data=text.encode("utf-8", "surrogateescape"),
                                 mode=_PIPE_MODE) for name, text in op.heredocs]
            yield Step(
                id=key, args=op.args, env=tuple(env), cwd=op.cwd, user=op.user,
                network=op.network if op.network != "default" else job.options.network,
                insecure=op.security == "insecure", hostname=op.hostname or job.options.hostname,
                mounts=tuple(mounts), devices=devices, options=_options(op, job.options),
                readonly_root=op.readonly_root)

    async def _devices_of(self, op: graph.RunOp, job: Job) -> tuple[str, ...]:
        if not op.devices:
            return ()
        catalog = await run_blocking(self._devices.look)
        return tuple(grant(op.devices, job.options.entitlements, catalog))

    async def _mount(self, mount: graph.RunMount, inputs: Sequence[Solved], job: Job, stack: AsyncExitStack,
                     env: list[str]) -> StepMount | None:
        if mount.kind == "tmpfs":
            return StepMount(target=mount.target, kind="tmpfs", size_bytes=mount.size_bytes, mode=mount.mode)
        if mount.kind == "secret":
            return await self._secret(mount, job, env)
        if mount.kind == "ssh":
            dial = await job.client.ssh_agent(mount.id or "default")
            if dial is None:
                if mount.required:
                    message = f"unset ssh forward key {mount.id or 'default'}"
                    raise InvalidParameterError(message)
                return None
            if not any(entry.startswith("SSH_AUTH_SOCK=") for entry in env):
                env.append(f"SSH_AUTH_SOCK={mount.target}")  # the first one is the one that ssh looks for
            return StepMount(target=mount.target, kind="socket", dial=dial, uid=mount.uid, gid=mount.gid,
                             mode=_AGENT_MODE if mount.mode is None else mount.mode)
        if mount.kind == "cache":
            return await self._cache(mount, inputs, stack, job)
        return await self._bind(mount, inputs, stack, job)

    async def _secret(self, mount: graph.RunMount, job: Job, env: list[str]) -> StepMount | None:
        data = await job.client.secret(mount.id)
        if data is None:
            if mount.required:
                message = f"secret {mount.id}: not found"
                raise NotFoundError(message)
            return None
        if mount.env:
            env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
        if not mount.target:
            return None
        return StepMount(target=mount.target, kind="file", data=data, uid=mount.uid, gid=mount.gid,
                         mode=_SECRET_MODE if mount.mode is None else mount.mode)

    async def _bind(self, mount: graph.RunMount, inputs: Sequence[Solved], stack: AsyncExitStack,
                    job: Job) -> StepMount:
        layers: tuple[str, ...] = ()
        if mount.input is not None:
            solved = inputs[mount.input]
            if solved.tree is not None:
                solved = await stack.enter_async_context(self._trees.layered(solved.tree, job))
            layers = solved.layers
        return StepMount(target=mount.target, kind="overlay", layers=layers, subpath=mount.source,
                         readonly=mount.readonly)

    async def _cache(self, mount: graph.RunMount, inputs: Sequence[Solved], stack: AsyncExitStack,
                     job: Job) -> StepMount:
        solved = None if mount.input is None else inputs[mount.input]
        cache_id = cache_mount_id(mount, solved)
        # Nobody else's mounts wait for what travels.
        unpack = None if self._caches.has(name_of(cache_id)) else await self._elsewhere.fetch(name_of(cache_id), job)

        async def begin(path: str) -> None:
            if unpack is not None and await unpack(path):
                return
            if solved is not None:
                given = (Input(path=solved.tree.root) if solved.tree is not None
                         else await self._trees.input(solved.layers))
                await self._trees.copy(given, mount.source or "/", path)

        directory = await stack.enter_async_context(self._caches.use(
            cache_id, mount.sharing, f"cached mount {mount.target} from exec", fill=begin,
            mode=_CACHE_MODE if mount.mode is None else mount.mode, owner=(mount.uid, mount.gid)))
        return StepMount(target=mount.target, kind="bind", source=directory, readonly=mount.readonly)


def _options(op: graph.RunOp, options: FrontendOptions) -> FrontendOptions:
    """The request's options with the command's own."""
    if not (op.extra_hosts or op.ulimits or op.cgroup_parent):
        return options
    return replace(options, extra_hosts=(*options.extra_hosts, *op.extra_hosts),
                   ulimits=(*options.ulimits, *op.ulimits),
                   cgroup_parent=op.cgroup_parent or options.cgroup_parent)


def cache_mount_id(mount: graph.RunMount, begins: Solved | None) -> str:
    """What names a cache mount; the same on every daemon.

    Args:
        begins: what its input came to, where it has one.
    """
    found = mount.id or mount.target
    if begins is not None:
        found = f"{found}\0{chain_key(begins.layers)}\0{mount.source or '/'}"
    mode = _CACHE_MODE if mount.mode is None else mount.mode
    if (mount.uid, mount.gid, mode) != (0, 0, _CACHE_MODE):
        found += f"\0{mount.uid}:{mount.gid}:{mode:o}"  # BuildKit: another owner, another cache
    return found


def check_entitlements(op: graph.RunOp, job: Job) -> None:
    """Refuse what the client has not allowed.

    Raises:
        InvalidParameterError: BuildKit's words.
    """
    given = job.options.entitlements
    for wanted, needed in ((_INSECURE, op.security == "insecure"), (_HOST_NETWORK, op.network == "host")):
        if needed and wanted not in given:
            message = f"{wanted} is not allowed"
            raise InvalidParameterError(message)


