"""RUN: command line, here-documents, mounts, network.

Owns   the vertex of a RUN.
Runs   on the loop; pure.
Spec   Dockerfile reference "RUN".
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from pallet.build.dockerfile import texts
from pallet.build.dockerfile.arguments import proxy_environment
from pallet.build.dockerfile.draft import Draft
from pallet.build.dockerfile.lint import words_of
from pallet.build.dockerfile.state import Entry
from pallet.build.graph import RunMount, RunOp
from pallet.spec.dockerfile import mounts
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.gotext import quote
from pallet.spec.dockerfile.parser import heredoc_word
from pallet.spec.dockerfile.runconfig import DEFAULT_SHELL

if TYPE_CHECKING:
    from typing import Literal

    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.state import StageState
    from pallet.spec.dockerfile import instructions as ins

_SCRIPTS = "/dev/pipes/"
_DEFAULT_MODE = {"secret": 0o400, "ssh": 0o600, "cache": 0o755}


def run(state: StageState, command: ins.Run, scope: Scope) -> None:
    """Add the vertex of a RUN to its stage.

    Raises:
        DockerfileError: bad mounts, an entitlement that was not granted.
    """
    args, files, summary = _command_line(state, command)
    scope.budget.spend_items(len(state.arguments))
    inputs = [state.root()]
    words = words_of(state, command, scope)
    specs = tuple(_mount(state, mounts.resolve(mount, words.word), inputs, scope)
                  for mount in command.mounts)
    shown = texts.shown_code(command, state.env, scope.escape, scope.budget, summary)
    operation = RunOp(
        args=tuple(args), env=state.env_items(scope.budget),
        unkeyed_env=proxy_environment(scope.options.build_args),
        cwd=posixpath.normpath(state.config.working_dir or "/"), user=state.config.user,
        network=_network(command, scope), security=_security(command, scope),
        hostname=scope.options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", scope.options.hostname),
        mounts=specs, devices=command.devices, heredocs=files, surroundings=_surroundings(scope))
    state.draft = scope.drafts.add(Draft(
        op=operation, inputs=tuple(inputs), name=texts.numbered(state, shown),
        span=scope.span(command.lines), ignore_cache=state.ignore_cache, platform=state.platform))
    state.history.append(Entry(
        created_by=texts.run_history(args, state.arguments, state.env), draft=state.draft,
        instruction=command))


def _command_line(state: StageState, command: ins.Run) -> tuple[list[str], tuple[tuple[str, str], ...], str]:
    """Arguments, files under ``/dev/pipes``, and what the name says of a here-document."""
    line, documents = command.command, command.heredocs
    if not documents:
        if not line.args:
            message = "arguments are required"
            raise DockerfileError(message)
        return state.config.with_shell(line), (), ""
    first, text = documents[0], line.args[0]
    if heredoc_word(text) is None:
        whole = text + "".join(f"\n{item.text}{item.name}" for item in documents)
        return [*_shell(state), whole], (), ""
    summary = f" ({texts.heredoc_summary(first.text)})"
    if first.text.startswith("#!"):
        path = posixpath.join(_SCRIPTS, first.name)
        return [*_shell(state), path], ((first.name, first.content),), summary
    return [*_shell(state), first.content], (), summary


def _shell(state: StageState) -> list[str]:
    return list(state.config.shell or DEFAULT_SHELL)


def _surroundings(scope: Scope) -> tuple[str, ...]:
    options = scope.options
    return (*(f"host {name}={address}" for name, address in options.extra_hosts),
            *(f"ulimit {name}={soft}:{hard}" for name, soft, hard in options.ulimits),
            *((f"shm {options.shm_size_bytes}",) if options.shm_size_bytes else ()))


def _network(command: ins.Run, scope: Scope) -> Literal["default", "none", "host"]:
    if command.network == "host":
        if "network.host" not in scope.options.entitlements and scope.options.network != "host":
            message = "failed to load LLB: network.host is not allowed"
            raise DockerfileError(message)
        return "host"
    if command.network == "none":
        return "none"
    if scope.options.network == "none":
        return "none"
    return "host" if scope.options.network == "host" else "default"


def _security(command: ins.Run, scope: Scope) -> Literal["sandbox", "insecure"]:
    if command.security == "insecure" and "security.insecure" not in scope.options.entitlements:
        message = "failed to load LLB: security.insecure is not allowed"
        raise DockerfileError(message)
    return command.security


def _mount(state: StageState, spec: mounts.MountSpec, inputs: list[Draft], scope: Scope) -> RunMount:
    target = _target(state, spec)
    source = posixpath.normpath(posixpath.join("/", spec.source)) if spec.kind in ("bind", "cache") else "/"
    return RunMount(
        kind=spec.kind, target=target, input=_input(state, spec, source, inputs, scope), source=source,
        readonly=spec.readonly if spec.readonly is not None else spec.kind == "bind",
        id=_mount_id(spec, target, scope), sharing=spec.sharing or "shared",
        mode=spec.mode if spec.mode is not None else _DEFAULT_MODE.get(spec.kind),
        uid=spec.uid or 0, gid=spec.gid or 0, size_bytes=spec.size_bytes, required=spec.required,
        env=spec.env or "")


def _target(state: StageState, spec: mounts.MountSpec) -> str:
    target = spec.target
    if spec.kind == "secret" and not target:
        if spec.env is not None:
            return ""
        target = f"/run/secrets/{posixpath.basename(spec.id or spec.source)}"
    if spec.kind == "ssh" and not target:
        target = f"/run/buildkit/ssh_agent.{state.ssh_mounts}"
    if spec.kind == "ssh":
        state.ssh_mounts += 1
    path = posixpath.normpath(posixpath.join("/", state.config.working_dir, target)) if target else "/"
    path = path.replace("//", "/")
    if path == "/":
        message = f"invalid mount target {quote(path)}"
        raise DockerfileError(message)
    return path


def _mount_id(spec: mounts.MountSpec, target: str, scope: Scope) -> str:
    if spec.kind == "secret":
        return spec.id or spec.source or posixpath.basename(spec.target)
    if spec.kind == "ssh":
        return spec.id or "default"
    if spec.kind != "cache":
        return ""
    namespace = scope.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS", "")
    return f"{namespace}/{spec.id or target}" if namespace else spec.id or target


def _input(state: StageState, spec: mounts.MountSpec, source: str, inputs: list[Draft],
           scope: Scope) -> int | None:
    if spec.kind not in ("bind", "cache"):
        return None
    if spec.from_:
        draft = state.sources[spec.from_].root()
    elif spec.kind == "bind":
        draft = scope.context()
        scope.paths.add(source)
    else:
        return None
    if draft not in inputs:
        inputs.append(draft)
    return inputs.index(draft)
