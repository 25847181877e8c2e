"""Attestations: where an image comes from (provenance) and what is in it (SBOM), beside it in its index.

Owns   the predicates, the statements and their manifest.
Runs   on the loop; a zygote child lists packages.
Spec   in-toto Statement v0.1, SLSA provenance v0.2 as BuildKit writes it, SPDX 2.3; BuildKit's
       "Attestation storage".
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from pallet import __version__
from pallet.aio import run_blocking
from pallet.build import graph
from pallet.build.cachekey import in_order
from pallet.build.export.documents import encode
from pallet.build.export.values import names_of
from pallet.build.exportworker import PackagesReply, PackagesRequest
from pallet.errors import InvalidParameterError
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec.engine.wire import rfc3339_nano
from pallet.spec.platform import Platform
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.export.documents import Documents, Written
    from pallet.build.export.model import ExportJob
    from pallet.build.graph import Plan, Target
    from pallet.build.ports import SolvedTarget
    from pallet.build.request import BuildRequest, Export

PROVENANCE = "https://slsa.dev/provenance/v0.2"
SPDX = "https://spdx.dev/Document"
STATEMENT = "https://in-toto.io/Statement/v0.1"
_NOT_TOLD = ("attest:", "filename", "context", "platform", "image-resolve-mode", "multi-platform", "cache-", "hostname",
             "local-sessionid:", "sharedkey:", "frontend.caps")
"""Of what a front end was told: what is told elsewhere, or is of one client."""
_BUILD_TYPE = "https://mobyproject.org/buildkit@v1"
_MEDIA_TYPE = "application/vnd.in-toto+json"
_PREDICATE_KEY = "in-toto.io/predicate-type"
_NAMESPACE = "https://pallet.invalid/spdx/"


def wanted(request: BuildRequest) -> dict[str, dict[str, str]]:
    """Attestations of a request with their attributes.

    Raises:
        InvalidParameterError: an unknown kind or mode.
    """
    found: dict[str, dict[str, str]] = {}
    for kind, text in request.attestations.items():
        fields = dict(part.partition("=")[::2] for part in text.split(",") if part)
        if fields.get("disabled") in {"true", "1", ""} and "disabled" in fields:
            continue
        if kind not in {"provenance", "sbom"}:
            message = f"unknown attestation type {kind}"
            raise InvalidParameterError(message)
        if kind == "provenance" and fields.get("mode", "min") not in {"min", "max"}:
            message = f"invalid mode {fields['mode']!r} for provenance".replace("'", '"')
            raise InvalidParameterError(message)
        if fields.get("inline-only") in {"true", "1"}:
            continue
        found[kind] = fields
    return found


def provenance(request: BuildRequest, plan: Plan, target: Target, *, mode: str, started_ns: int,
               scanner: graph.ImageSource | None = None) -> bytes:
    """The predicate of one platform's provenance, as JSON.

    Args:
        scanner: the image that said what is in it, where one did.
    """
    options = request.options
    vertices = in_order([target.vertex])
    args: dict[str, str] = {}
    if mode == "max":
        args |= {f"build-arg:{name}": value for name, value in options.build_args.items()}
        args |= {f"label:{name}": value for name, value in options.labels.items()}
    args |= {f"context:{name}": value for name, value in options.contexts.items()}
    if options.target:
        args["target"] = options.target
    locals_ = sorted({vertex.op.name for vertex in vertices if isinstance(vertex.op, graph.LocalSource)}
                     | ({"dockerfile"} if plan.front_end is None or plan.front_end.name else set()))
    source: dict[str, Any] = {"entryPoint": options.filename}
    if options.remote_context:
        source["uri"] = options.remote_context
    front_end = plan.front_end or graph.FrontEnd(name="dockerfile.v0")
    args |= {name: value for name, value in front_end.attributes.items() if not name.startswith(_NOT_TOLD)}
    if front_end.image is not None:
        vertices.append(graph.Vertex(op=front_end.image, name=""))
    if scanner is not None:
        vertices.append(graph.Vertex(op=scanner, name=""))
    parameters: dict[str, Any] = {"frontend": front_end.name} if front_end.name else {}
    if args:
        parameters["args"] = args
    if not options.remote_context:
        parameters["locals"] = [{"name": name} for name in locals_]
    metadata: dict[str, Any] = {
        "buildInvocationID": request.ref, "buildStartedOn": rfc3339_nano(started_ns),
        "buildFinishedOn": rfc3339_nano(time.time_ns()),
        "completeness": {"parameters": mode == "max", "environment": True, "materials": not locals_},
        "reproducible": False}
    found: dict[str, Any] = {
        "builder": {"id": ""}, "buildType": _BUILD_TYPE, "materials": _materials(vertices),
        "invocation": {"configSource": source, "parameters": parameters,
                       "environment": {"platform": str(target.platform)}},
        "metadata": metadata}
    if mode == "max":
        found["buildConfig"] = {"definition": _definition(vertices)}
        metadata[f"{_BUILD_TYPE}#metadata"] = {"source": {"infos": [
            {"filename": name, "data": _base64(text), "language": "Dockerfile"}
            for name, text in plan.sources.items()]}}
    return msgspec.json.encode(found)


def _materials(vertices: Sequence[graph.Vertex]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for vertex in vertices:
        op = vertex.op
        if isinstance(op, graph.ImageSource) and op.reference:
            name, _, tag = op.reference.partition("@")[0].rpartition(":")
            uri = f"pkg:docker/{(name or tag).removeprefix('docker.io/library/')}"
            uri += f"@{tag}" if name else ""
            uri += f"?platform={quote(str(op.platform), safe='')}"
            found[uri] = {"uri": uri, "digest": {"sha256": digests.encoded(op.digest)}}
        elif isinstance(op, graph.HttpSource):
            algorithm, _, value = op.checksum.partition(":")
            found[op.url] = {"uri": op.url, **({"digest": {algorithm: value}} if value else {})}
        elif isinstance(op, graph.GitSource):
            uri = op.remote + (f"#{op.ref}" if op.ref else "")
            found[uri] = {"uri": uri, **({"digest": {"sha1": op.checksum}} if len(op.checksum) == 40 else {})}
    return list(found.values())


def _definition(vertices: Sequence[graph.Vertex]) -> list[dict[str, Any]]:
    """The steps in order: what each is, and which others it takes."""
    numbers = {vertex: f"step{number}" for number, vertex in enumerate(vertices)}
    return [{"id": numbers[vertex], "op": {"type": type(vertex.op).__name__, "name": vertex.name},
             "inputs": [f"{numbers[below]}:0" for below in vertex.inputs]} for vertex in vertices]


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


class Attested(NamedTuple):
    """What is attested of one platform, but for what it is about."""

    name: str
    """Of its file in outputs that are files."""
    kind: str
    predicate: bytes


async def of_target(job: ExportJob, target: SolvedTarget) -> list[Attested]:
    """What the build was asked to attest of one platform."""
    platform = str(target.platform)
    found: list[Attested] = []
    if "provenance" in job.attestations:
        found.append(Attested("provenance.json", PROVENANCE, job.provenance[platform]))
    if job.scanned is not None:
        found += [Attested(name, SPDX, predicate) for name, predicate in job.scanned.predicates[platform].items()]
    elif "sbom" in job.attestations:
        with job.progress.vertex(f"[{platform}] generating sbom using built-in scanner"):
            found.append(Attested("sbom.spdx.json", SPDX, await _sbom(job, target)))
    return found


async def write(job: ExportJob, export: Export, documents: Documents, target: SolvedTarget,
                written: Written) -> list[spec.Descriptor]:
    """Write the attestation manifest of one platform; what goes into the index beside its manifest."""
    subject = _subjects(export, target.platform, written)
    statements = [(one.kind, _statement(one.kind, one.predicate, subject)) for one in await of_target(job, target)]
    return [await run_blocking(_write, documents, statements, written)] if statements else []


def _subjects(export: Export, platform: Platform, written: Written) -> list[dict[str, Any]]:
    digest = {"sha256": digests.encoded(written.manifest.digest)}
    names = [name.familiar() for name in names_of(export.attributes)]
    found = []
    for name in names:
        repository, _, tag = name.rpartition(":")
        found.append({"name": f"pkg:docker/{repository}@{tag}?platform={quote(str(platform), safe='')}",
                      "digest": digest})
    return found or [{"name": "_", "digest": digest}]


def _statement(kind: str, predicate: bytes, subject: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({
        "_type": STATEMENT, "predicateType": kind, "subject": subject, "predicate": msgspec.Raw(predicate)})


def _write(documents: Documents, statements: Sequence[tuple[str, bytes]], written: Written) -> spec.Descriptor:
    layers = []
    for kind, raw in statements:
        blob = documents.put(raw, _MEDIA_TYPE)
        layers.append(msgspec.structs.replace(blob, annotations={_PREDICATE_KEY: kind}))
    config = documents.put(spec.encode(spec.ImageConfigFile(
        architecture="unknown", os="unknown", config=spec.RunConfig(),
        rootfs=spec.RootFS(diff_ids=[DiffID(layer.digest) for layer in layers]))), spec.OCI_CONFIG)
    manifest = documents.put(encode(spec.Manifest(
        media_type=spec.OCI_MANIFEST, config=config, layers=layers)), spec.OCI_MANIFEST)
    return msgspec.structs.replace(
        manifest, platform=Platform(os="unknown", architecture="unknown"), annotations={
            "vnd.docker.reference.digest": written.manifest.digest,
            spec.ATTESTATION_KEY: "attestation-manifest"})


async def _sbom(job: ExportJob, target: SolvedTarget) -> bytes:
    root = await run_blocking(job.images.snapshotter.root_mount_of_layers,
                              [DiffID(layer) for layer in target.layers])
    reply = await job.workers.run_worker("build.packages", PackagesRequest(root=root), reply_type=PackagesReply)
    return spdx(reply.result(), list(target.layers), epoch_s=job.epoch_s)


def spdx(found: PackagesReply, layers: Sequence[str], *, epoch_s: int | None) -> bytes:
    """An SPDX document of packages."""
    identity = hashlib.sha256("\n".join(layers).encode()).hexdigest()
    created = time.gmtime(epoch_s if epoch_s is not None else time.time())
    packages: list[dict[str, Any]] = [{
        "SPDXID": "SPDXRef-DocumentRoot-Image", "name": "sbom", "versionInfo": f"sha256:{identity}",
        "downloadLocation": "NOASSERTION", "primaryPackagePurpose": "CONTAINER", "filesAnalyzed": False}]
    relationships = [{"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": "SPDXRef-DocumentRoot-Image",
                      "relationshipType": "DESCRIBES"}]
    for package in found.packages:
        mark = hashlib.sha256(package.url.encode()).hexdigest()[:16]
        reference = f"SPDXRef-Package-{package.kind}-{_plain(package.name)}-{mark}"
        entry: dict[str, Any] = {
            "SPDXID": reference, "name": package.name, "versionInfo": package.version,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                              "referenceLocator": package.url}]}
        if package.license:
            entry["licenseComments"] = package.license
        if package.maintainer:
            entry["supplier"] = f"Person: {package.maintainer}"
        packages.append(entry)
        relationships.append({"spdxElementId": "SPDXRef-DocumentRoot-Image", "relatedSpdxElement": reference,
                              "relationshipType": "CONTAINS"})
    return msgspec.json.encode({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "sbom",
        "documentNamespace": f"{_NAMESPACE}{identity}",
        "creationInfo": {"creators": [f"Tool: pallet-{__version__}"],
                         "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", created)},
        "packages": packages, "relationships": relationships})


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in ".-" else "-" for char in name)


def predicates(made: Mapping[str, bytes]) -> dict[str, bytes]:
    """Predicates for the record of the build: those of its first platform by their type."""
    return {PROVENANCE: next(iter(made.values()))} if made else {}
