"""Restart policies, semantics row "restart policy"."""

from __future__ import annotations

import pytest

from pallet.engine.restart import RestartPolicy, check_policy, next_delay_s, starts_with_daemon
from pallet.errors import InvalidParameterError


def delay(name: str, *, code: int = 1, ran_s: float = 0.0, count: int = 0, last_s: float = 0.0,
          by_hand: bool = False, limit: int = 0) -> float | None:
    return next_delay_s(RestartPolicy(name=name, maximum_retry_count=limit), exit_code=code, ran_s=ran_s,
                        restart_count=count, last_delay_s=last_s, stopped_by_hand=by_hand)


@pytest.mark.parametrize(("last_s", "expected"), [(0.0, 0.1), (0.1, 0.2), (0.2, 0.4), (51.2, 60.0), (60.0, 60.0)])
def test_back_off_doubles_from_100_ms_to_a_minute(last_s: float, expected: float) -> None:
    assert delay("always", last_s=last_s) == pytest.approx(expected)


def test_a_run_of_ten_seconds_resets_the_back_off() -> None:
    assert delay("always", last_s=30.0, ran_s=10.0) == pytest.approx(0.1)
    assert delay("always", last_s=30.0, ran_s=9.9) == pytest.approx(60.0)


@pytest.mark.parametrize("name", ["always", "unless-stopped", "on-failure"])
def test_a_manual_stop_prevents_the_restart(name: str) -> None:
    assert delay(name, by_hand=True) is None


def test_on_failure_restarts_failures_only_and_counts() -> None:
    assert delay("on-failure", code=0) is None
    assert delay("on-failure", code=3, limit=2, count=1) is not None
    assert delay("on-failure", code=3, limit=2, count=2) is None


@pytest.mark.parametrize(("name", "running", "by_hand", "expected"), [
    ("no", True, False, False), ("always", False, True, True), ("unless-stopped", True, True, False),
    ("unless-stopped", False, False, True), ("on-failure", True, False, True), ("on-failure", False, False, False)])
def test_start_with_the_daemon(name: str, *, running: bool, by_hand: bool, expected: bool) -> None:
    policy = RestartPolicy(name=name)
    assert starts_with_daemon(
        policy, was_running=running, stopped_by_hand=by_hand, exit_code=1, restart_count=0) is expected


@pytest.mark.parametrize(("code", "limit", "count", "expected"), [
    (0, 0, 0, False), (1, 0, 9, True), (1, 2, 1, True), (1, 2, 2, False)])
def test_on_failure_at_the_daemons_start(code: int, limit: int, count: int, *, expected: bool) -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=limit)
    assert starts_with_daemon(
        policy, was_running=True, stopped_by_hand=False, exit_code=code, restart_count=count) is expected


@pytest.mark.parametrize(("name", "count", "auto_remove", "words"), [
    ("sometimes", 0, False, "unknown policy 'sometimes'"),
    ("always", 3, False, "maximum retry count can only be used with 'on-failure'"),
    ("on-failure", -1, False, "cannot be negative"),
    ("always", 0, True, "can't create 'AutoRemove' container with restart policy")])
def test_refusals(name: str, count: int, *, auto_remove: bool, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        check_policy(RestartPolicy(name=name, maximum_retry_count=count), auto_remove=auto_remove)
