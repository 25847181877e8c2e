"""Fixtures and marks for every test: ``needs``, namespaces for root sessions, the leak check."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import isolation, leaks, probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

pytest_plugins = ["tests.support.engines", "tests.support.registrystore"]

# Fixtures that keep a daemon through several tests check for leftovers themselves, when it ends.
_DAEMON_FIXTURES = {"engine", "palletd", "fresh_palletd", "dockerd", "docker", "pallet_cli"}


def _features(item: pytest.Item) -> list[str]:
    return [name for mark in item.iter_markers("needs") for name in mark.args]


def pytest_configure(config: pytest.Config) -> None:
    """Let a terminated session (``timeout``, CI) end its daemons: fixtures run as after control-C.

    One of several workers gets a temporary directory of its own, as the leak check counts what lies there.
    """
    if hasattr(config, "workerinput"):
        tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="tw")
        os.chmod(tempfile.tempdir, 0o1777)
        config.add_cleanup(partial(shutil.rmtree, tempfile.tempdir, ignore_errors=True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs have that, and so would clients
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first; end-to-end tests, whose daemon lives through several of them, last.

    Among workers it is the other way round, so that what is left for the end are small files.
    """
    order = ["style", "unit", "contract", "conformance", "api", "root", "e2e"]
    if hasattr(config, "workerinput"):
        order.reverse()

    def place(item: pytest.Item) -> int:
        parts = item.path.parts
        return next((n for n, name in enumerate(order) if name in parts), len(order))

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the host's namespaces before the first fixture, if any test is going to be root.

    What was collected stays to the end: the leak check, which collects garbage several times a test, need not
    look at all of it again.
    """
    gc.collect()
    gc.freeze()
    wants_root = any("root" in _features(item) for item in session.items)
    if wants_root and os.geteuid() == 0 and not session.config.option.collectonly:
        isolation.enter_session()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs the host lacks, or fail it where they are required."""
    for feature in _features(item):
        reason = probes.lacking(feature)
        if reason is None:
            continue
        if probes.required(feature):
            pytest.fail(f"required feature {feature!r} is lacking: {reason}", pytrace=False)
        pytest.skip(f"{feature}: {reason}")


@pytest.fixture(autouse=True)
def leave_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a root test that leaves a mount, link, rule, process, cgroup, descriptor or file."""
    is_root = "root" in _features(request.node)
    if not is_root or _DAEMON_FIXTURES & set(request.fixturenames):
        yield
        return
    before = leaks.Snapshot()
    yield
    leaks.assert_nothing_left(before)


@pytest.fixture
def in_mount_ns() -> Callable[[Callable[[], Any]], Any]:
    """Run a body in a child with its own mount namespace; returns the body's result."""
    return lambda body: isolation.run_isolated(body, isolation.CLONE_NEWNS)


@pytest.fixture
def in_net_ns() -> Callable[[Callable[[], Any]], Any]:
    """Run a body in a child with its own network (loopback up) and mount namespace."""
    return lambda body: isolation.run_isolated(body, isolation.CLONE_NEWNS | isolation.CLONE_NEWNET)


@pytest.fixture
def in_pid_ns() -> Callable[[Callable[[], Any]], Any]:
    """Run a body as process 1 of its own pid and mount namespace."""
    return lambda body: isolation.run_isolated(body, isolation.CLONE_NEWNS | isolation.CLONE_NEWPID)
