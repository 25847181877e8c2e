"""Kernel parameters: only what a namespace of the container's own has may be set."""

from __future__ import annotations

import os

import pytest

from pallet.runtime import sysctl
from pallet.runtime.failure import StartFailureError
from pallet.spec.runtime import Namespace

OWN = [Namespace(type=kind) for kind in ("network", "ipc", "uts", "mount", "pid")]


@pytest.mark.parametrize("name", [
    "net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname"])
def test_what_a_namespace_has_may_be_set(name: str) -> None:
    sysctl.check({name: "1"}, OWN)


@pytest.mark.parametrize(("name", "without", "words"), [
    ("net.ipv4.ip_forward", "network", 'sysctl "net.ipv4.ip_forward" not allowed in host network namespace'),
    ("net/ipv4/conf/eth0.1/mtu", "network", 'sysctl "net.ipv4.conf.eth0/1.mtu" not allowed in host network namespace'),
    ("kernel.shmmax", "ipc", 'sysctl "kernel.shmmax" is not allowed in the hosts ipc namespace'),
    ("fs.mqueue.msg_max", "ipc", 'sysctl "fs.mqueue.msg_max" is not allowed in the hosts ipc namespace'),
    ("kernel.domainname", "uts", 'sysctl "kernel.domainname" is not in a separate kernel namespace'),
    ("kernel.hostname", "", 'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field'),
    ("vm.swappiness", "", 'sysctl "vm.swappiness" is not in a separate kernel namespace')])
def test_the_hosts_are_refused_in_runcs_words(name: str, without: str, words: str) -> None:
    with pytest.raises(StartFailureError) as caught:
        sysctl.check({name: "1"}, [entry for entry in OWN if entry.type != without])
    assert caught.value.message == words


def test_a_namespace_that_is_joined_may_be_the_hosts() -> None:
    joined = [Namespace(type="network", path="/proc/self/ns/net")]
    with pytest.raises(StartFailureError, match="not allowed in host network namespace"):
        sysctl.check({"net.core.x": "1"}, joined)
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(StartFailureError, match="not allowed in host network namespace"):
            sysctl.check({"net.core.x": "1"}, [], fd)
    finally:
        os.close(fd)
    other = os.open("/proc/self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)  # any that is not this process's network
    try:
        sysctl.check({"net.core.x": "1"}, [], other)
    finally:
        os.close(other)
