"""Plans of Dockerfiles without a daemon: what the front end makes of a text."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pallet.build.dockerfile.plan import plan
from pallet.build.dockerfile.subrequests import Asked
from pallet.build.graph import RunOp
from pallet.build.ports import FrontendOptions, ResolvedImage
from pallet.errors import NotFoundError
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.ignore import read_patterns
from pallet.spec.image import ImageConfigFile, RunConfig
from pallet.spec.platform import Platform, host
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.build.graph import Op, Plan, Target, Vertex
    from pallet.build.ports import BuildClient
    from pallet.build.progress import Event, Watch

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
HOST = host()
BUSYBOX = RunConfig(cmd=["sh"], env=[PATH])


@dataclass
class FakeImages:
    """Images that exist: name without domain and ``latest`` to config."""

    configs: Mapping[str, RunConfig] = field(default_factory=dict)
    asked: list[tuple[str, str, bool]] = field(default_factory=list)
    architecture: str = ""

    async def resolve(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                      watch: Watch) -> ResolvedImage:
        del client, watch
        await asyncio.sleep(0)
        self.asked.append((reference, str(platform), pull))
        name = reference.removeprefix("docker.io/library/").removesuffix(":latest")
        config = {"busybox": BUSYBOX, **self.configs}.get(name)
        if config is None:
            message = f"{reference}: not found"
            raise NotFoundError(message)
        return ResolvedImage(
            reference=reference, digest=Digest(f"sha256:{name.encode().hex():0<64.64}"), local=True,
            config=ImageConfigFile(os=platform.os, architecture=self.architecture or platform.architecture,
                                   config=config, author="base"))


class FakeClient:
    """A client with files and blobs."""

    def __init__(self, files: Mapping[tuple[str, str], bytes] | None = None) -> None:
        self._files = files or {}

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        del limit_bytes
        return self._files.get((source, path))


def planned(text: str | bytes, *, images: FakeImages | None = None, client: Any = None, ignore: str = "",
            events: list[Event] | None = None, **options: Any) -> Plan:
    """The plan of a Dockerfile, for linux/amd64 unless ``platforms`` says otherwise."""
    source = text.encode() if isinstance(text, str) else text
    options.setdefault("platforms", (AMD64,))
    seen: list[Event] = [] if events is None else events
    return asyncio.run(plan(source, FrontendOptions(**options), resolver=images or FakeImages(),
                            client=client or FakeClient(),  # type: ignore[arg-type]
                            watch=lambda event: seen.append(event), exclude=read_patterns(ignore.encode())))  # noqa: PLW0108 - its parameter has a name


def target(text: str, **options: Any) -> Target:
    return planned(text, **options).targets[0]


def config(text: str, **options: Any) -> RunConfig:
    found = target(text, **options).config.config
    assert found is not None
    return found


def environment(text: str, **options: Any) -> dict[str, str]:
    """The image's environment without PATH."""
    return dict(item.partition("=")[::2] for item in config(text, **options).env or () if item != PATH)


def history(text: str, **options: Any) -> list[str]:
    return [step.created_by for step in target(text, **options).steps]


def vertices(found: Target | Plan) -> list[Vertex]:
    """Everything that the first target needs, inputs first."""
    top = found.targets[0].vertex if hasattr(found, "targets") else found.vertex
    order: dict[Vertex, None] = {}
    pending = [(top, False)]
    while pending:
        vertex, ready = pending.pop()
        if ready:
            order[vertex] = None
        elif vertex not in order:
            pending.append((vertex, True))
            pending += [(item, False) for item in reversed(vertex.inputs)]
    return list(order)


def names(text: str, **options: Any) -> list[str]:
    return [vertex.name for vertex in vertices(target(text, **options)) if vertex.name]


def ops(text: str, kind: type[Op], **options: Any) -> list[Any]:
    """Operations of one kind, in order."""
    return [vertex.op for vertex in vertices(target(text, **options)) if isinstance(vertex.op, kind)]


def run_op(text: str, **options: Any) -> RunOp:
    """The last RUN."""
    found: RunOp = ops(text, RunOp, **options)[-1]
    return found


def failure(text: str | bytes, **options: Any) -> DockerfileError:
    """The error that a Dockerfile ends with."""
    try:
        planned(text, **options)
    except DockerfileError as error:
        return error
    message = "the Dockerfile is planned without an error"
    raise AssertionError(message)


def warnings(text: str, **options: Any) -> list[tuple[str, str, int]]:
    """Findings of the linter: rule, message, line."""
    return [(warning.rule, warning.message, warning.span.start if warning.span is not None else 0)
            for warning in planned(text, **options).warnings]


def asked(text: str, subrequest: str, **options: Any) -> dict[str, bytes]:
    """The answer to a subrequest."""
    options.setdefault("platforms", (AMD64,))
    question = Asked(text.encode(), FrontendOptions(**options), resolver=FakeImages(), client=FakeClient(),  # type: ignore[arg-type]
                     watch=lambda event: None)
    return asyncio.run(question.answer(subrequest))
