"""What a BuildKit client says about a build, as the builder's own request.

Owns   the mapping of FrontendAttrs, exporters and cache options. Pure.
Spec   buildkit-wire "frontend-attrs", "exporter", "cache".
"""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import TYPE_CHECKING, Final, Literal

from pallet.build.ports import FrontendOptions
from pallet.build.request import BuildRequest, CacheLink, Export
from pallet.errors import InvalidParameterError
from pallet.spec.dockerfile.syntax import is_builtin
from pallet.spec.platform import parse as parse_platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pallet.api.buildkit.wire import control_pb2, gateway_pb2
    from pallet.build.ports import BuildClient

_NUMBERS: Final = ("memory", "memswap", "cpushares", "cpuperiod", "cpuquota")
_Kind = Literal["image", "local", "tar", "oci", "docker", "cacheonly"]
_EXPORTERS: Final[dict[str, _Kind]] = {
    "moby": "image", "image": "image", "registry": "image", "local": "local", "tar": "tar", "oci": "oci",
    "docker": "docker", "cacheonly": "cacheonly"}


def image_of(name: str, attrs: Mapping[str, str]) -> str:
    """The image that a front end is, with its arguments; "" for the one that is built in.

    Raises:
        InvalidParameterError: an unknown name, or no image.
    """
    if name in {"", "dockerfile.v0"}:
        return ""
    if name != "gateway.v0":
        message = f"frontend {name} not found"
        raise InvalidParameterError(message)
    source = attrs.get("source", "")
    if not source:
        message = "no source specified for gateway"
        raise InvalidParameterError(message)
    if is_builtin(source):
        return ""
    cmdline = attrs.get("cmdline", "")
    return cmdline if cmdline.partition(" ")[0] == source else source


def frontend_options(attrs: Mapping[str, str], entitlements: Iterable[str]) -> FrontendOptions:
    """Read FrontendAttrs.

    Raises:
        InvalidParameterError: a value is malformed.
    """
    no_cache = attrs.get("no-cache")
    network = attrs.get("force-network-mode", "")
    return FrontendOptions(
        filename=attrs.get("filename", "") or "Dockerfile",
        target=attrs.get("target", ""),
        platforms=tuple(parse_platform(text.strip()) for text in _list(attrs.get("platform", ""))),
        build_args=_prefixed(attrs, "build-arg:"),
        labels=_prefixed(attrs, "label:"),
        no_cache=no_cache == "",
        no_cache_stages=tuple(_list(no_cache or "")),
        pull=attrs.get("image-resolve-mode", "") == "pull",
        network="default" if network in {"", "sandbox"} else network,
        hostname=attrs.get("hostname", ""),
        contexts=_prefixed(attrs, "context:"),
        context_subdirectory=attrs.get("contextsubdir", ""),
        remote_context=attrs.get("context", ""),
        cmdline=attrs.get("cmdline", ""),
        multi_platform=_boolean("multi-platform", attrs.get("multi-platform", "")),
        entitlements=frozenset(entitlements),
        cgroup_parent=attrs.get("cgroup-parent", ""),
        resources={key: _number(key, attrs[key]) for key in _NUMBERS if attrs.get(key)},
        cpuset_cpus=attrs.get("cpusetcpus", ""),
        cpuset_mems=attrs.get("cpusetmems", ""),
        shm_size_bytes=_number("shm-size", attrs.get("shm-size") or "0"),
        ulimits=tuple(_ulimit(text) for text in _list(attrs.get("ulimit", ""))),
        extra_hosts=tuple(_host(text) for text in _list(attrs.get("add-hosts", ""))),
    )


def build_request(request: control_pb2.SolveRequest, attrs: Mapping[str, str],
                  imports: Iterable[gateway_pb2.CacheOptionsEntry], options: FrontendOptions,
                  inputs: Mapping[str, tuple[BuildRequest, BuildClient]]) -> BuildRequest:
    """Put a whole request together.

    Args:
        attrs: of the front end, as the solve over the bridge has them.
        imports: caches that the bridge's solve names on top.
        inputs: builds whose results are contexts of this one.

    Raises:
        InvalidParameterError: an exporter that nobody knows.
    """
    asked = [CacheLink(kind=link.Type, attributes=dict(link.Attrs)) for link in request.Cache.Imports]
    asked += [CacheLink(kind=link.Type, attributes=dict(link.Attrs)) for link in imports]
    links = {(link.kind, tuple(sorted(link.attributes.items()))): link for link in asked + _attribute_imports(attrs)}
    return BuildRequest(
        ref=request.Ref, options=options, exports=exports(request), cache_imports=tuple(links.values()),
        cache_exports=tuple(CacheLink(kind=link.Type, attributes=dict(link.Attrs)) for link in request.Cache.Exports),
        attestations=_prefixed(attrs, "attest:"), inputs=inputs, attributes=attrs, session=request.Session)


def attributes_of(options: FrontendOptions) -> dict[str, str]:
    """``frontend_options`` the other way round: what a front end that is an image is told of a build."""
    network = {"default": ""}.get(options.network, options.network)
    found = {
        "filename": options.filename, "target": options.target, "force-network-mode": network,
        "platform": ",".join(str(one) for one in options.platforms), "hostname": options.hostname,
        "image-resolve-mode": "pull" if options.pull else "", "contextsubdir": options.context_subdirectory,
        "context": options.remote_context, "cgroup-parent": options.cgroup_parent,
        "cpusetcpus": options.cpuset_cpus, "cpusetmems": options.cpuset_mems,
        "shm-size": str(options.shm_size_bytes or ""), "multi-platform": "true" if options.multi_platform else "",
        "no-cache": ",".join(options.no_cache_stages),
        "ulimit": ",".join(f"{name}={soft}:{hard}" for name, soft, hard in options.ulimits),
        "add-hosts": ",".join(f"{name}={address}" for name, address in options.extra_hosts),
        **{key: str(value) for key, value in options.resources.items()},
        **{f"build-arg:{name}": value for name, value in options.build_args.items()},
        **{f"label:{name}": value for name, value in options.labels.items()},
        **{f"context:{name}": value for name, value in options.contexts.items()}}
    found = {key: value for key, value in found.items() if value or key.startswith(("build-arg:", "label:"))}
    return found | ({"no-cache": ""} if options.no_cache else {})


def exports(request: control_pb2.SolveRequest) -> tuple[Export, ...]:
    """Read the exporters; older clients name one in the fields that are deprecated now."""
    asked = [(exporter.Type, dict(exporter.Attrs)) for exporter in request.Exporters]
    if not asked and request.ExporterDeprecated:
        asked = [(request.ExporterDeprecated, dict(request.ExporterAttrsDeprecated))]
    found = []
    for number, (kind, attributes) in enumerate(asked):
        if kind not in _EXPORTERS:
            message = f"exporter {json.dumps(kind)} could not be found"
            raise InvalidParameterError(message)
        implied = {"push": "true"} if kind == "registry" else {}
        found.append(Export(kind=_EXPORTERS[kind], attributes={**implied, **attributes}, id=str(number)))
    return tuple(found)


def _attribute_imports(attrs: Mapping[str, str]) -> list[CacheLink]:
    text = attrs.get("cache-imports", "")
    found = [CacheLink(kind="registry", attributes={"ref": ref}) for ref in _list(attrs.get("cache-from", ""))]
    if text:
        try:
            found += [CacheLink(kind=str(entry["Type"]), attributes=dict(entry.get("Attrs") or {}))
                      for entry in json.loads(text)]
        except (ValueError, KeyError, TypeError) as error:
            message = f"failed to unmarshal cache imports: {error}"
            raise InvalidParameterError(message) from error
    return found


def _prefixed(attrs: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key[len(prefix):]: value for key, value in sorted(attrs.items()) if key.startswith(prefix)}


def _list(text: str) -> list[str]:
    return [field for row in csv.reader([text]) for field in row if field]


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"{key}: {json.dumps(text)} is not a number"
        raise InvalidParameterError(message) from error


def _boolean(key: str, text: str) -> bool:
    if text in {"", "0", "f", "F", "false", "False", "FALSE"}:
        return False
    if text in {"1", "t", "T", "true", "True", "TRUE"}:
        return True
    message = f"{key}: invalid boolean value {json.dumps(text)}"
    raise InvalidParameterError(message)


def _ulimit(text: str) -> tuple[str, int, int]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return name, _number("ulimit", soft), _number("ulimit", hard or soft)


def _host(text: str) -> tuple[str, str]:
    name, sign, address = text.partition("=")
    if not sign:
        name, sign, address = text.partition(":")
    if not sign:
        message = f"invalid additional host {json.dumps(text)}"
        raise InvalidParameterError(message)
    return name, address


def without_outputs(request: BuildRequest) -> BuildRequest:
    """The same build, for its cache alone."""
    return dataclasses.replace(request, exports=(), cache_exports=(), attestations={})
