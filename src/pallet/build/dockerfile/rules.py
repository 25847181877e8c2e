"""The lint rules: their names, what they are about, where they are explained.

Owns   the table and ``# check=…``.
Runs   anywhere; pure.
Spec   Docker "Build checks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.build.graph import LintWarning
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.gotext import quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.build.graph import Span

_URL = "https://docs.docker.com/go/dockerfile/rule/"
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule."""

    name: str
    description: str
    slug: str
    """Last part of its page's address; "" for a rule without a page."""
    experimental: bool = False

    @property
    def url(self) -> str:
        """Its page."""
        return f"{_URL}{self.slug}/" if self.slug else ""


def _rule(name: str, slug: str, description: str, *, experimental: bool = False) -> Rule:
    return Rule(name=name, slug=slug, description=description, experimental=experimental)


_ALL = (
    _rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    _rule("FromAsCasing", "from-as-casing",
          "The 'as' keyword should match the case of the 'from' keyword"),
    _rule("NoEmptyContinuation", "no-empty-continuation",
          "Empty continuation lines will become errors in a future release"),
    _rule("ConsistentInstructionCasing", "consistent-instruction-casing",
          "All commands within the Dockerfile should use the same casing (either upper or lower)"),
    _rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    _rule("ReservedStageName", "reserved-stage-name",
          "Reserved words should not be used as stage names"),
    _rule("JSONArgsRecommended", "json-args-recommended",
          "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to "
          "OS signals"),
    _rule("MaintainerDeprecated", "maintainer-deprecated",
          "The MAINTAINER instruction is deprecated, use a label instead to define an image author"),
    _rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    _rule("WorkdirRelativePath", "workdir-relative-path",
          "Relative workdir without an absolute workdir declared within the build can have unexpected "
          "results if the base image changes"),
    _rule("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    _rule("MultipleInstructionsDisallowed", "multiple-instructions-disallowed",
          "Multiple instructions of the same type should not be used in the same stage"),
    _rule("LegacyKeyValueFormat", "legacy-key-value-format",
          "Legacy key/value format with whitespace separator should not be used"),
    _rule("InvalidBaseImagePlatform", "",
          "Base image platform does not match expected target platform"),
    _rule("RedundantTargetPlatform", "redundant-target-platform",
          "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default "
          "behavior"),
    _rule("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env",
          "Sensitive data should not be used in the ARG or ENV commands"),
    _rule("InvalidDefaultArgInFrom", "invalid-default-arg-in-from",
          "Default value for global ARG results in an empty or invalid base image name"),
    _rule("FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed",
          "FROM --platform flag should not use a constant value"),
    _rule("CopyIgnoredFile", "copy-ignored-file",
          "Attempting to Copy file that is excluded by .dockerignore", experimental=True),
    _rule("InvalidDefinitionDescription", "invalid-definition-description",
          "Comment for build stage or argument should follow the format: `# <arg/stage name> "
          "<description>`. If this is not intended to be a description comment, add an empty line or "
          "comment between the instruction and the comment.", experimental=True),
    _rule("ExposeProtoCasing", "expose-proto-casing",
          "Protocol in EXPOSE instruction should be lowercase"),
    _rule("ExposeInvalidFormat", "expose-invalid-format",
          "IP address and host-port mapping should not be used in EXPOSE instruction. This will become "
          "an error in a future release"),
)
RULES = {rule.name: rule for rule in _ALL}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """``# check=skip=A,B;error=true;experimental=C``."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def wants(self, rule: Rule) -> bool:
        """Whether the rule's findings count."""
        if rule.experimental and not (self.experimental_all or rule.name in self.experimental):
            return False
        return not (self.skip_all or rule.name in self.skip)


def read_check(text: str) -> CheckOptions:
    """Read the directive's value.

    Raises:
        DockerfileError: ``failed to parse check options: …``.
    """
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    skip_all = experimental_all = error = False
    for part in text.split(";"):
        key, _, value = part.strip().partition("=")
        value = value.strip()
        names = frozenset(name.strip() for name in value.split(","))
        match key.strip():
            case "skip":
                skip_all, skip = value.lower() == "all", names
            case "experimental":
                experimental_all, experimental = value.lower() == "all", names
            case "error" if value in _TRUE | _FALSE:
                error = value in _TRUE
            case "error":
                message = (f"failed to parse check options: failed to parse check option "
                           f"{quote(part.strip())}: strconv.ParseBool: parsing {quote(value)}: "
                           "invalid syntax")
                raise DockerfileError(message)
            case "":
                continue
            case _:
                message = f"failed to parse check options: invalid check option {quote(key.strip())}"
                raise DockerfileError(message)
    return CheckOptions(skip=skip, skip_all=skip_all, experimental=experimental,
                        experimental_all=experimental_all, error=error)


class Linter:
    """Collects what rules find; the same finding counts once."""

    def __init__(self, options: CheckOptions, span: Callable[[tuple[int, int] | None], Span | None]) -> None:
        """``span`` gives lines their file."""
        self.options = options
        self.suggestions = 100
        """How many more mistyped names are compared with the known ones."""
        self._span = span
        self._found: dict[tuple[str, tuple[int, int] | None, str], LintWarning] = {}

    def report(self, name: str, lines: tuple[int, int] | None, message: str) -> None:
        """Take a finding."""
        rule = RULES[name]
        if self.options.wants(rule):
            self._found.setdefault((name, lines, message), LintWarning(
                rule=name, message=message, description=rule.description, url=rule.url,
                span=self._span(lines)))

    @property
    def warnings(self) -> tuple[LintWarning, ...]:
        """All findings, in order."""
        return tuple(self._found.values())

    def check(self) -> None:
        """Fail if findings are errors and there are any.

        Raises:
            DockerfileError: ``lint violation found for rules: …``.
        """
        if self.options.error and self._found:
            names = sorted({warning.rule for warning in self.warnings})
            message = f"lint violation found for rules: {', '.join(names)}"
            raise DockerfileError(message)
