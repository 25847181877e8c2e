"""The table as ``nft`` reads it back, and what others' tables mean for us."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from pallet.network.firewall import Firewall, RuleOptions
from pallet.network.model import PublishedPort
from tests.root import netlab
from tests.root.netlab import Lab

pytestmark = pytest.mark.needs("root", "nft")
Isolated = Callable[[Callable[[], Any]], Any]

RULES = """\
publish: dnat ip to ip daddr . meta l4proto . th dport map @addr4
publish: meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any4
publish: dnat ip6 to ip6 daddr . meta l4proto . th dport map @addr6
publish: meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any6
to_bridge: ct state established,related accept
to_bridge: ct status dnat accept
to_bridge: iifname "t0" accept
to_bridge: counter packets 0 bytes 0 drop
guard: iifname "t0" ip daddr 127.0.0.0/8 drop
prerouting: iifname != "t0" ip daddr != 127.0.0.0/8 fib daddr type local goto publish
prerouting: iifname != "t0" meta nfproto ipv6 fib daddr type local goto publish
output: meta nfproto ipv4 fib daddr type local goto publish
output: ip6 daddr != ::1 fib daddr type local goto publish
postrouting: oifname != "t0" ip saddr 172.17.0.0/16 masquerade
postrouting: oifname != "t0" ip6 saddr fd99::/64 masquerade
postrouting: oifname "t0" ip saddr 127.0.0.0/8 masquerade
forward: oifname "t0" jump to_bridge
"""


def _options(**more: Any) -> RuleOptions:
    return RuleOptions(bridge="t0", subnet=ipaddress.IPv4Network("172.17.0.0/16"), **more)


def _listed() -> list[str]:
    text = subprocess.run(["nft", "list", "table", "inet", "pallet-t0"], capture_output=True,
                          text=True, check=True).stdout  # fmt: skip
    found, chain = [], ""
    for line in (raw.strip() for raw in text.splitlines()):
        if line.startswith(("chain ", "map ")):
            chain = line.split()[1] if line.startswith("chain") else ""
        elif chain and line and line[0] not in "}" and not line.startswith("type "):
            found.append(f"{chain}: {line.split(' comment ')[0]}")
    return found


def test_nft_reads_the_rules_as_meant(in_net_ns: Isolated) -> None:
    def body() -> list[str]:
        firewall = Firewall(_options(subnet6=ipaddress.IPv6Network("fd99::/64")))
        firewall.install([])
        listed = _listed()
        firewall.close()
        return listed

    assert in_net_ns(body) == RULES.splitlines()


def test_options_change_single_rules(in_net_ns: Isolated) -> None:
    def body() -> list[str]:
        firewall = Firewall(_options(masquerade=False, inter_container=False, translate_from_bridge=True))
        firewall.install([])
        listed = _listed()
        firewall.close()
        return listed

    found = in_net_ns(body)
    assert 'to_bridge: iifname "t0" accept' not in found
    assert "prerouting: ip daddr != 127.0.0.0/8 fib daddr type local goto publish" in found
    assert [line for line in found if line.startswith("postrouting")] == [
        'postrouting: oifname "t0" ip saddr 172.17.0.0/16 ct status dnat masquerade',
        'postrouting: oifname "t0" ip saddr 127.0.0.0/8 masquerade']


def test_a_thousand_ports_are_one_transaction(in_net_ns: Isolated) -> None:
    def body() -> tuple[int, float, int]:
        firewall = Firewall(_options())
        firewall.install([])
        ports = [PublishedPort(proto="tcp", container_port=80, host_ip="0.0.0.0", host_port=port,
                               target_ip="172.17.0.2") for port in range(10_000, 13_000)]
        began = time.perf_counter()
        firewall.publish(ports)
        took = time.perf_counter() - began
        there = len(firewall._nft.elements(1, "pallet-t0", "any4"))
        firewall.unpublish(ports)
        left = len(firewall._nft.elements(1, "pallet-t0", "any4"))
        firewall.close()
        return there, took, left

    there, took, left = in_net_ns(body)
    assert (there, left) == (3000, 0)
    assert took < 1.0


def test_another_programs_drop_policy_is_noticed(in_net_ns: Isolated) -> None:
    """Docker with iptables sets FORWARD to DROP: containers of ours would be cut off silently."""

    async def body(lab: Lab) -> tuple[list[str], list[str]]:
        controller = lab.controller()
        await controller.start({})
        before = controller.warnings
        rules = ("add table ip filter; add chain ip filter FORWARD "
                 "{ type filter hook forward priority 0; policy drop; }")
        subprocess.run(["nft", rules], check=True)
        after = controller.warnings
        await controller.close(keep=False)
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
        assert listed.stdout == "table ip filter\n"  # theirs is left alone
        return before, after

    before, after = in_net_ns(netlab.run(body))
    assert before == []
    assert len(after) == 1
    assert "DOCKER-USER -i pallet0" in after[0]
