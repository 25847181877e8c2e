"""What metadata instructions make of an image's configuration.

Owns   ``ConfigState`` and the rules: what resets what, what is inherited, what is refused.
       Used by builds and by ``--change`` of commit and import.
Runs   anywhere; pure.
Spec   image-spec config.md; Dockerfile reference.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from pallet.errors import InvalidParameterError
from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.errors import DockerfileError, ExpansionError
from pallet.spec.dockerfile.gotext import quote
from pallet.spec.image import Healthcheck, RunConfig
from pallet.spec.signals import signal_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"\+?(?P<first>\d{1,5})(?:-\+?(?P<last>\d{1,5}))?")
_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_MAX_PORT = 65535
_SHOWN = 256
"""Characters of a word in an error."""


@dataclass(slots=True, kw_only=True)
class ConfigState:
    """An image's configuration while instructions change it."""

    base: RunConfig = field(default_factory=RunConfig)
    """Keeps what no instruction touches."""
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    exposed: dict[str, Any] | None = None
    user: str = ""
    working_dir: str = ""
    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    healthcheck: Healthcheck | None = None
    stop_signal: str = ""
    shell: list[str] | None = None
    on_build: list[str] = field(default_factory=list)
    args_escaped: bool = False
    author: str = ""
    cmd_set: bool = False
    """By an instruction of this stage."""

    @classmethod
    def of(cls, config: RunConfig | None, author: str = "") -> ConfigState:
        """Begin with what an image has."""
        base = config or RunConfig()
        return cls(
            base=base, env=dict(item.partition("=")[::2] for item in base.env or ()),
            labels=_copied(base.labels), volumes=_copied(base.volumes),
            exposed=_copied(base.exposed_ports), user=base.user, working_dir=base.working_dir,
            cmd=base.cmd, entrypoint=base.entrypoint, healthcheck=base.healthcheck,
            stop_signal=base.stop_signal, shell=base.shell, on_build=list(base.on_build or ()),
            args_escaped=base.args_escaped, author=author)

    def config(self) -> RunConfig:
        """The configuration as it stands."""
        return msgspec.structs.replace(
            self.base, env=[f"{name}={value}" for name, value in self.env.items()] or None,
            labels=self.labels, volumes=self.volumes, exposed_ports=self.exposed, user=self.user,
            working_dir=self.working_dir, cmd=self.cmd or None, entrypoint=self.entrypoint or None,
            healthcheck=self.healthcheck, stop_signal=self.stop_signal, shell=self.shell,
            on_build=self.on_build or None, args_escaped=self.args_escaped)

    def copy(self) -> ConfigState:
        """The state that a stage built on this one begins with."""
        state = ConfigState.of(self.config(), self.author)
        state.cmd, state.entrypoint = self.cmd, self.entrypoint
        return state

    def with_shell(self, command: ins.Command) -> list[str]:
        """Arguments of a command; shell form goes to the shell that is set."""
        if not command.shell_form:
            return list(command.args)
        return [*(self.shell or DEFAULT_SHELL), " ".join(command.args)]


def _copied(values: dict[str, Any] | None) -> dict[str, Any] | None:
    return dict(values) if values else None


def _updated(values: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    """Change in place: a copy for each of many instructions would be quadratic."""
    if values is None:
        return more
    values |= more
    return values


class Words:
    """Expands an instruction's words with one environment."""

    def __init__(self, env: dict[str, str], *, escape: str = "\\", budget: expand.Budget | None = None,
                 report: Callable[[expand.Expansion], None] | None = None) -> None:
        """``report`` hears of every expansion that looked at variables."""
        self.env = env
        self._style = expand.Style(escape=escape)
        self.budget = budget or expand.Budget()
        self._report = report

    def word(self, text: str) -> str:
        """Expand as one word.

        Raises:
            DockerfileError: ``failed to process "…": …``.
        """
        return self._expand(text).text

    def words(self, text: str) -> list[str]:
        """Expand and split."""
        return self._expand(text).words

    def all(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Expand each as one word."""
        return tuple(self.word(text) for text in texts)

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Expand names and values; none sees what the others set."""
        return [(self.word(name), self.word(value)) for name, value in pairs]

    def content(self, text: str) -> str:
        """Expand a here-document: quotes in it are text."""
        style = expand.Style(escape=self._style.escape, plain_quotes=True)
        return self._expand(text, style).text

    def _expand(self, text: str, style: expand.Style | None = None) -> expand.Expansion:
        try:
            result = expand.expand(text, self.env, style or self._style, self.budget)
        except DockerfileError as error:
            if error.lines is not None:
                raise
            if self._report is not None and error.unset:
                self._report(expand.Expansion(unset=dict.fromkeys(error.unset)))
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            message = f"failed to process {quote(shown)}: {error}"
            raise ExpansionError(message) from error
        if self._report is not None and (result.used or result.unset):
            self._report(result)
        return result


def apply(state: ConfigState, instruction: ins.Instruction, words: Words) -> bool:
    """Carry out an instruction that changes the configuration alone.

    Returns whether it was one; RUN, COPY, ADD, ARG and WORKDIR's directory are others' work.

    Raises:
        DockerfileError: a value that cannot be.
    """
    rule = _RULES.get(type(instruction))
    if rule is None:
        return False
    rule(state, instruction, words)
    return True


def _cmd(state: ConfigState, instruction: ins.Cmd, _words: Words) -> None:
    state.cmd = state.with_shell(instruction.command)
    state.args_escaped = state.cmd_set = True


def _entrypoint(state: ConfigState, instruction: ins.Entrypoint, _words: Words) -> None:
    state.entrypoint = state.with_shell(instruction.command)
    if not state.cmd_set:
        # An inherited command would be arguments of another program.
        state.cmd = None


def _env(state: ConfigState, instruction: ins.Env, words: Words) -> None:
    state.env |= dict(words.pairs(instruction.pairs))


def _label(state: ConfigState, instruction: ins.Label, words: Words) -> None:
    state.labels = _updated(state.labels, dict(words.pairs(instruction.pairs)))


def _expose(state: ConfigState, instruction: ins.Expose, words: Words) -> None:
    state.exposed = _updated(state.exposed, {port: {} for port in exposed_ports(instruction, words)})


def exposed_ports(instruction: ins.Expose, words: Words) -> list[str]:
    """The ports that an EXPOSE names, in order: ``53/udp``, ``80/tcp``.

    Raises:
        DockerfileError: no port, or an unknown protocol.
    """
    found: list[str] = []
    for text in instruction.ports:
        for word in words.words(text):
            found += _ports(word)
            words.budget.spend_items(len(found))
    return found


def _ports(word: str) -> list[str]:
    """The container's ports of ``[[address:]host:]container[/protocol]``."""
    head, _, container = word.rpartition(":")
    address, _, host = head.rpartition(":")
    _check_address(address)
    span, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if not span:
        message = f'invalid port: "{word}": no port specified'
        raise DockerfileError(message)
    if protocol not in _PROTOCOLS:
        message = f'invalid port: "{word}": invalid proto: {protocol}'
        raise DockerfileError(message)
    first, last = _range(span, "containerPort")
    if host:
        host_first, host_last = _range(host, "hostPort")
        if last != first and host_last - host_first != last - first:
            message = f"invalid ranges specified for container and host Ports: {span} and {host}"
            raise DockerfileError(message)
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _check_address(text: str) -> None:
    if not text:
        return
    import ipaddress  # few files name one

    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        message = f"invalid IP address: {text}"
        raise DockerfileError(message) from None


def _range(span: str, what: str) -> tuple[int, int]:
    match = _PORT.fullmatch(span)
    first = int(match["first"]) if match is not None else -1
    last = int(match["last"] or first) if match is not None else -1
    if not 0 <= first <= last <= _MAX_PORT:
        message = f"invalid {what}: {span}"
        raise DockerfileError(message)
    return first, last


def _volume(state: ConfigState, instruction: ins.Volume, words: Words) -> None:
    paths = words.all(instruction.paths)
    if not all(paths):
        message = "VOLUME specified can not be an empty string"
        raise DockerfileError(message)
    state.volumes = _updated(state.volumes, {path: {} for path in paths})


def _user(state: ConfigState, instruction: ins.User, words: Words) -> None:
    state.user = words.word(instruction.user)


def _workdir(state: ConfigState, instruction: ins.Workdir, words: Words) -> None:
    path = words.word(instruction.path)
    # An absolute path stays as it was written, as in Docker's builders.
    state.working_dir = path if path.startswith("/") else posixpath.normpath(
        posixpath.join("/", state.working_dir, path)).replace("//", "/")


def _stop_signal(state: ConfigState, instruction: ins.StopSignal, words: Words) -> None:
    text = words.word(instruction.signal)
    try:
        if not (text.isdecimal() and int(text[:9])):
            signal_number(text)
    except InvalidParameterError as error:
        raise DockerfileError(str(error)) from error
    state.stop_signal = text


def _healthcheck(state: ConfigState, instruction: ins.Health, _words: Words) -> None:
    state.healthcheck = Healthcheck(
        test=list(instruction.test), interval=instruction.interval_ns, timeout=instruction.timeout_ns,
        start_period=instruction.start_period_ns, start_interval=instruction.start_interval_ns,
        retries=instruction.retries)


def _shell(state: ConfigState, instruction: ins.Shell, _words: Words) -> None:
    state.shell = list(instruction.shell)


def _on_build(state: ConfigState, instruction: ins.OnBuild, _words: Words) -> None:
    state.on_build.append(instruction.trigger)


def _maintainer(state: ConfigState, instruction: ins.Maintainer, _words: Words) -> None:
    state.author = instruction.author


_RULES: dict[type[ins.Instruction], Callable[[ConfigState, Any, Words], None]] = {
    ins.Cmd: _cmd, ins.Entrypoint: _entrypoint, ins.Env: _env, ins.Label: _label,
    ins.Expose: _expose, ins.Volume: _volume, ins.User: _user, ins.Workdir: _workdir,
    ins.StopSignal: _stop_signal, ins.Health: _healthcheck, ins.Shell: _shell,
    ins.OnBuild: _on_build, ins.Maintainer: _maintainer,
}
