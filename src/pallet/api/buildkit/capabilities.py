"""What a client is told this builder can do: capabilities and the worker.

Runs   anywhere; pure.
Spec   buildkit-wire "gateway-cap", "llb-cap", "flow: Info and worker labels".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.wire import apicaps_pb2, gateway_pb2, llb_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.api.buildkitbackend import BuildKitDoor, DeviceFacts
    from pallet.spec.platform import Platform

_FRONTEND: Final = (
    "frontend.caps", "frontend.inputs", "gateway.evaluate", "gateway.solve.evaluate", "gateway.solve.metadata",
    "gateway.warnings", "importcaches", "proto.refarray", "readdir", "readfile", "reference.output", "resolveimage",
    "resolveimage.resolvemode", "return", "returnmap", "solve.base", "solve.inlinereturn", "source.metaresolver",
    "statfile",
)
_LLB: Final = (
    "constraints", "diffop", "exec.cgroup", "exec.meta.base", "exec.meta.cdi", "exec.meta.cgroup.parent",
    "exec.meta.network", "exec.meta.proxyenv", "exec.meta.security", "exec.meta.setsdefaultpath", "exec.meta.ulimit",
    "exec.mount.bind", "exec.mount.bind.readwrite-nooutput", "exec.mount.cache", "exec.mount.cache.sharing",
    "exec.mount.secret", "exec.mount.selector", "exec.mount.ssh", "exec.mount.tmpfs", "exec.mount.tmpfs.size",
    "exec.secretenv", "exec.validexitcode", "exporter.image.annotations", "exporter.image.attestations",
    "exporter.multiple", "exporter.sourcedateepoch", "file.base", "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.includeexcludepatterns", "file.copy.modestring", "file.rm.nofollowsymlink", "file.rm.wildcard",
    "file.symlink.create", "gc.freespacefilter", "mergeop", "meta.description", "meta.ignorecache", "passthroughop",
    "platform", "soruce.http.uidgid", "source.buildop.llbfilename", "source.git", "source.git.checksum",
    "source.git.fetchbycommit", "source.git.fullurl", "source.git.httpauth", "source.git.keepgitdir",
    "source.git.knownsshhosts", "source.git.mountsshsock", "source.git.mtime", "source.git.skipsubmodules",
    "source.git.subdir", "source.http", "source.http.checksum", "source.http.perm", "source.image",
    "source.image.checksum", "source.image.resolvemode", "source.local", "source.local.excludepatterns",
    "source.local.followpaths", "source.local.includepatterns", "source.local.sessionid", "source.local.sharedkeyhint",
    "source.local.unique", "source.ocilayout",
)
BUILDKIT_PACKAGE: Final = "github.com/moby/buildkit"
SNAPSHOTTER_LABEL: Final = "org.mobyproject.buildkit.worker.snapshotter"


def worker(door: BuildKitDoor, platforms: Sequence[Platform], devices: Sequence[DeviceFacts] = (), *,
           moby_suffix: bool = True) -> worker_pb2.WorkerRecord:
    """Describe the one worker there is."""
    labels = {SNAPSHOTTER_LABEL: "overlayfs"}
    if gateway := door.host_gateway():
        labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = gateway
    record = worker_pb2.WorkerRecord(
        ID=door.worker_id, Labels=labels, platforms=[platform_message(platform) for platform in platforms],
        BuildkitVersion=version(door, moby_suffix=moby_suffix))
    for device in devices:
        record.CDIDevices.add(Name=device.name, AutoAllow=device.allowed, Annotations=device.annotations)
    for rule in door.gc_rules():
        record.GCPolicy.add(
            all=rule.all, keepDuration=rule.keep_duration_ns, filters=rule.filters, reservedSpace=rule.reserved_bytes,
            maxUsedSpace=rule.max_used_bytes, minFreeSpace=rule.min_free_bytes)
    return record


def version(door: BuildKitDoor, *, moby_suffix: bool) -> worker_pb2.BuildkitVersion:
    """The version clients see; a worker's says in its suffix that it is an engine's."""
    return worker_pb2.BuildkitVersion(package=BUILDKIT_PACKAGE,
                                      version=f"v{door.version}" + ("-moby" if moby_suffix else ""))


def platform_message(platform: Platform) -> llb_pb2.Platform:
    """A platform on this wire."""
    return llb_pb2.Platform(Architecture=platform.architecture, OS=platform.os, Variant=platform.variant,
                            OSVersion=platform.os_version, OSFeatures=platform.os_features or ())


def pong(door: BuildKitDoor) -> gateway_pb2.PongResponse:
    """Answer a ping over the bridge."""
    return gateway_pb2.PongResponse(
        FrontendAPICaps=[apicaps_pb2.APICap(ID=name, Enabled=True) for name in _FRONTEND],
        LLBCaps=[apicaps_pb2.APICap(ID=name, Enabled=True) for name in _LLB],
        Workers=[worker(door, door.native())])
