"""Lint: what the rules of ``rules.py`` look for.

Owns   the checks. Those on the text run before anything else; the others are called while
       instructions are carried out, as they need variables.
Runs   on the loop; pure.
Spec   Docker "Build checks", one page a rule.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from pallet.spec import reference as references
from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.flags import nearest
from pallet.spec.dockerfile.gotext import quote
from pallet.spec.dockerfile.runconfig import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.dockerfile.rules import Linter
    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.stages import FileText
    from pallet.build.dockerfile.state import StageState
    from pallet.spec.dockerfile.parser import Document, Node

_RESERVED = frozenset({"context", "scratch"})
_SECRET = re.compile(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
                     re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_MAX_KNOWN = 1000
_SCANNED = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
_MAINTAINER = "Maintainer instruction is deprecated in favor of using label"
_TARGET_PLATFORM = frozenset({"$TARGETPLATFORM", "${TARGETPLATFORM}"})


# --- on the text ---------------------------------------------------------------------------------


def lint_lines(document: Document, linter: Linter) -> None:
    """Run the rules that need nothing but the text."""
    for line, _ in document.empty_continuations:
        linter.report("NoEmptyContinuation", (line, line), "Empty continuation line")


def lint_instructions(text: FileText, linter: Linter) -> None:
    """Run the rules that look at one instruction alone; more may follow that cannot be understood."""
    for argument in text.arguments:
        _describe_arg(argument, linter)
    for stage in text.stages:
        start = stage.start
        _stage_casing(start.keyword, start.as_keyword, start.alias_as_written, start.lines, linter)
        if start.alias:
            _describe(start, "FROM", [start.alias], linter)
        for command in stage.commands:
            _command(command, linter)
    if text.failed is not None:
        _failed(text.failed, linter)


def lint_file(text: FileText, linter: Linter) -> None:
    """Run the rules that compare instructions."""
    _casing(text, linter)
    seen: set[str] = set()
    for stage in text.stages:
        _stage_name(stage.start, seen, linter)


def _casing(text: FileText, linter: Linter) -> None:
    words = [(stage.start.keyword, stage.start.lines) for stage in text.stages]
    for stage in text.stages:
        words += [(command.keyword, command.lines) for command in stage.commands]
    lower = sum(word.islower() for word, _ in words)
    upper = sum(word.isupper() for word, _ in words)
    majority = "lowercase" if lower > upper else "uppercase"
    for word, lines in sorted(words, key=lambda item: item[1]):
        if not (word.islower() if lower > upper else word.isupper()):
            linter.report("ConsistentInstructionCasing", lines,
                          f"Command '{word}' should match the case of the command majority ({majority})")


def _failed(node: Node, linter: Linter) -> None:
    """What is looked at before an instruction is understood."""
    if node.name == "from" and len(node.args) >= 3 and node.args[1].lower() == "as":
        _stage_casing(node.command, node.args[1], node.args[2], node.lines, linter)
    elif node.name == "maintainer":
        linter.report("MaintainerDeprecated", node.lines, _MAINTAINER)


def _stage_casing(keyword: str, as_keyword: str, name: str, lines: tuple[int, int], linter: Linter) -> None:
    if name and name != name.lower():
        linter.report("StageNameCasing", lines, f"Stage name '{name}' should be lowercase")
    if as_keyword and (as_keyword.islower() != keyword.islower() or as_keyword.isupper() != keyword.isupper()):
        linter.report("FromAsCasing", lines, f"'{as_keyword}' and '{keyword}' keywords' casing do not match")


def _stage_name(start: ins.From, seen: set[str], linter: Linter) -> None:
    if not start.alias:
        return
    if start.alias in seen:
        linter.report("DuplicateStageName", start.lines,
                      f"Duplicate stage name {quote(start.alias)}, stage names should be unique")
    seen.add(start.alias)
    if start.alias in _RESERVED:
        linter.report("ReservedStageName", start.lines,
                      f"Stage name should not use the same name as reserved stage {quote(start.alias)}")


def _command(command: ins.Instruction, linter: Linter) -> None:
    match command:
        case ins.Maintainer():
            linter.report("MaintainerDeprecated", command.lines, _MAINTAINER)
        case ins.Arg():
            _describe_arg(command, linter)


def _describe_arg(command: ins.Arg, linter: Linter) -> None:
    _describe(command, "ARG", [argument.name for argument in command.arguments], linter)


def _describe(command: ins.Instruction, keyword: str, names: Sequence[str], linter: Linter) -> None:
    if not command.comments or command.comments[-1].partition(" ")[0] in names:
        return
    example = names[0] if len(names) == 1 else "<arg_key>"
    linter.report("InvalidDefinitionDescription", command.lines,
                  f"Comment for {keyword} should follow the format: `# {example} <description>`")


# --- on FROM -------------------------------------------------------------------------------------


def lint_bases(stages: Iterable[ins.From], scope: Scope, defaults: dict[str, str]) -> None:
    """Run the rule on what stages are built from when the client says nothing.

    Args:
        defaults: global arguments as they are without any of the client's.
    """
    above: set[str] = set()
    for start in stages:
        if start.base not in above and not _may_be_reference(start.base, defaults, scope.escape):
            scope.linter.report("InvalidDefaultArgInFrom", start.lines,
                                f"Default value for ARG {start.base} results in empty or invalid base image name")
        above.add(start.alias)


def _may_be_reference(base: str, defaults: dict[str, str], escape: str) -> bool:
    try:
        name = expand.expand(base, defaults, expand.Style(escape=escape)).text
        references.parse_normalized(name)
    except DockerfileError:
        return True  # the error will be told
    except references.ReferenceFormatError:
        return False
    return True


def lint_platform(start: ins.From, linter: Linter) -> None:
    """Run the rules on a platform that is one."""
    platform = start.platform
    if platform in _TARGET_PLATFORM:
        linter.report("RedundantTargetPlatform", start.lines,
                      f"Setting platform to predefined {platform} in FROM is redundant as this is "
                      "the default behavior")
    if platform and "$" not in platform:
        parts = [part.lower() for part in platform.split("/")]
        if not start.alias or not any(part and part in start.alias for part in parts):
            linter.report("FromPlatformFlagConstDisallowed", start.lines,
                          f"FROM --platform flag should not use constant value {quote(platform)}")


def lint_undeclared(unset: Iterable[str], start: ins.From, scope: Scope) -> None:
    """Report global arguments without a value that nobody declared."""
    for name in unset:
        if name not in scope.globals.declared:
            known = [*scope.globals.declared, *scope.globals.automatic]
            scope.linter.report("UndefinedArgInFrom", start.lines,
                                f"FROM argument '{name}' is not declared{_meant(name, known, scope.linter)}")


def _meant(name: str, known: Iterable[str], linter: Linter, prefix: str = "") -> str:
    if linter.suggestions <= 0:
        return ""
    linter.suggestions -= 1
    best = nearest(name, itertools.islice(known, _MAX_KNOWN), ignore_case=False)
    return f" (did you mean {prefix}{best}?)" if best else ""


# --- while instructions are carried out ----------------------------------------------------------


def lint_command(state: StageState, command: ins.Instruction, scope: Scope) -> None:
    """Run the rules on an instruction whose words could be expanded."""
    linter, lines = scope.linter, command.lines
    word = command.keyword
    if isinstance(command, ins.Env | ins.Label) and command.legacy:
        linter.report("LegacyKeyValueFormat", lines,
                      f'"{word} key=value" should be used instead of legacy "{word} key value" format')
    match command:
        case ins.Cmd() | ins.Entrypoint():
            if command.command.shell_form and not state.config.shell:
                linter.report("JSONArgsRecommended", lines,
                              f"JSON arguments recommended for {word} to prevent unintended "
                              "behavior related to OS signals")
            _once(state, command, linter)
        case ins.Health():
            _once(state, command, linter)
        case ins.Arg():
            for argument in command.arguments:
                _secret("ARG", argument.name, lines, linter)
        case ins.Env():
            for name, _ in command.pairs:
                _secret("ENV", name, lines, linter)
        case ins.Expose():
            _expose(command, linter)
        case ins.Copy():
            _ignored(command, scope)


def _once(state: StageState, command: ins.Instruction, linter: Linter) -> None:
    """The one that will have no effect is shown, so it is the one before."""
    before = state.last_of.get(command.name)
    if before is not None:
        linter.report("MultipleInstructionsDisallowed", before,
                      f"Multiple {command.keyword} instructions should not be used in the same stage because "
                      "only the last one will be used")
    state.last_of[command.name] = command.lines


def lint_workdir(state: StageState, command: ins.Workdir, path: str, linter: Linter) -> None:
    """Report a relative first WORKDIR; ``path`` is expanded."""
    if not state.workdir_set and not path.startswith("/"):
        linter.report("WorkdirRelativePath", command.lines,
                      f"Relative workdir {quote(path)} can have unexpected results if the base "
                      "image changes")
    state.workdir_set = True


def _secret(keyword: str, name: str, lines: tuple[int, int], linter: Linter) -> None:
    if _SECRET.search(name) is not None and _NO_SECRET.search(name) is None:
        linter.report("SecretsUsedInArgOrEnv", lines,
                      f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quote(name)})")


def _expose(command: ins.Expose, linter: Linter) -> None:
    for text in command.ports:
        span, slash, protocol = text.partition("/")
        if slash and "$" not in protocol and protocol != protocol.lower():
            linter.report("ExposeProtoCasing", command.lines,
                          f"Defined protocol '{text}' in EXPOSE instruction should be lowercase")
        if ":" in re.sub(r"\$\{[^}]*\}", "", span).lstrip(":"):
            linter.report("ExposeInvalidFormat", command.lines,
                          "EXPOSE instruction should not define an IP address or host-port mapping, "
                          f"found '{text}'")


def _ignored(command: ins.Copy, scope: Scope) -> None:
    if command.from_ or not scope.ignored:
        return
    word = "Add" if isinstance(command, ins.Add) else "Copy"
    for source in command.sources:
        if source in (".", "./", "/") or "://" in source:
            continue
        if scope.ignored.excludes(source.lstrip("/")):
            scope.linter.report("CopyIgnoredFile", command.lines,
                                f"Attempting to {word} file {quote(source)} that is excluded by .dockerignore")


def words_of(state: StageState, command: ins.Instruction, scope: Scope) -> Words:
    """Expand words for an instruction; variables without a value are reported."""
    def report(result: expand.Expansion) -> None:
        state.used |= result.used
        if isinstance(command, ins.Expose):
            return
        for name in result.unset:
            if name not in state.arguments and name not in _SCANNED:
                meant = _meant(name, state.env, scope.linter, "$")
                scope.linter.report("UndefinedVar", command.lines,
                                    f"Usage of undefined variable '${name}'{meant}")

    return Words(state.env, escape=scope.escape, budget=scope.budget, report=report)


def lint_base(state: StageState, scope: Scope) -> None:
    """Compare the platform of a base with the one that was asked for."""
    image = state.image
    if image is None or state.start is None or not image.config.os:
        return
    actual, wanted = image.config.platform, state.platform
    if (actual.os, actual.architecture) != (wanted.os, wanted.architecture):
        scope.linter.report("InvalidBaseImagePlatform", state.lines,
                            f"Base image {state.base_name} was pulled with platform "
                            f"{quote(str(actual))}, expected {quote(str(wanted))} for current build")
