"""Who may do what where: ``[[rule]]``, groups and the defaults.

Owns   the decision; pure but for its memory of earlier ones.
Runs   in any thread.
Needs  nothing.

Every rule that fits a repository and a user adds its rights. A repository that no rule fits, whoever asks,
is governed by the defaults; one that any rule fits is not. ``push`` brings ``pull`` along, as clients push
with both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.registry.auth.settings import ALL_RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.registry.auth.settings import AuthConfig, RuleConfig

_USER = "{user}"
_REMEMBERED = 8192
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    fits: re.Pattern[str]
    """With any user for ``{user}``."""
    patterns: tuple[str, ...]
    personal: bool
    users: frozenset[str]
    anonymous: bool
    anyone: bool
    rights: frozenset[str]

    def applies(self, user: str, name: str) -> bool:
        if not (self.anonymous or (user and (self.anyone or user in self.users))):
            return False
        if not self.personal:
            return True
        return bool(user) and any(
            re.fullmatch(_regex(pattern, re.escape(user)), name) for pattern in self.patterns)


class Policy:
    """Answers what a user ("" is everybody) may do."""

    def __init__(self, auth: AuthConfig, rules: Sequence[RuleConfig]) -> None:
        """Compile; an unknown group raises InvalidParameterError."""
        self._rules = tuple(_compile(rule, auth) for rule in rules)
        default = auth.default
        if default is None:
            default = () if rules else ALL_RIGHTS
        self._anonymous = _rights(auth.anonymous)
        self._default = _rights(default) | self._anonymous
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def rights(self, user: str, name: str) -> frozenset[str]:
        """Of ``user`` in repository ``name``: any of pull, push, delete, catalog."""
        key = (user, name)
        found = self._known.get(key)
        if found is None:
            found = self._decide(user, name)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def _decide(self, user: str, name: str) -> frozenset[str]:
        fitting = [rule for rule in self._rules if rule.fits.fullmatch(name)]
        if not fitting:
            return self._default if user else self._anonymous
        return NOTHING.union(*(rule.rights for rule in fitting if rule.applies(user, name)))

    def may_list(self, user: str) -> bool:
        """Whether ``user`` may ask for the catalog, filtered as it may come out."""
        default = self._default if user else self._anonymous
        return "catalog" in default or any(
            "catalog" in rule.rights and (rule.anonymous or (user and (rule.anyone or user in rule.users)))
            for rule in self._rules)

    @property
    def serves_anybody(self) -> bool:
        """Whether some right needs no login."""
        return bool(self._anonymous) or any(rule.anonymous and rule.rights for rule in self._rules)


def _compile(rule: RuleConfig, auth: AuthConfig) -> _Rule:
    users = set(rule.users)
    for group in rule.groups:
        if group not in auth.groups:
            message = f"rule for {', '.join(rule.patterns)}: there is no group {group!r} in [auth.groups]"
            raise InvalidParameterError(message)
        users.update(auth.groups[group])
    return _Rule(
        fits=re.compile("|".join(_regex(pattern, "[^/]+") for pattern in rule.patterns)),
        patterns=rule.patterns, personal=any(_USER in pattern for pattern in rule.patterns),
        users=frozenset(users), anonymous=rule.anonymous,
        anyone=not (rule.users or rule.groups or rule.anonymous), rights=_rights(rule.allow))


def _regex(pattern: str, user: str) -> str:
    return "(?:" + user.join(translate(part).removesuffix(r"\Z").removesuffix(r"\z")
                             for part in pattern.split(_USER)) + ")"


def _rights(rights: Iterable[str]) -> frozenset[str]:
    found = frozenset(rights)
    return found | {"pull"} if "push" in found else found
