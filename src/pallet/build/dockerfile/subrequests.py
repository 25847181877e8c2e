"""What clients ask of a Dockerfile without building it: check, outline, targets.

Owns   the documents ``result.json`` and ``result.txt`` of each subrequest.
Runs   on the loop.
Spec   BuildKit's ``frontend.lint``, ``frontend.outline``, ``frontend.targets``,
       ``frontend.subrequests.describe``, each version 1.0.0.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from pallet.build.dockerfile.plan import Planner
from pallet.errors import NotImplementedApiError
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile import mounts
from pallet.spec.dockerfile.errors import DockerfileError, render_snippet
from pallet.spec.dockerfile.runconfig import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.dockerfile.state import StageState
    from pallet.build.graph import LintWarning, Span
    from pallet.build.ports import BuildClient, FrontendOptions, ImageResolver
    from pallet.build.progress import Watch

LINT = "frontend.lint"
OUTLINE = "frontend.outline"
TARGETS = "frontend.targets"
DESCRIBE = "frontend.subrequests.describe"
NAMES = (LINT, OUTLINE, TARGETS, DESCRIBE)
_VERSION = "1.0.0"


class Asked:
    """One Dockerfile that is asked about."""

    def __init__(self, source: bytes, options: FrontendOptions, *, resolver: ImageResolver,
                 client: BuildClient, watch: Watch, exclude: Sequence[str] = ()) -> None:
        """See ``plan.plan`` for the arguments."""
        self._source, self._options, self._exclude = source, options, exclude
        self._resolver, self._client, self._watch = resolver, client, watch

    async def answer(self, subrequest: str) -> dict[str, bytes]:
        """Answer a subrequest by its name.

        Returns:
            The metadata keys ``result.json``, ``result.txt``, ``version``; ``result.statuscode`` of
            a check that found something.

        Raises:
            DockerfileError: the Dockerfile cannot be understood (a check tells that instead).
            NotImplementedApiError: there is no such subrequest.
        """
        match subrequest:
            case "frontend.lint":
                return await self._lint()
            case "frontend.outline":
                return await self._outline()
            case "frontend.targets":
                return self._targets()
            case "frontend.subrequests.describe":
                return _describe()
        message = f"unsupported request {subrequest}"
        raise NotImplementedApiError(message)

    def _planner(self, *, every_stage: bool = False) -> Planner:
        return Planner(self._source, self._options, self._exclude, every_stage=every_stage)

    def _placed(self, error: DockerfileError) -> DockerfileError:
        error.filename, error.source = self._options.filename, self._source
        return error

    # --- check ---

    async def _lint(self) -> dict[str, bytes]:
        planner = self._planner(every_stage=True)
        failed: DockerfileError | None = None
        try:
            await planner.run(self._resolver, self._client, self._watch)
        except DockerfileError as error:
            failed = self._placed(error)
        found = planner.linter.warnings
        document: dict[str, Any] = {
            "warnings": [_warning(warning) for warning in found] or None,
            "sources": [{"filename": self._options.filename, "language": "Dockerfile",
                         "data": base64.b64encode(self._source).decode()}]}
        if failed is not None:
            document["buildError"] = {"message": str(failed), "location": _location(failed.lines)}
        result = _result(document, self._lint_text(found, failed))
        if found or failed is not None:
            result["result.statuscode"] = b"1"
        return result

    def _lint_text(self, found: Sequence[LintWarning], failed: DockerfileError | None) -> str:
        parts: list[str] = []
        for warning in sorted(found, key=lambda item: item.span.start if item.span is not None else 0):
            url = f" - {warning.url}" if warning.url else ""
            parts.append(f"\nWARNING: {warning.rule}{url}\n{warning.message}\n{self._snippet(warning.span)}")
        if failed is not None:
            parts.append(f"\nERROR: {failed}\n{failed.snippet()}")
        return "".join(parts)

    def _snippet(self, span: Span | None) -> str:
        if span is None:
            return ""
        return render_snippet(span.filename, self._source, span.start, span.end)

    # --- outline ---

    async def _outline(self) -> dict[str, bytes]:
        planner = self._planner()
        try:
            await planner.run(self._resolver, self._client, self._watch)
        except DockerfileError as error:
            raise self._placed(error) from None
        outline = _Outline(planner)
        return _result(outline.document(self._source), outline.text())

    # --- targets ---

    def _targets(self) -> dict[str, bytes]:
        planner = self._planner()
        try:
            planner.read()
        except DockerfileError as error:
            raise self._placed(error) from None
        targets: list[dict[str, Any]] = []
        rows = [("TARGET", "DESCRIPTION")]
        last = len(planner.text.stages) - 1
        for index, stage in enumerate(planner.text.stages):
            start = stage.start
            about = _description(start.comments, start.alias)
            entry: dict[str, Any] = {"name": start.alias} if start.alias else {}
            if index == last:
                entry["default"] = True
            if about:
                entry["description"] = about
            entry |= {"base": start.base, "location": _location(start.lines)}
            targets.append(entry)
            name = f"{start.alias} (default)".lstrip() if index == last else start.alias
            rows.append((name, about))
        return _result({"targets": targets, "sources": [base64.b64encode(self._source).decode()]},
                       _table(rows, 1))


class _Outline:
    """Parameters of a target: arguments, secrets, agents."""

    def __init__(self, planner: Planner) -> None:
        self._target = planner.finals[0]
        self._scope = planner.scopes[0]
        self._stages = [state for state in planner.orders[0] if state.start is not None]
        self._arguments: dict[str, dict[str, Any]] = {}
        self._secrets: dict[str, dict[str, Any]] = {}
        self._agents: dict[str, dict[str, Any]] = {}
        for state in self._stages:
            self._read(state)

    def _global(self, name: str) -> None:
        """Add a global argument and those that its value was made of."""
        pending = [name]
        while pending:
            fact = self._scope.globals.declared.get(pending.pop())
            if fact is not None and fact.name not in self._arguments:
                self._arguments[fact.name] = _argument(fact.name, fact.description, fact.value, fact.lines)
                pending += fact.depends

    def _read(self, state: StageState) -> None:
        for name in sorted(state.used_globals):
            self._global(name)
        for command in state.commands:
            if isinstance(command, ins.Arg):
                for argument in command.arguments:
                    self._argument(state, command, argument)
            elif isinstance(command, ins.Run):
                self._mounts(state, command)

    def _argument(self, state: StageState, command: ins.Arg, argument: ins.Argument) -> None:
        name, scope = argument.name, self._scope
        given = name in scope.options.build_args
        declared = scope.globals.declared.get(name)
        if argument.default is None and not given and name in scope.globals.automatic:
            return
        if argument.default is None and not given and declared is not None and declared.value is not None:
            self._global(name)
            return
        self._arguments[name] = _argument(name, argument.comment, state.arguments.get(name), command.lines)

    def _mounts(self, state: StageState, command: ins.Run) -> None:
        words = Words(state.env, escape=self._scope.escape, budget=self._scope.budget)
        for mount in command.mounts:
            spec = mounts.resolve(mount, words.word)
            if spec.kind == "secret":
                name = spec.id or spec.source or spec.target.rpartition("/")[2]
                kept = self._secrets
            elif spec.kind == "ssh":
                name, kept = spec.id or "default", self._agents
            else:
                continue
            required = spec.required or kept.get(name, {}).get("required", False)
            kept[name] = {"name": name, **({"required": True} if required else {}),
                          "location": _location(command.lines)}

    def _sorted(self) -> list[dict[str, Any]]:
        return sorted(self._arguments.values(),
                      key=lambda entry: entry["location"]["ranges"][0]["start"]["line"])

    def document(self, source: bytes) -> dict[str, Any]:
        """``result.json``."""
        start = self._target.start
        assert start is not None
        about = _description(start.comments, start.alias)
        document: dict[str, Any] = {"name": self._target.name} if self._target.name else {}
        document |= {"description": about} if about else {}
        for key, entries in (("args", self._sorted()), ("secrets", list(self._secrets.values())),
                             ("ssh", list(self._agents.values()))):
            document |= {key: entries} if entries else {}
        return {**document, "sources": [base64.b64encode(source).decode()]}

    def text(self) -> str:
        """``result.txt``."""
        start = self._target.start
        assert start is not None
        about = _description(start.comments, start.alias)
        parts: list[str] = []
        if self._target.name or about:
            rows: list[tuple[str, ...]] = [("TARGET:", self._target.name)] if self._target.name else []
            rows += [("DESCRIPTION:", about)] if about else []
            parts.append(_table(rows, 1) + "\n")
        if self._arguments:
            rows = [("BUILD ARG", "VALUE", "DESCRIPTION")]
            rows += [(entry["name"], entry.get("value", ""), entry.get("description", ""))
                     for entry in self._sorted()]
            parts.append(_table(rows, 3) + "\n")
        for title, kept in (("SECRET", self._secrets), ("SSH", self._agents)):
            if kept:
                rows = [(title, "REQUIRED")]
                rows += [(name, "true" if entry.get("required") else "") for name, entry in kept.items()]
                parts.append(_table(rows, 3) + "\n")
        return "".join(parts)


def _argument(name: str, about: str, value: str | None, lines: tuple[int, int] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    if about:
        entry["description"] = about
    if value:
        entry["value"] = value
    return {**entry, "location": _location(lines)}


def _description(comments: Iterable[str], name: str) -> str:
    """What a comment ``# name text`` says."""
    if name:
        for comment in comments:
            if comment.startswith(f"{name} "):
                return comment.removeprefix(f"{name} ").strip()
    return ""


def _describe() -> dict[str, bytes]:
    keys = [{"name": "result.json", "description": ""}, {"name": "result.txt", "description": ""}]
    # BuildKit does not list the check here either.
    about: tuple[tuple[str, str, list[dict[str, str]] | None], ...] = (
        (OUTLINE, "List all parameters current build target supports",
         [{"name": "target", "description": "Target build stage"}]),
        (TARGETS, "List all targets current build supports", []),
        (DESCRIBE, "List available subrequest types", None))
    document = [{"name": name, "version": _VERSION, "type": "rpc", "description": text, "opts": options,
                 "inputs": None, "metadata": keys, "refs": None} for name, text, options in about]
    rows = [("NAME", "VERSION", "DESCRIPTION")]
    rows += [(name.removeprefix("frontend."), _VERSION, text) for name, text, _ in about]
    return _result(document, _table(rows, 1))


def _result(document: Any, text: str) -> dict[str, bytes]:
    return {"result.json": json.dumps(document, indent=2, ensure_ascii=False).encode(),
            "result.txt": text.encode(), "version": _VERSION.encode()}


def _warning(warning: LintWarning) -> dict[str, Any]:
    lines = (warning.span.start, warning.span.end) if warning.span is not None else None
    entry = {"ruleName": warning.rule, "description": warning.description, "url": warning.url,
             "detail": warning.message, "location": _location(lines)}
    return {key: value for key, value in entry.items() if value}


def _location(lines: tuple[int, int] | None) -> dict[str, Any]:
    """A range a line, as BuildKit has it."""
    if lines is None:
        return {}
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}}
                       for line in range(lines[0], lines[1] + 1)]}


def _table(rows: Sequence[Sequence[str]], padding: int) -> str:
    """Columns as Go's tabwriter lays them out: all but the last padded."""
    widths = [max(len(row[column]) for row in rows) + padding for column in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1]
             for row in rows]
    return "\n".join(lines) + "\n"
