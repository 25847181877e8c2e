"""Merging image and container config, semantics rows "merge" and "environment"."""

from __future__ import annotations

import pytest

from pallet.engine import merge
from pallet.errors import InvalidParameterError
from pallet.spec.engine.config import ContainerConfig, HealthConfig
from pallet.spec.engine.host_config import HostConfig
from pallet.spec.engine.wire import Empty
from pallet.spec.signals import signal_number

IMAGE = ContainerConfig(
    entrypoint=["/entry"], cmd=["serve"], env=["A=image", "B=image"], working_dir="/srv", user="app",
    labels={"from": "image", "x": "1"}, exposed_ports={"80/tcp": Empty()}, volumes={"/data": Empty()},
    stop_signal="SIGQUIT", healthcheck=HealthConfig(test=["CMD", "true"], retries=5))


def test_everything_open_comes_from_the_image() -> None:
    got = merge.merge(ContainerConfig(image="x"), IMAGE)
    assert (got.entrypoint, got.cmd, got.working_dir, got.user) == (["/entry"], ["serve"], "/srv", "app")
    assert got.stop_signal == "SIGQUIT"
    assert got.healthcheck == IMAGE.healthcheck


def test_own_values_win_key_by_key() -> None:
    got = merge.merge(ContainerConfig(
        env=["B=mine"], labels={"x": "2"}, exposed_ports={"53/udp": Empty()}, cmd=["other"],
        healthcheck=HealthConfig(retries=1)), IMAGE)
    assert got.env == ["B=mine", "A=image"]
    assert got.labels == {"from": "image", "x": "2"}
    assert set(got.exposed_ports or ()) == {"80/tcp", "53/udp"}
    assert (got.entrypoint, got.cmd) == (["/entry"], ["other"])
    health = got.healthcheck
    assert isinstance(health, HealthConfig)
    assert (health.test, health.retries) == (["CMD", "true"], 1)


def test_an_own_entrypoint_drops_the_images_command() -> None:
    got = merge.merge(ContainerConfig(entrypoint=["/mine"]), IMAGE)
    assert (got.entrypoint, got.cmd) == (["/mine"], None)


def test_an_empty_string_clears_the_entrypoint() -> None:
    got = merge.merge(ContainerConfig(entrypoint=[""], cmd=["ls"]), IMAGE)
    assert (got.entrypoint, got.cmd) == (None, ["ls"])


def test_no_command_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="no command specified"):
        merge.merge(ContainerConfig(), ContainerConfig())


def test_environment_has_path_hostname_term_and_removals() -> None:
    env = merge.environment(ContainerConfig(hostname="box", tty=True, env=["X=1", "HOSTNAME", "PATH=/bin"]))
    assert env == ["PATH=/bin", "TERM=xterm", "X=1"]


@pytest.mark.parametrize(("text", "number"), [
    ("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)])
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["0", "65", "SIGNOPE", "-9", ""])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"invalid signal: {text}"):
        signal_number(text)


@pytest.mark.parametrize(("config", "host", "words"), [
    (ContainerConfig(working_dir="rel"), HostConfig(), "the working directory 'rel' is invalid"),
    (ContainerConfig(hostname="x"), HostConfig(uts_mode="host"), "hostname and the UTS mode"),
    (ContainerConfig(hostname="x"), HostConfig(network_mode="container:y"), "hostname and the network mode"),
    (ContainerConfig(), HostConfig(ipc_mode="bogus"), "invalid IPC mode: bogus"),
    (ContainerConfig(), HostConfig(pid_mode="container:"), "invalid PID mode: container:"),
    (ContainerConfig(), HostConfig(oom_score_adj=2000), "range for oom score adj is"),
    (ContainerConfig(healthcheck=HealthConfig(interval=5)), HostConfig(), "Interval in Healthcheck cannot be less"),
    (ContainerConfig(env=["=x"]), HostConfig(), "invalid environment variable: =x"),
    (ContainerConfig(hostname="-bad"), HostConfig(), "invalid hostname format: -bad"),
])
def test_refusals(config: ContainerConfig, host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        merge.check(config, host)
