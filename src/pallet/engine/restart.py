"""Restart policies: whether and when a container that ended starts again.

Pure decisions; ``engine/lifecycle.py`` applies them. Semantics rows "restart policy", "restart waits".
"""

from __future__ import annotations

from dataclasses import dataclass

from pallet.errors import InvalidParameterError

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 60.0
_GOOD_RUN_S = 10.0
"""A run at least this long resets the back-off."""

POLICIES = ("", "no", "always", "unless-stopped", "on-failure")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """``HostConfig.RestartPolicy``. ``maximum_retry_count`` 0 means without limit."""

    name: str = "no"
    maximum_retry_count: int = 0

    @property
    def is_set(self) -> bool:
        """Whether any exit can lead to a restart."""
        return self.name not in {"", "no"}


def check_policy(policy: RestartPolicy, *, auto_remove: bool) -> None:
    """Refuse what Docker refuses.

    Raises:
        InvalidParameterError: an unknown policy, a count where none belongs, AutoRemove with a policy.
    """
    if policy.name not in POLICIES:
        msg = (f"invalid restart policy: unknown policy '{policy.name}'; use one of "
               "'no', 'always', 'on-failure', or 'unless-stopped'")
        raise InvalidParameterError(msg)
    if policy.maximum_retry_count < 0:
        msg = "invalid restart policy: maximum retry count cannot be negative"
        if policy.name != "on-failure":
            msg += " and can only be used with 'on-failure'"
        raise InvalidParameterError(msg)
    if policy.maximum_retry_count and policy.name != "on-failure":
        msg = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        raise InvalidParameterError(msg)
    if auto_remove and policy.is_set:
        msg = "can't create 'AutoRemove' container with restart policy"
        raise InvalidParameterError(msg)


def next_delay_s(
    policy: RestartPolicy, *, exit_code: int, ran_s: float, restart_count: int,
    last_delay_s: float, stopped_by_hand: bool,
) -> float | None:
    """Return the seconds to wait before the restart, or None for none.

    Args:
        ran_s: how long the run that just ended took.
        restart_count: restarts since the user's own start.
        last_delay_s: what this returned for the run before; 0 at first.
    """
    if stopped_by_hand or not policy.is_set:
        return None
    if policy.name == "on-failure":
        if exit_code == 0:
            return None
        if policy.maximum_retry_count and restart_count >= policy.maximum_retry_count:
            return None
    if last_delay_s == 0 or ran_s >= _GOOD_RUN_S:
        return _FIRST_DELAY_S
    return min(last_delay_s * 2, _MAX_DELAY_S)


def starts_with_daemon(
    policy: RestartPolicy, *, was_running: bool, stopped_by_hand: bool, exit_code: int, restart_count: int
) -> bool:
    """Whether a container that is down starts when the daemon comes up.

    Args:
        was_running: it ended while no daemon looked, or waited for a restart.
        exit_code: of its last run.
        restart_count: restarts since the user's own start.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not stopped_by_hand
    if policy.maximum_retry_count and restart_count >= policy.maximum_retry_count:
        return False
    return policy.name == "on-failure" and was_running and exit_code != 0
