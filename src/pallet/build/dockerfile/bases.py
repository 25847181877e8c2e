"""What stages are built on: images, named contexts, nothing; and the first state of each stage.

Owns   resolving, the metadata vertices of the progress, ONBUILD triggers.
Runs   on the loop.
Spec   Dockerfile reference "FROM", "ONBUILD"; build contexts of ``--build-context``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from pallet.build.dockerfile import sources as remote
from pallet.build.dockerfile import texts
from pallet.build.dockerfile.draft import Draft
from pallet.build.dockerfile.stages import SCRATCH, image_reference
from pallet.build.dockerfile.told import Told
from pallet.build.graph import (
    CopyAction,
    FileOp,
    HttpSource,
    ImageSource,
    LocalSource,
    OciLayoutSource,
    ScratchOp,
)
from pallet.build.inputs import as_base
from pallet.build.ports import ResolvedImage
from pallet.errors import NotFoundError, PalletError
from pallet.spec import image as images
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.flags import did_you_mean
from pallet.spec.dockerfile.gotext import quote
from pallet.spec.dockerfile.interpret import interpret
from pallet.spec.dockerfile.parser import parse_line
from pallet.spec.dockerfile.runconfig import DEFAULT_PATH, ConfigState
from pallet.spec.ignore import read_patterns
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.stages import Stages
    from pallet.build.dockerfile.state import StageState
    from pallet.build.graph import Plan
    from pallet.build.ports import BuildClient, ImageResolver
    from pallet.build.progress import Watch
    from pallet.spec.platform import Platform

_IGNORE_LIMIT = 4 * 2**20
_DOCUMENT_LIMIT = 4 * 2**20


class Resolver:
    """Finds what stages are built on; remembers across target platforms."""

    def __init__(self, resolver: ImageResolver, client: BuildClient, watch: Watch, *, pull: bool) -> None:
        self._resolver, self._client, self._watch, self._pull = resolver, client, watch, pull
        self._images: dict[tuple[str, Platform], asyncio.Task[ResolvedImage]] = {}

    async def close(self) -> None:
        """Cancel what is still asked for."""
        for task in self._images.values():
            task.cancel()
        await asyncio.gather(*self._images.values(), return_exceptions=True)

    async def image(self, reference: str, platform: Platform) -> ResolvedImage:
        """Find an image's config, once.

        Raises:
            PalletError: it cannot be had.
        """
        key = (reference, platform)
        task = self._images.get(key)
        if task is None:
            task = self._images[key] = asyncio.create_task(self._resolver.resolve(
                reference, platform, pull=self._pull, client=self._client, watch=self._watch))
        return await asyncio.shield(task)

    async def patterns(self, context: str) -> tuple[str, ...]:
        """``.dockerignore`` of a named local context."""
        async with Told(self._watch, f"[context {context}] load .dockerignore"):
            data = await self._client.read_file(context, ".dockerignore", _IGNORE_LIMIT)
        return tuple(read_patterns(data)) if data is not None else ()

    async def layout_image(self, store: str, digest: str, platform: Platform) -> ResolvedImage:
        """Find the config of an image in the client's OCI layout."""
        return await layout_image(self._client, store, digest, platform)


async def layout_image(client: BuildClient, store: str, digest: str, platform: Platform) -> ResolvedImage:
    """Find the config of an image in a client's OCI layout.

    Raises:
        NotFoundError: no such blob, or no image for the platform in it.
    """
    for _ in range(4):
        raw = await _blob(client, store, digest)
        if images.sniff_media_type(raw) not in images.INDEX_TYPES:
            manifest = images.decode_manifest(raw)
            config = images.decode_config(await _blob(client, store, manifest.config.digest))
            return ResolvedImage(reference=f"{store}@{digest}", digest=Digest(digest), config=config, local=False)
        entries = images.decode_index(raw).manifests
        fitting = platforms.choose(platform, [entry.platform for entry in entries])
        if not fitting:
            break
        digest = entries[fitting[0]].digest
    message = f"no match for platform in manifest {digest}: not found"
    raise NotFoundError(message)


async def _blob(client: BuildClient, store: str, digest: str) -> bytes:
    parts, size = [], 0
    async for chunk in await client.blob(f"oci:{store}", digest):
        size += len(chunk)
        if size > _DOCUMENT_LIMIT:
            message = f"document {digest} is larger than {_DOCUMENT_LIMIT} bytes"
            raise DockerfileError(message)
        parts.append(chunk)
    return b"".join(parts)


async def resolve(states: Sequence[StageState], stages: Stages, resolver: Resolver) -> bool:
    """Find the bases of all stages that have none yet; whether there were any.

    Stages get the instructions of the triggers that their bases left in front of their own.

    Raises:
        DockerfileError: a base cannot be had, or a trigger is malformed.
    """
    scope = stages.scope
    waiting = [state for state in states if not state.resolved]
    tasks = [asyncio.ensure_future(_resolve_one(state, stages, resolver)) for state in waiting]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for state in waiting:
        try:
            _add_triggers(state, stages, scope)
        except DockerfileError as error:
            error.lines = state.lines
            raise
    return bool(waiting)


async def _resolve_one(state: StageState, stages: Stages, resolver: Resolver) -> None:
    state.resolved = True
    scope = stages.scope
    try:
        if state.name and await _named_context(state, state.name, scope, resolver):
            state.replaced = True
            return
        if state.parent is not None:
            return
        if await _named_context(state, state.base_name, scope, resolver):
            return
        if state.base_name == SCRATCH:
            return
        state.image = await resolver.image(image_reference(state.base_name), state.platform)
    except DockerfileError as error:
        raise error.at(state.lines) from None
    except PalletError as error:
        message = f"{state.base_name}: {error}{did_you_mean(state.base_name, stages.names())}"
        raise DockerfileError(message, state.lines) from error


# --- named contexts ------------------------------------------------------------------------------


def _context_value(name: str, platform: Platform, scope: Scope) -> str | None:
    contexts = scope.options.contexts
    if not contexts:
        return None
    keys = [name]
    try:
        reference = references.parse_normalized(name)
        whole = reference.with_default_tag()
        keys += [whole.familiar().removesuffix(":latest"), whole.familiar(), str(whole)]
    except references.ReferenceFormatError:
        pass
    for key in keys:
        for candidate in (f"{key}::{platform}", key):
            if candidate in contexts:
                return contexts[candidate]
    return None


async def _named_context(state: StageState, name: str, scope: Scope, resolver: Resolver) -> bool:
    """Replace a stage or base by the context of its name; whether there is one."""
    value = _context_value(name, state.platform, scope)
    if value is None:
        return False
    scheme, separator, rest = value.partition(":")
    platform = str(state.platform) + " " if scope.several_platforms else ""
    label = f"[{platform}context {name}]"
    if scheme == "docker-image":
        await _image_context(state, rest.removeprefix("//"), label, resolver)
    elif scheme == "oci-layout":
        await _layout_context(state, rest.removeprefix("//"), label, scope, resolver)
    elif scheme == "local" and separator:
        local = rest.removeprefix("//")
        patterns = await resolver.patterns(local)
        state.draft = scope.drafts.add(Draft(
            op=LocalSource(name=local, exclude=patterns), name=f"{label} load from client"))
        state.is_local = True
    elif scheme == "input" and rest in scope.options.inputs:
        _input_context(state, scope.options.inputs[rest], label, scope)
    elif (git := remote.git_source(value)) is not None:
        state.draft = scope.drafts.add(Draft(op=git, name=f"{label} {value}"))
    elif remote.is_http(value):
        source = HttpSource(url=value, filename="context")
        state.draft = scope.drafts.add(Draft(op=source, name=f"{label} {value}"))
    else:
        message = f"unsupported context source {scheme} for {name}"
        raise DockerfileError(message)
    state.parent = None
    return True


async def _image_context(state: StageState, text: str, label: str, resolver: Resolver) -> None:
    if text == SCRATCH:
        state.base_name = SCRATCH
        return
    state.image = await resolver.image(image_reference(text), state.platform)
    state.label = f"{label} {state.image.reference}"


def _input_context(state: StageState, plan: Plan, label: str, scope: Scope) -> None:
    target = next((target for target in plan.targets if target.platform == state.platform), plan.targets[0])
    state.image = ResolvedImage(reference="", digest=Digest(""), config=as_base(target), local=True)
    state.draft = scope.drafts.add(Draft(op=target.vertex.op, name=label, ready=target.vertex))


async def _layout_context(state: StageState, text: str, label: str, scope: Scope,
                          resolver: Resolver) -> None:
    name, at, digest = text.rpartition("@")
    if not at:
        message = f"oci-layout reference {quote(text)} must have digest"
        raise DockerfileError(message)
    store, _, tag = name.partition(":")
    image = await resolver.layout_image(store, digest, state.platform)
    state.image = image
    state.draft = scope.drafts.add(Draft(
        op=OciLayoutSource(store=store, reference=tag, digest=image.digest, platform=state.platform),
        name=f"{label} {text}"))


# --- the first state -----------------------------------------------------------------------------


def begin(state: StageState, scope: Scope) -> None:
    """Give a stage the files and the configuration that its instructions start from."""
    parent = state.parent
    if parent is not None:
        scope.budget.spend_items(2 * len(parent.env) + len(parent.history))
        state.draft, state.image = in_layers(parent.root(), scope), parent.image
        state.config = parent.config.copy()
        # A parent's ARG no longer hides the ENV of its name.
        state.env, state.arguments = {**parent.env, **parent.config.env}, dict(parent.arguments)
        state.history = list(parent.history)
        state.config.on_build = []
        state.workdir_set = parent.workdir_set
        return
    if state.image is not None:
        config = state.image.config
        state.config = ConfigState.of(config.config, config.author)
        if state.draft is None:
            state.draft = _image_draft(state, scope)
    else:
        state.config = ConfigState(working_dir="/")
        if state.draft is None:
            state.draft = scope.drafts.add(Draft(op=ScratchOp(), name=""))
        elif not state.replaced and state.start is not None:
            state.draft, state.is_local = in_layers(state.draft, scope), False
    state.config.on_build = []
    state.config.env.setdefault("PATH", DEFAULT_PATH)
    state.env = dict(state.config.env)


def in_layers(draft: Draft, scope: Scope) -> Draft:
    """A client's tree as the layer that something can be built on; everything else is one already."""
    if not isinstance(draft.op, LocalSource):
        return draft
    action = CopyAction(input=0, paths=("/",), dest="/", wildcards=False)
    return scope.drafts.add(Draft(op=FileOp(actions=(action,), has_base=False), inputs=(draft,), name=""))


def _image_draft(state: StageState, scope: Scope) -> Draft:
    image = state.image
    assert image is not None
    shown = image.reference
    if "@" not in shown and not image.local:
        shown = f"{shown}@{image.digest}"
    name = state.label or texts.numbered(state, f"FROM {shown}")
    source = ImageSource(reference=image.reference, digest=image.digest, platform=state.platform)
    found = scope.drafts.images.get(source)
    if found is None:
        found = scope.drafts.add(Draft(op=source, name=name, span=scope.span(state.lines)))
        scope.drafts.images[source] = found
    return found


# --- triggers ------------------------------------------------------------------------------------


def _triggers(state: StageState) -> list[str]:
    if state.parent is not None:
        return [command.trigger for command in state.parent.commands if isinstance(command, ins.OnBuild)]
    if state.image is not None and state.image.config.config is not None:
        return list(state.image.config.config.on_build or ())
    return []


def _add_triggers(state: StageState, stages: Stages, scope: Scope) -> None:
    commands: list[ins.Instruction] = []
    for text in _triggers(state):
        node = parse_line(text, scope.escape)
        instruction = interpret(node, where=False)
        if isinstance(instruction, ins.OnBuild | ins.From | ins.Maintainer):
            message = f"{instruction.name} isn't allowed as an ONBUILD trigger"
            raise DockerfileError(message)
        lines = state.lines or (1, 1)
        keyword = instruction.keyword
        code = f"ONBUILD {keyword.upper()}{instruction.code[len(keyword):]}"
        commands.append(replace(instruction, lines=lines, code=code))
    if not commands:
        return
    stages.link(state, commands)
    state.trigger_total = len(commands)
    state.commands = [*commands, *state.commands]
