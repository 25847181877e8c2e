"""Bridges, pools and tables over the daemon's life: kills, restarts, neighbours, repairs."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pallet.errors import NotFoundError, SystemFailureError
from pallet.linux import netlink, nft
from pallet.network import bridge
from pallet.network.model import LiveEndpoint
from tests.root import netlab
from tests.root.netlab import HOST, Container, Lab, ask, request
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pallet.network.controller import NetworkController

pytestmark = pytest.mark.needs("root", "nft")
Isolated = Callable[[Callable[[], Any]], Any]


def _veths() -> list[str]:
    return [name for name in netlab.links() if name.startswith("veth")]


def _tables() -> list[str]:
    with nft.Nftables() as tables:
        return tables.tables(nft.NFPROTO_INET)


async def _filled(controller: NetworkController, size: int = 4) -> None:
    deadline = time.monotonic() + 10
    while len(controller._bridge._pool) < size:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_sandbox_is_wired_as_docker_does(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> dict[str, Any]:
        controller = lab.controller()
        await controller.start({})
        sandbox = await controller.connect("a", request("a"))
        read_fd, write_fd = os.pipe()

        def inside() -> None:
            netlab.setns(sandbox.netns_fd)
            with netlink.Netlink() as link:
                text = repr((netlink.links(link), sorted(map(str, netlink.addresses(link))),
                             bridge._SYSCTL.joinpath("ipv4/ip_forward").read_text()))
                os.write(write_fd, text.encode())

        pid = netlab.child(inside)
        os.close(write_fd)
        with open(read_fd) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        host = [link for link in netlab_links() if link.name == sandbox.endpoint.link]
        bridge_link = [link for link in netlab_links() if link.name == "pallet0"]
        endpoint = sandbox.endpoint
        sandbox.close()
        await controller.close(keep=True)
        return {"text": text, "host": host, "bridge": bridge_link, "endpoint": endpoint}

    found = in_net_ns(netlab.run(body))
    endpoint = found["endpoint"]
    assert endpoint.ip == "172.17.0.2"
    assert endpoint.mac == "02:42:ac:11:00:02"
    assert (endpoint.gateway, endpoint.prefix_len) == ("172.17.0.1", 16)
    assert found["host"][0].master == found["bridge"][0].number
    assert found["host"][0].up
    assert "name='eth0'" in found["text"]
    assert "02:42:ac:11:00:02" in found["text"]
    assert "172.17.0.2/16" in found["text"]
    assert "fe80" not in found["text"]


def netlab_links() -> list[netlink.Link]:
    with netlink.Netlink() as link:
        return netlink.links(link)


def test_closing_leaves_nothing(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[Any, ...]:
        before = set(os.listdir("/proc/self/fd"))
        controller = lab.controller()
        await controller.start({})
        sandbox = await controller.connect("a", request("a", "8080:80"))
        sandbox.close()
        await controller.release("a")
        during = (netlab.links(), _tables())
        await controller.close(keep=False)
        eventually(lambda: not _veths())
        return during, netlab.links(), _tables(), len(set(os.listdir("/proc/self/fd")) - before)

    during, links, tables, fds = in_net_ns(netlab.run(body))
    assert "pallet0" in during[0]
    assert during[1] == ["pallet"]
    assert links == ["lan0", "lanport", "lo"]
    assert tables == []
    assert fds == 0


def test_a_users_bridge_is_used_and_kept(in_net_ns: Isolated) -> None:
    """``--bridge`` with one that the user made: its address counts, and it is never deleted."""

    async def body(lab: Lab) -> tuple[Any, ...]:
        with netlink.Netlink() as link:
            link.request(netlink.bridge_add("mine", mac="02:00:00:00:00:09", mtu=1500))
            found = netlink.find_link(link, "mine")
            link.request(netlink.address_add(
                found.number, ipaddress.ip_interface("10.77.0.9/24")), netlink.link_up(found.number))
        controller = lab.controller(name="mine", bip=None)
        await controller.start({})
        record = controller.get("bridge")
        sandbox = await controller.connect("a", request("a"))
        sandbox.close()
        await controller.release("a")
        tables = _tables()
        await controller.close(keep=False)
        return record.subnet, record.gateway, sandbox.endpoint.ip, tables, netlab.links()

    subnet, gateway, ip, tables, links = in_net_ns(netlab.run(body))
    assert (subnet, gateway) == ("10.77.0.0/24", "10.77.0.9")
    assert ip.startswith("10.77.0.")
    assert ip != gateway
    assert tables == ["pallet-mine"]
    assert "mine" in links


def test_a_link_that_is_no_bridge_is_refused(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> str:
        with pytest.raises(SystemFailureError) as caught:
            await lab.controller(name="lanport").start({})
        return str(caught.value)

    assert "lanport" in in_net_ns(netlab.run(body))


def test_a_killed_daemon_takes_its_pool_along(in_net_ns: Isolated) -> None:
    """Sandboxes that nobody has got yet are descriptors only: SIGKILL removes them."""

    async def body(lab: Lab) -> tuple[int, list[str]]:
        ready, told = os.pipe()

        async def daemon() -> None:
            inner = Lab.__new__(Lab)
            inner.store, inner.netns = lab.store, lab.netns
            netlab.aio._blocking = netlab.ThreadPoolExecutor(2)
            controller = inner.controller()
            await controller.start({})
            await _filled(controller)
            os.write(told, b"r")
            await asyncio.Event().wait()

        pid = netlab.child(lambda: netlab_run(daemon))
        os.close(told)
        assert os.read(ready, 1) == b"r"
        during = len(_veths())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        eventually(lambda: not _veths())
        return during, _veths()

    assert in_net_ns(netlab.run(body)) == (4, [])


def netlab_run(body: Callable[[], Any]) -> None:
    """A new event loop in a forked child of a process that runs one."""
    asyncio.set_event_loop(None)
    asyncio._set_running_loop(None)
    asyncio.run(body())


def test_the_next_daemon_takes_over(in_net_ns: Isolated) -> None:
    """Without the first one's ``close``: ports go on; addresses and ports are known; the dead go."""

    async def body(lab: Lab) -> dict[str, Any]:
        first = lab.controller()
        await first.start({})
        a = Container(await first.connect("a", request("a", "8080:80")))
        a.start_proxy()
        gone = await first.connect("gone", request("gone", "8081:80"))
        stale = gone.endpoint
        found: dict[str, Any] = {"records": lab.store.networks()}
        # The first daemon is killed: nothing of it is told to go, its descriptors close.
        await first._bridge._pool.close()
        netns = os.dup(gone.netns_fd)  # something still holds the dead one's namespace
        gone.close()
        found["meanwhile"] = ask("127.0.0.1", 8080)
        second = lab.controller()
        live = {"a": LiveEndpoint(container_name="a", endpoint=a.endpoint)}
        await second.start(live)
        found["after"] = ask("127.0.0.1", 8080)
        found["stale link"] = stale.link in netlab.links()
        found["live link"] = a.endpoint.link in netlab.links()
        with nft.Nftables() as tables:
            found["elements"] = len(tables.elements(nft.NFPROTO_INET, "pallet", "any4"))
        with pytest.raises(SystemFailureError) as caught:
            await second.connect("b", request("b", "8080:80"))
        found["refused"] = str(caught.value)
        b = await second.connect("b", request("b", "8081:80"))
        found["ips"] = (a.endpoint.ip, stale.ip, b.endpoint.ip)
        found["members"] = [m.name for m in second.members(second.get("bridge").id)]
        found["same id"] = first.get("bridge").id == second.get("bridge").id
        b.close()
        os.close(netns)
        await second.close(keep=False)  # a lives on, so everything stays
        found["kept"] = ask("127.0.0.1", 8080)
        a.stop()
        return found

    found = in_net_ns(netlab.run(body))
    assert found["meanwhile"]["size"] == found["after"]["size"] == found["kept"]["size"] == 10
    assert (found["stale link"], found["live link"], found["elements"]) == (False, True, 1)
    assert found["refused"].endswith("Bind for 0.0.0.0:8080 failed: port is already allocated")
    assert len(set(found["ips"])) == 3
    assert found["members"] == ["a", "b"]
    assert found["same id"]


def test_two_daemons_side_by_side(in_net_ns: Isolated) -> None:
    """Own bridges and tables; the second avoids the first's addresses; closing one leaves the other."""

    async def body(lab: Lab) -> dict[str, Any]:
        one = lab.controller()
        await one.start({})
        lab.store = netlab.Store()
        two = lab.controller(name="other0", bip=None)
        await two.start({})
        a = Container(await one.connect("a", request("a", "8080:80")))
        b = Container(await two.connect("b", request("b", "8081:80")))
        a.start_proxy()
        b.start_proxy()
        found: dict[str, Any] = {
            "subnets": (one.get("bridge").subnet, two.get("bridge").subnet), "tables": _tables(),
            "across, direct": netlab.ask_in(b.netns_fd, a.endpoint.ip, 80, timeout_s=0.3),
            "across, published": netlab.ask_in(b.netns_fd, HOST, 8080),
            "second": ask(HOST, 8081),
        }
        with pytest.raises(SystemFailureError) as caught:
            await two.connect("c", request("c", "8080:80"))
        found["taken"] = str(caught.value)
        b.stop()
        await two.release("b")
        await two.close(keep=False)
        found["first"] = ask("127.0.0.1", 8080)
        found["left"] = (_tables(), "other0" in netlab.links())
        a.stop()
        await one.close(keep=True)
        return found

    found = in_net_ns(netlab.run(body))
    assert found["subnets"] == ("172.17.0.0/16", "172.18.0.0/16")
    assert found["tables"] == ["pallet", "pallet-other0"]
    assert found["across, direct"] == "TimeoutError"
    assert found["across, published"]["size"] == found["second"]["size"] == 10
    assert found["taken"].endswith("listen tcp4 0.0.0.0:8080: bind: address already in use")
    assert found["first"]["size"] == 10
    assert found["left"] == (["pallet"], False)


def test_a_flushed_ruleset_comes_back_with_the_next_port(in_net_ns: Isolated) -> None:
    """``nft flush ruleset`` (a firewall's restart) must not lose what was published before."""

    async def body(lab: Lab) -> tuple[Any, ...]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        before = ask("127.0.0.1", 8080, timeout_s=0.3)
        b = await controller.connect("b", request("b", "8081:80"))
        b.close()
        after = ask("127.0.0.1", 8080)
        a.stop()
        await controller.close(keep=True)
        return before, after

    before, after = in_net_ns(netlab.run(body))
    assert before == "TimeoutError"  # held by the reservation, served by nobody in this test
    assert after["size"] == 10


def test_a_deleted_bridge_is_made_anew(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[Any, Any]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        with netlink.Netlink() as link:
            link.request(netlink.link_delete(netlink.find_link(link, "pallet0").number))
        b = Container(await controller.connect("b", request("b", "8081:80")))
        found = ask("127.0.0.1", 8080), ask("127.0.0.1", 8081)
        a.stop()
        b.stop()
        await controller.close(keep=True)
        return found

    first, second = in_net_ns(netlab.run(body))
    assert first["size"] == second["size"] == 10


def test_a_running_dockers_networks_are_avoided(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> str:
        with netlink.Netlink() as link:
            link.request(netlink.bridge_add("docker0", mac="02:00:00:00:00:08", mtu=1500))
            found = netlink.find_link(link, "docker0")
            link.request(netlink.address_add(found.number, ipaddress.ip_interface("172.17.0.1/16")))
        controller = lab.controller(bip=None)
        await controller.start({})
        await controller.close(keep=False)
        return controller.get("bridge").subnet

    assert in_net_ns(netlab.run(body)) == "172.18.0.0/16"


def test_modes_without_a_sandbox(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> list[Any]:
        controller = lab.controller()
        await controller.start({})
        found = []
        for mode in ("host", "none", "container:abc"):
            sandbox = await controller.connect(mode, request("c", network_mode=mode))
            found.append((sandbox.netns_fd, sandbox.listeners,
                          sandbox.endpoint and sandbox.endpoint.network_name))
        with pytest.raises(NotFoundError, match="network nope not found"):
            await controller.connect("x", request("x", network_mode="nope"))
        found.append([m.container_id for m in controller.members(controller.get("host").id)])
        await controller.close(keep=True)
        return found

    assert in_net_ns(netlab.run(body)) == [
        (None, (), "host"), (None, (), "none"), (None, (), None), ["host"]]


def test_fixed_address_and_mac(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> Any:
        controller = lab.controller()
        await controller.start({})
        sandbox = await controller.connect(
            "a", request("a", ip="172.17.9.9", mac="02:42:00:00:00:99"))
        sandbox.close()
        await controller.close(keep=True)
        return sandbox.endpoint

    endpoint = in_net_ns(netlab.run(body))
    assert (endpoint.ip, endpoint.mac) == ("172.17.9.9", "02:42:00:00:00:99")


def test_no_nftables_is_a_warning(in_net_ns: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without nf_tables: the daemon starts, says so, and the proxy carries ports."""

    def refuse(_self: object, _messages: object) -> None:
        raise netlink.SyscallError("begin", 95)

    monkeypatch.setattr(nft.Nftables, "commit", refuse)

    async def body(lab: Lab) -> tuple[Any, Any]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        a.start_proxy()
        found = controller.warnings, ask("127.0.0.1", 8080)
        a.stop()
        await controller.release("a")
        await controller.close(keep=False)
        return found

    warnings, answer = in_net_ns(netlab.run(body))
    assert len(warnings) == 1
    assert "nftables cannot be used" in warnings[0]
    assert answer["size"] == 10


def test_fifty_at_once(in_net_ns: Isolated) -> None:
    """More than the pool holds: all get a sandbox of their own; an address is given out once."""

    async def body(lab: Lab) -> tuple[int, int]:
        controller = lab.controller()
        await controller.start({})
        sandboxes = await asyncio.gather(*[
            controller.connect(f"c{n}", request(f"c{n}", f"{9000 + n}:80")) for n in range(50)])
        ips = {sandbox.endpoint.ip for sandbox in sandboxes}
        for sandbox in sandboxes:
            sandbox.close()
        for n in range(50):
            await controller.release(f"c{n}")
        with nft.Nftables() as tables:
            left = len(tables.elements(nft.NFPROTO_INET, "pallet", "any4"))
        await controller.close(keep=False)
        return len(ips), left

    assert in_net_ns(netlab.run(body)) == (50, 0)


def test_a_cancelled_connect_leaves_nothing(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[int, list[str]]:
        controller = lab.controller(sandbox_pool=0)
        await controller.start({})
        before = len(os.listdir("/proc/self/fd"))
        for turns in range(6):  # wherever it stands
            task = asyncio.create_task(controller.connect("a", request("a", "8080:80")))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                task.result().close()
                await controller.release("a")
        await asyncio.sleep(0.01)
        eventually(lambda: not _veths())
        after = len(os.listdir("/proc/self/fd"))
        with socket.create_server(("0.0.0.0", 8080)):
            pass
        await controller.close(keep=False)
        return after - before, netlab.links()

    assert in_net_ns(netlab.run(body)) == (0, ["lan0", "lanport", "lo"])


def test_a_failing_zygote_is_reported_by_the_start_that_needs_it(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[str, str]:
        controller = lab.controller(sandbox_pool=0)
        await controller.start({})
        lab.netns.fail = OSError(12, "Cannot allocate memory")
        with pytest.raises(SystemFailureError) as caught:
            await controller.connect("a", request("a", "8080:80"))
        lab.netns.fail = None
        sandbox = await controller.connect("a", request("a", "8080:80"))
        sandbox.close()
        await controller.close(keep=False)
        return str(caught.value), sandbox.endpoint.ip

    message, ip = in_net_ns(netlab.run(body))
    assert message.startswith("failed to create endpoint on network bridge: ")
    assert ip == "172.17.0.3"


def test_sandboxes_are_made_in_batches(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[int, int]:
        controller = lab.controller(sandbox_pool=4)
        await controller.start({})
        await _filled(controller)
        first = lab.netns.forks
        for n in range(4):
            (await controller.connect(f"c{n}", request(f"c{n}"))).close()
        await _filled(controller)
        second = lab.netns.forks - first
        await controller.close(keep=False)
        return first, second

    assert in_net_ns(netlab.run(body)) == (1, 1)
