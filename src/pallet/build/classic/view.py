"""The classic builder's output, made of what the solver tells.

Owns   the order: the solver runs what it can at once, the lines come instruction by instruction.
Runs   on the loop; a ``Watch``.
Spec   semantics "classic output": what dockerd's builder prints, byte for byte but for ids. Images
       between the instructions do not exist here; their ids are made of what they would hold.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.build.graph import FileOp, ImageSource, RunOp
from pallet.build.progress import LogEvent, StatusEvent, VertexEvent
from pallet.spec.engine.progress import ProgressDetail, ProgressMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pallet.build.graph import Plan, Vertex
    from pallet.build.progress import Event
    from pallet.spec.dockerfile.parser import Document, Node
    from pallet.types import Digest

_SHORT = 12
_KNOWN_LIMIT = 10_000
_HELD_LIMIT = 2000
_FILES = frozenset({"copy", "add"})
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line ``Step 1/3 : …`` and the vertices it waits for."""

    text: str
    kind: str
    """Name of the instruction in lower case."""
    stage: int
    """-1 before the first FROM."""
    vertices: tuple[Vertex, ...] = ()
    base: str = ""
    """What FROM shows: the id of the image, or the stage's, whose last step's id it is."""
    base_stage: int = -1
    triggers: int = 0
    """Vertices of the base's ONBUILD instructions, which are the last ones."""


class KnownSteps:
    """Instructions without files that were carried out before: they are shown as cached."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def see(self, identity: str) -> bool:
        """Whether this one was seen before; it is from now on."""
        known = identity in self._ids
        self._ids[identity] = None
        self._ids.move_to_end(identity)
        while len(self._ids) > _KNOWN_LIMIT:
            self._ids.popitem(last=False)
        return known


@dataclass(slots=True)
class _Progress:
    started: bool = False
    completed: bool = False
    cached: bool = False
    logs: list[LogEvent] = field(default_factory=list)
    """That came before its instruction's turn."""


class ClassicView:
    """Turns events into dockerd's lines."""

    def __init__(self, report: Callable[[ProgressMessage], None], known: KnownSteps, *,
                 quiet: bool) -> None:
        """``quiet`` says nothing but what ``say`` is given."""
        self._report = report
        self._known = known
        self._quiet = quiet
        self._held: list[str] = []
        """What a quiet build would have said: a failure tells it after all."""
        self._steps: Sequence[Step] = ()
        self._at = 0
        self._shown = -1
        self._announced = -1
        self._progress: dict[str, _Progress] = {}
        self._names: dict[Digest, str] = {}
        self._decoders: dict[tuple[Digest, int], codecs.IncrementalDecoder] = {}
        self._ids: dict[int, str] = {}
        """Of each stage's newest step."""

    def begin(self, steps: Sequence[Step]) -> None:
        """Show ``steps``; events that came before are taken into account."""
        self._steps = steps
        self._advance()

    def finish(self, image_id: str) -> None:
        """Show the end of the last step, now that the image has an id."""
        while self._at < len(self._steps):
            self._show_step()
            self._end_step(self._steps[self._at], image_id)
            self._at += 1

    def tell_all(self) -> None:
        """Say what was held back."""
        held, self._held = self._held, []
        for text in held:
            self._report(ProgressMessage(stream=text))

    def say(self, text: str) -> None:
        """Print something of the builder's own, also when quiet."""
        self._report(ProgressMessage(stream=text))

    def aux_id(self, image_id: str) -> None:
        """Tell the image's id to programs."""
        self._report(ProgressMessage(aux=msgspec.Raw(msgspec.json.encode({"ID": image_id}))))

    def __call__(self, event: Event) -> None:
        """Take one event; the classic builder does not lint."""
        if isinstance(event, VertexEvent):
            self._names[event.digest] = event.name
            state = self._progress.setdefault(event.name, _Progress())
            state.started = state.started or bool(event.started_ns)
            state.cached = state.cached or event.cached
            state.completed = state.completed or (bool(event.completed_ns) and not event.error)
            self._advance()
        elif isinstance(event, LogEvent):
            self._progress.setdefault(self._names.get(event.vertex, ""), _Progress()).logs.append(event)
            self._advance()
        elif isinstance(event, StatusEvent):
            self._status(event)

    def _status(self, event: StatusEvent) -> None:
        """Downloads of base images; what else moves is nothing the classic builder shows."""
        if self._quiet or not event.id.startswith("sha256:"):
            return
        detail = ProgressDetail(current=event.current, total=event.total) if event.total else ProgressDetail()
        status = "Pull complete" if event.completed_ns else (event.name or "downloading").capitalize()
        self._report(ProgressMessage(
            status=status, id=event.id.removeprefix("sha256:")[:_SHORT], progress_detail=detail))

    def _advance(self) -> None:
        """Go on to the first instruction that is not done; the last one ends with ``finish``."""
        while self._at < len(self._steps):
            step = self._steps[self._at]
            self._show_step()
            states = [self._progress.setdefault(vertex.name, _Progress()) for vertex in step.vertices]
            runs = [state for state, vertex in zip(states, step.vertices, strict=True)
                    if isinstance(vertex.op, RunOp)]
            if any(run.started and not run.cached for run in runs):
                self._announce(step)
            for state in states:
                logs, state.logs = state.logs, []
                for event in logs:
                    self._print_log(event)
            if self._at == len(self._steps) - 1 or not all(state.completed for state in states):
                return
            self._end_step(step, "")
            self._at += 1

    def _show_step(self) -> None:
        if self._shown < self._at:
            self._shown = self._at
            self._print(f"Step {self._at + 1}/{len(self._steps)} : {self._steps[self._at].text}\n")

    def _announce(self, step: Step) -> None:
        if self._announced < self._at:
            self._announced = self._at
            if step.triggers:
                self._print(f"# Executing {step.triggers} build trigger{'s' if step.triggers > 1 else ''}\n")
            self._print(f" ---> Running in {_container(step)}\n")

    def _end_step(self, step: Step, image_id: str) -> None:
        if step.stage < 0:
            return
        if step.kind == "from":
            identity = self._ids.get(step.base_stage, step.base)
            if step.triggers and self._announced == self._at:
                self._print(f"Removing intermediate container {_container(step)}\n")
        else:
            parts = [self._ids.get(step.stage, ""), step.text]
            identity = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
            self._print_outcome(step, identity)
        self._ids[step.stage] = identity
        self._print(f" ---> {(image_id or identity)[:_SHORT]}\n")

    def _print_outcome(self, step: Step, identity: str) -> None:
        known = self._known.see(identity)
        if step.vertices:
            known = all(self._progress[vertex.name].cached for vertex in step.vertices)
        if known:
            self._print(" ---> Using cache\n")
        elif step.kind not in _FILES:
            self._announce(step)
            self._print(f"Removing intermediate container {_container(step)}\n")

    def _print(self, text: str) -> None:
        if self._quiet:
            self._held = [*self._held[-_HELD_LIMIT:], text]
        else:
            self._report(ProgressMessage(stream=text))

    def _print_log(self, event: LogEvent) -> None:
        key = (event.vertex, event.stream)
        decoder = self._decoders.get(key)
        if decoder is None:
            decoder = self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(event.data)
        if text:
            self._print(f"{_RED}{text}{_PLAIN}" if event.stream == 2 else text)


def steps_of(document: Document, plan: Plan, target: str, labels: Mapping[str, str]) -> list[Step]:
    """The instructions that a plan needs, in the Dockerfile's order, and the labels of the request."""
    vertices = _reachable(target_.vertex for target_ in plan.targets)
    stages: list[int] = []
    names: dict[str, int] = {}
    needed: set[int] = set()
    stage = -1
    for node in document.nodes:
        if node.name == "from":
            stage += 1
            names[_stage_name(node)] = names[str(stage)] = stage
        stages.append(stage)
        if any(_within(vertex, node) for vertex in vertices):
            needed.add(stage)
    last = names.get(target.lower(), stage) if target else stage
    needed |= {-1, last}
    found: list[Step] = []
    tops = [target_.vertex for target_ in plan.targets]
    for node, stage in zip(document.nodes, stages, strict=True):
        if stage not in needed or stage > last:
            continue
        own = tuple(vertex for vertex in vertices if _within(vertex, node))
        name = node.args[0] if node.name == "from" and node.args else ""
        image = _base(own) or next((_base([vertex]) for other, at in zip(document.nodes, stages, strict=True)
                                    if at == stage for vertex in vertices if _within(vertex, other)), "")
        found.append(Step(
            text=node.original, kind=node.name, stage=stage, vertices=own,
            triggers=sum(1 for vertex in own if isinstance(vertex.op, (RunOp, FileOp))) if node.name == "from" else 0,
            base="" if name == "scratch" else image or (_base(tops) if stage == last else ""),
            base_stage=names.get(name.lower(), -1) if name else -1))
    found += [Step(text=f"LABEL {name}={value}", kind="label", stage=last) for name, value in sorted(labels.items())]
    return found


def arguments_of(document: Document) -> set[str]:
    """Names that any ARG declares."""
    return {word.partition("=")[0] for node in document.nodes if node.name == "arg" for word in node.args or
            node.rest.split()}


def _stage_name(node: Node) -> str:
    args = [arg.lower() for arg in node.args]
    return args[2] if len(args) == 3 and args[1] == "as" else ""


def _within(vertex: Vertex, node: Node) -> bool:
    return vertex.span is not None and node.start <= vertex.span.start <= node.end


def _base(vertices: Sequence[Vertex]) -> str:
    """Bare digest of the image at the bottom of the first of the vertices; two stages may share its vertex."""
    for vertex in vertices:
        below = vertex
        while below.inputs and not isinstance(below.op, ImageSource):
            below = below.inputs[0]
        if isinstance(below.op, ImageSource):
            return below.op.digest.removeprefix("sha256:")
    return ""


def _reachable(tops: Iterable[Vertex]) -> list[Vertex]:
    """Every vertex that the tops need, inputs first."""
    found: dict[Vertex, None] = {}
    pending = [(top, False) for top in tops]
    while pending:
        vertex, ready = pending.pop()
        if ready:
            found.setdefault(vertex)
        elif vertex not in found:
            pending.append((vertex, True))
            pending += [(needed, False) for needed in vertex.inputs]
    return list(found)


def _container(step: Step) -> str:
    """A step's container has no id to be found by: it is no container of the engine's."""
    return hashlib.sha256(f"{id(step)} {step.text}".encode("utf-8", "surrogateescape")).hexdigest()[:_SHORT]
