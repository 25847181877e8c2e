"""Container state machine: every pair of status and change is either a transition or refused."""

from __future__ import annotations

import itertools

import pytest

from pallet.engine.status import TRANSITIONS, Change, Status, advance, is_running
from pallet.errors import ConflictError


@pytest.mark.parametrize(("status", "change"), list(itertools.product(Status, Change)))
def test_every_pair_is_decided(status: Status, change: Change) -> None:
    if (status, change) in TRANSITIONS:
        assert advance(status, change) is TRANSITIONS[status, change]
    else:
        with pytest.raises(ConflictError, match=f"cannot {change.value} a container that is {status.value}"):
            advance(status, change)


def test_restarting_counts_as_running_as_in_docker() -> None:
    assert [s for s in Status if is_running(s)] == [Status.RUNNING, Status.PAUSED, Status.RESTARTING]


def test_nothing_leads_out_of_removing_but_removal() -> None:
    assert {change for status, change in TRANSITIONS if status is Status.REMOVING} == {
        Change.REMOVE, Change.REMOVE_FAILED}
