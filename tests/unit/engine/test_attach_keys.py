"""Detach keys, log options, health plans: small grammars."""

from __future__ import annotations

import pytest

from pallet.config import Config
from pallet.engine import health, logconfig
from pallet.engine.attach import parse_detach_keys
from pallet.engine.view import human_duration
from pallet.errors import InvalidParameterError
from pallet.spec.engine.config import HealthConfig
from pallet.spec.engine.container import HealthcheckResult
from pallet.spec.engine.host_config import LogConfig


@pytest.mark.parametrize(("text", "keys"), [
    ("", b"\x10\x11"), ("ctrl-a", b"\x01"), ("ctrl-[,x", b"\x1bx"), ("a,b", b"ab"), ("ctrl-@", b"\x00")])
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "shift-a", "ab"])
def test_bad_detach_keys(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="Invalid detach keys"):
        parse_detach_keys(text)


def test_log_options_come_from_the_daemon_for_its_own_driver_only() -> None:
    config = Config(log_options=(("max-size", "1m"),))
    assert logconfig.resolve(LogConfig(), config).config == {"max-size": "1m"}
    assert logconfig.resolve(LogConfig(type="none"), config).config == {}


@pytest.mark.parametrize(("log", "words"), [
    (LogConfig(type="carrier-pigeon"), "no log driver named 'carrier-pigeon' is registered"),
    (LogConfig(type="json-file", config={"max-sise": "1"}), "unknown log opt 'max-sise' for json-file log driver"),
    (LogConfig(type="json-file", config={"max-size": "big"}), "invalid size: 'big'"),
    (LogConfig(type="json-file", config={"max-file": "0"}), "max-file cannot be less than 1"),
    (LogConfig(type="json-file", config={"compress": "true"}), "compress cannot be true when"),
])
def test_bad_log_options(log: LogConfig, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        logconfig.resolve(log, Config())


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (65, "About a minute"), (300, "5 minutes"),
    (3700, "About an hour"), (7300, "2 hours"), (200_000, "2 days"), (1_300_000, "2 weeks"), (9_000_000, "3 months"),
    (90_000_000, "2 years")])
def test_durations_in_dockers_words(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def result(code: int) -> HealthcheckResult:
    return HealthcheckResult(start="", end="", exit_code=code, output="")


def test_health_needs_retries_failures_in_a_row_and_forgives_the_start_period() -> None:
    checks = health.plan(HealthConfig(test=["CMD-SHELL", "true"], retries=2), None)
    assert checks is not None
    assert checks.command == ("/bin/sh", "-c", "true")
    monitor = health.HealthMonitor(checks)
    assert not monitor.record(result(1), in_start_period=True)
    assert monitor.failing_streak == 0
    assert monitor.record(result(0), in_start_period=True)
    assert monitor.status == "healthy"
    assert not monitor.record(result(1), in_start_period=True)
    assert monitor.record(result(1), in_start_period=False)
    assert (monitor.status, monitor.failing_streak) == ("unhealthy", 2)
    for _ in range(6):
        monitor.record(result(1), in_start_period=False)
    assert len(monitor.document().log or []) == 5


@pytest.mark.parametrize("test", [[], ["NONE"]])
def test_no_health_check(test: list[str]) -> None:
    assert health.plan(HealthConfig(test=test), None) is None
