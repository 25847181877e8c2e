"""Bills of materials by scanners that are images.

Owns   the step that a scanner is, and what is made of the files that it writes.
Runs   on the loop.
Spec   BuildKit's "SBOM generator protocol" (docs/attestations/sbom-protocol.md); the words are BuildKit's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pallet.build.export.attest import SPDX
from pallet.build.export.model import Scanned
from pallet.build.graph import ImageSource, RunMount, RunOp, Vertex
from pallet.errors import InvalidParameterError
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.image import RunConfig
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pallet.build.graph import Target
    from pallet.build.images import BuildImages
    from pallet.build.job import Job
    from pallet.build.remote import RemoteContext
    from pallet.build.solver import Solver

_SOURCE, _OUT = "/run/src", "/run/out"
_CORE = "sbom"
_OUT_NUMBER = 0
"""Of the mount that is the output, among the step's."""
_SUFFIX = ".json"
_MOST_BYTES = 64 << 20


class _Statement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An in-toto statement; its subject is the image, whatever it says."""

    predicate_type: str = ""
    predicate: msgspec.Raw = msgspec.Raw(b"{}")


_decoder = msgspec.json.Decoder(_Statement)


class Scanner:
    """One image that scans, for one build."""

    def __init__(self, source: ImageSource, command: Sequence[str], env: Sequence[str], cwd: str) -> None:
        self.source = source
        self._command = tuple(command)
        self._env = tuple(env)
        self._cwd = cwd

    @classmethod
    async def find(cls, fields: Mapping[str, str], images: BuildImages, job: Job) -> Scanner:
        """Look the image up that ``generator`` names; it runs on this host's platform.

        Raises:
            InvalidParameterError: it has no command.
            PalletError: it cannot be had.
        """
        platform = platforms.host()
        found = await images.resolve(fields["generator"], platform, pull=False, client=job.client, watch=job.watch)
        config = found.config.config or RunConfig()
        command = [*(config.entrypoint or ()), *(config.cmd or ())]
        if not command:
            message = f"scanner {_shown(found.reference)} does not have cmd"
            raise InvalidParameterError(message)
        env = [*(config.env or ()), *(f"BUILDKIT_SCAN_{name}={value}" for name, value in {
            "type": _CORE, **fields}.items() if name != "generator")]
        source = ImageSource(reference=found.reference, digest=found.digest, platform=platform)
        return cls(source, command, env, config.working_dir or "/")

    def vertex(self, target: Target) -> Vertex:
        """The step that scans a target; what it comes to are the files that the scanner wrote."""
        image = Vertex(op=self.source, name=f"docker-image://{self.source.reference}")
        mounts: tuple[RunMount, ...] = (
            RunMount(kind="bind", target=_OUT, source="/", readonly=False, kept=True),
            RunMount(kind="tmpfs", target="/tmp"),
            RunMount(kind="bind", target=f"{_SOURCE}/core/{_CORE}", input=1, source="/", readonly=True))
        env = (*self._env, f"BUILDKIT_SCAN_DESTINATION={_OUT}/", f"BUILDKIT_SCAN_SOURCE={_SOURCE}/core/{_CORE}")
        inputs = [image, target.vertex]
        for extra, vertex in target.scanned:
            if vertex not in inputs:
                inputs.append(vertex)
            mounts += (RunMount(kind="bind", target=f"{_SOURCE}/extras/{_CORE}-{extra}", source="/", readonly=True,
                                input=inputs.index(vertex)),)
        if target.scanned:
            env += (f"BUILDKIT_SCAN_SOURCE_EXTRAS={_SOURCE}/extras/",)
        name = f"[{target.platform}] generating sbom using {_shown(self.source.reference)}"
        return Vertex(op=RunOp(args=self._command, env=env, cwd=self._cwd, mounts=mounts, output=_OUT_NUMBER),
                      inputs=tuple(inputs), name=name)


async def scan(scanner: Scanner, targets: Sequence[Target], job: Job, solver: Solver,
               make_tree: Callable[[], RemoteContext]) -> Scanned:
    """Run a scanner on targets.

    Raises:
        BuildError: it failed.
        InvalidParameterError: what it wrote is nothing that belongs to an image.
    """
    solved = await solver.solve([scanner.vertex(target) for target in targets], job)
    found: dict[str, dict[str, bytes]] = {}
    for target, one in zip(targets, solved, strict=True):
        tree = make_tree()
        tree.show([DiffID(layer) for layer in one.layers])
        entries = await tree.entries("/") or ()
        found[str(target.platform)] = {
            entry.name: await _predicate(tree, entry.name) for entry in entries if entry.name.endswith(_SUFFIX)}
    return Scanned(image=scanner.source, predicates=found)


async def _predicate(tree: RemoteContext, name: str) -> bytes:
    text = await tree.read(name, _MOST_BYTES)
    try:
        statement = _decoder.decode(text or b"")
    except msgspec.DecodeError as error:
        message = f"cannot decode in-toto statement: {name}: {error}"
        raise InvalidParameterError(message) from error
    if statement.predicate_type != SPDX:
        message = f"bundle entry {statement.predicate_type} does not match required predicate type {SPDX}"
        raise InvalidParameterError(message)
    return bytes(statement.predicate)


def _shown(reference: str) -> str:
    return str(references.parse_normalized(reference))
