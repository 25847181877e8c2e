"""hosts and resolv.conf as Docker writes them."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError
from pallet.network import files
from pallet.network.files import Resolver

HEAD = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")


def test_hosts() -> None:
    text = files.hosts_file(hostname="abc", addresses=("172.17.0.2",))
    assert text == HEAD + "172.17.0.2\tabc\n"


def test_hosts_with_a_domain_and_extras() -> None:
    text = files.hosts_file(
        hostname="web", domainname="example.org", addresses=("172.17.0.2", "", "fd99::2"),
        extra_hosts=("db:10.0.0.5", "v6:[fd00::1]", "bare:fd00::2", "eq=10.0.0.6", "up:host-gateway"),
        host_gateway="172.17.0.1")
    assert text == HEAD + (
        "10.0.0.5\tdb\nfd00::1\tv6\nfd00::2\tbare\n10.0.0.6\teq\n172.17.0.1\tup\n"
        "172.17.0.2\tweb.example.org web\nfd99::2\tweb.example.org web\n")


def test_a_hostname_with_dots_gets_its_short_form() -> None:
    assert files.hosts_file(hostname="a.b.c", addresses=("1.2.3.4",)).endswith("1.2.3.4\ta.b.c a\n")


@pytest.mark.parametrize(("text", "words"), [
    ("db", "bad format for add-host"), (":1.2.3.4", "bad format for add-host"),
    ("db:", "bad format for add-host"), ("db:nowhere", "invalid IP address in add-host"),
])
def test_bad_extra_hosts(text: str, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        files.hosts_file(hostname="a", extra_hosts=(text,))


def test_host_gateway_needs_one() -> None:
    with pytest.raises(InvalidParameterError, match="host-gateway"):
        files.hosts_file(hostname="a", extra_hosts=("up:host-gateway",))


HOST = files.parse_resolv_conf(
    "# a comment\n; another\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver fd00::1\n"
    "nameserver fe80::1%eth0\ndomain old.example\nsearch a.example b.example\noptions edns0 trust-ad\n"
    "options ndots:2\nsortlist 10.0.0.0\n")


def test_parsing() -> None:
    assert Resolver(
        servers=("127.0.0.53", "10.0.0.1", "fd00::1", "fe80::1%eth0"),
        search=("a.example", "b.example"), options=("edns0", "trust-ad", "ndots:2"),
        other=("sortlist 10.0.0.0",)) == HOST


def test_what_a_container_cannot_reach_is_left_out() -> None:
    assert files.resolv_conf(HOST) == (
        "nameserver 10.0.0.1\nsearch a.example b.example\noptions edns0 trust-ad ndots:2\n"
        "sortlist 10.0.0.0\n")
    assert "nameserver fd00::1\n" in files.resolv_conf(HOST, ipv6=True)
    assert "%eth0" not in files.resolv_conf(HOST, ipv6=True)


def test_a_host_with_only_a_stub_falls_back() -> None:
    stub = files.parse_resolv_conf("nameserver 127.0.0.53\n")
    assert files.is_local_stub(stub)
    assert files.resolv_conf(stub) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert files.resolv_conf(stub, keep_loopback=True) == "nameserver 127.0.0.53\n"
    assert files.resolv_conf(stub, ipv6=True).count("nameserver") == 4


def test_overrides_replace_each_part() -> None:
    text = files.resolv_conf(HOST, servers=("127.0.0.1",), search=("x.example",), options=("ndots:5",))
    assert text == "nameserver 127.0.0.1\nsearch x.example\noptions ndots:5\nsortlist 10.0.0.0\n"
    assert "search" not in files.resolv_conf(HOST, search=(".",))


def test_hostname() -> None:
    assert files.hostname_file("abc") == "abc\n"
