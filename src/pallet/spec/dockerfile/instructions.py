"""The instructions of a Dockerfile, typed.

Owns   one frozen dataclass an instruction. Values are as written: variables are not expanded yet.
Runs   anywhere; pure data.
Spec   Dockerfile reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pallet.spec.dockerfile.parser import Heredoc


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What all have."""

    keyword: str
    """As written: ``From``, ``RUN``."""
    code: str
    """The whole logical line as written, continuations joined."""
    lines: tuple[int, int]
    """First and last line, from 1."""
    comments: tuple[str, ...] = ()
    """Comment lines right above."""

    @property
    def name(self) -> str:
        """The keyword in capitals."""
        return self.keyword.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: in shell form (one element, ``shell_form``) or as a list of arguments."""

    args: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM [--platform=P] base [AS name]``."""

    base: str
    alias: str = ""
    """In lower case; "" for none."""
    alias_as_written: str = ""
    as_keyword: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One variable of an ARG."""

    name: str
    default: str | None = None
    """None without an equals sign."""
    comment: str = ""
    """Description from a comment ``# name text`` right above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG name[=default] …``."""

    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV name=value …``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False
    """Written ``ENV name value``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL name=value …``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """``RUN --mount`` as written: (key, value) in order; None for a bare key."""

    text: str
    fields: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """``RUN``."""

    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: Literal["default", "none", "host"] | None = None
    """None where not said."""
    security: Literal["sandbox", "insecure"] = "sandbox"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """``CMD``."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT``."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL ["…"]``."""

    shell: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """``COPY`` and what ``ADD`` shares with it."""

    sources: tuple[str, ...]
    contents: tuple[Heredoc, ...] = ()
    dest: str
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Copy):
    """``ADD``."""

    checksum: str = ""
    keep_git_dir: bool | None = None
    """None where not said."""
    unpack: bool | None = None
    """None where not said: local archives are, downloaded ones are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME``."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """``USER``."""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """``WORKDIR``."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE``."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """``STOPSIGNAL``."""

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Instruction):
    """``HEALTHCHECK``: ``test`` as the image has it but for variables; times in nanoseconds."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """``ONBUILD``: the trigger's text, as the image keeps it."""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """``MAINTAINER``."""

    author: str
