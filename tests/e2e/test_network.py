"""The default bridge, ``none``, ``host``, ``container:``, names and published ports."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.isolation import HOST_ADDRESS
from tests.support.registry import free_port
from tests.support.scratch import HOST_TOOLS, PYTHON
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

WEB = ("busybox", "httpd", "-f", "-p", "80", "-h", "/srv")
BODY = "hello from the container\n"
UDP_ECHO = (
    "import socket;s=socket.socket({family},socket.SOCK_DGRAM);s.bind(('{any}',9));\n"
    "while True: d,a=s.recvfrom(999); s.sendto(b'echo '+d,a)"
)


def fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/index.html", timeout=3) as reply:
        return str(reply.read().decode())


def serves(url: str) -> bool:
    """The web container answers at ``url``."""
    return fetch(url) == BODY


def address(docker: DockerCli, name: str) -> str:
    return str(docker.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def port_of(docker: DockerCli, name: str, private: str) -> int:
    ports = docker.inspect(name)["NetworkSettings"]["Ports"]
    return int(ports[private][0]["HostPort"])


def test_bridge_addresses(engine: Daemon, docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    data = docker.inspect(name)["NetworkSettings"]["Networks"]["bridge"]
    gateway = engine.bip.split("/")[0]
    assert data["Gateway"] == gateway
    assert data["IPPrefixLen"] == 24
    inside = docker.ok("exec", name, "ip", "-o", "-4", "addr", "show", "eth0")
    assert f"{data['IPAddress']}/24" in inside
    assert data["MacAddress"] in docker.ok("exec", name, "ip", "link", "show", "eth0")
    assert f"default via {gateway}" in docker.ok("exec", name, "ip", "route")
    assert "UP" in docker.ok("exec", name, "ip", "link", "show", "lo")


def test_host_reaches_a_container_and_back(engine: Daemon, docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, *WEB)
    eventually(lambda: fetch(f"http://{address(docker, name)}") == BODY)
    with socket.create_server((engine.bip.split("/")[0], 0)) as server:
        port = server.getsockname()[1]
        client = docker.start("run", "--rm", "busybox", "nc", server.getsockname()[0], str(port),
                              stdin=subprocess.DEVNULL)  # fmt: skip
        server.settimeout(15)
        connection, _ = server.accept()
        connection.sendall(b"from host\n")
        connection.close()
        out, _ = client.communicate(timeout=15)
    assert out == "from host\n"


def test_containers_reach_one_another(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, *WEB)
    url = f"http://{address(docker, name)}/index.html"
    fetch_it = ("run", "--rm", "busybox", "wget", "-qO-", url)
    assert docker.ok(*fetch_it) == BODY.strip()


def test_none_has_loopback_only(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--net", "none", "--name", name, "busybox", "sleep", "600")
    out = docker.ok("exec", name, "ip", "-o", "link")
    assert [line.split(": ")[1].split("@")[0] for line in out.splitlines() if "tunl" not in line
            and "sit" not in line and "ip6" not in line] == ["lo"]  # fmt: skip
    assert list(docker.inspect(name)["NetworkSettings"]["Networks"]) == ["none"]


def test_host_shares_everything(docker: DockerCli) -> None:
    import os

    inside = docker.ok("run", "--rm", "--net", "host", "busybox", "readlink", "/proc/self/ns/net")
    assert inside == os.readlink("/proc/self/ns/net")
    name = docker.ok("run", "--rm", "--net", "host", "busybox", "cat", "/proc/sys/kernel/hostname")
    assert name == os.uname().nodename


def test_container_mode_shares_network_and_names(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "--hostname", "first", *WEB)
    script = "hostname; wget -qO- http://127.0.0.1/index.html"
    out = docker.ok("run", "--rm", "--net", f"container:{name}", "busybox", "sh", "-c", script)
    assert out == f"first\n{BODY.strip()}"
    result = docker.run("run", "--rm", "--net", f"container:{name}", "-p", "80", "busybox", "true")
    assert result.code == 125
    assert "conflicting options" in result.err


@pytest.mark.parametrize("host", ["127.0.0.1", HOST_ADDRESS, "localhost"])
def test_published_port_answers(docker: DockerCli, name: str, host: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    eventually(lambda: fetch(f"http://{host}:{port}") == BODY)


@pytest.mark.needs("ipv6")
def test_published_port_answers_on_ipv6(docker: DockerCli, name: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    eventually(lambda: fetch(f"http://[::1]:{port}") == BODY)


def test_published_port_from_containers(docker: DockerCli, name: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    url = f"http://{HOST_ADDRESS}:{port}/index.html"
    eventually(lambda: docker.run("run", "--rm", "busybox", "wget", "-qO-", url).out == BODY)
    assert docker.ok("exec", name, "wget", "-qO-", url) == BODY.strip()


def test_bound_to_one_address(docker: DockerCli, name: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"127.0.0.1:{port}:80", *WEB)
    eventually(lambda: fetch(f"http://127.0.0.1:{port}") == BODY)
    with pytest.raises(OSError, match=r"refused|timed out"):
        fetch(f"http://{HOST_ADDRESS}:{port}")


def test_any_free_port(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-p", "80", *WEB)
    port = port_of(docker, name, "80/tcp")
    assert port > 1024
    eventually(lambda: fetch(f"http://127.0.0.1:{port}") == BODY)
    assert docker.ok("port", name, "80").splitlines()[0] == f"0.0.0.0:{port}"


def test_publish_all(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-P", "--expose", "7777/udp", *WEB)
    ports = docker.inspect(name)["NetworkSettings"]["Ports"]
    assert set(ports) == {"80/tcp", "7777/udp"}
    eventually(lambda: fetch(f"http://127.0.0.1:{port_of(docker, name, '80/tcp')}") == BODY)


def test_range(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-p", "27080-27082:80-82", *WEB)
    eventually(lambda: fetch("http://127.0.0.1:27080") == BODY)
    assert port_of(docker, name, "82/tcp") == 27082


def ask_udp(family: socket.AddressFamily, host: str, port: int) -> bytes:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((host, port))
        sock.send(b"hi")
        return sock.recv(100)


@pytest.mark.parametrize("host", ["127.0.0.1", HOST_ADDRESS])
def test_udp(docker: DockerCli, name: str, host: str) -> None:
    port = free_port()
    script = UDP_ECHO.format(family="socket.AF_INET", any="")
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:9/udp", *HOST_TOOLS, "busybox", PYTHON,
              "-c", script)  # fmt: skip
    eventually(lambda: ask_udp(socket.AF_INET, host, port) == b"echo hi")


@pytest.mark.needs("ipv6")
def test_udp_on_ipv6(docker: DockerCli, name: str) -> None:
    port = free_port()
    script = UDP_ECHO.format(family="socket.AF_INET", any="")
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:9/udp", *HOST_TOOLS, "busybox", PYTHON,
              "-c", script)  # fmt: skip
    eventually(lambda: ask_udp(socket.AF_INET6, "::1", port) == b"echo hi")


def test_port_of_another_container_is_taken(docker: DockerCli, name: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    result = docker.run("run", "-d", "--name", f"{name}-2", "-p", f"{port}:80", *WEB)
    assert result.code == 125
    assert "driver failed programming external connectivity on endpoint" in result.err or (
        "failed to set up container networking" in result.err
    )
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in result.err
    assert docker.inspect(f"{name}-2")["State"]["Status"] == "created"


def test_port_of_a_foreign_program_is_taken(docker: DockerCli, name: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        result = docker.run("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    assert result.code == 125
    assert "address already in use" in result.err


def test_port_is_free_after_the_container(docker: DockerCli, name: str) -> None:
    port = free_port()
    for _ in range(3):
        docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
        docker.ok("rm", "-f", name)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_port_comes_back_with_a_restart(docker: DockerCli, name: str) -> None:
    port = free_port()
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", *WEB)
    docker.ok("restart", "-t", "0", name)
    eventually(lambda: fetch(f"http://127.0.0.1:{port}") == BODY)


def test_inspect_shows_ports_only_while_running(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-p", "80", *WEB)
    docker.ok("kill", name)
    settings = docker.inspect(name)["NetworkSettings"]
    assert not settings["Ports"]
    assert not settings["Networks"]["bridge"]["IPAddress"]


def test_large_transfer_through_a_published_port(docker: DockerCli, name: str) -> None:
    port = free_port()
    script = "head -c 20000000 /dev/zero > /srv/big; httpd -f -p 80 -h /srv"
    docker.ok("run", "-d", "--name", name, "-p", f"{port}:80", "busybox", "sh", "-c", script)
    eventually(lambda: fetch(f"http://127.0.0.1:{port}") == BODY)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/big", timeout=20) as reply:
        assert len(reply.read()) == 20_000_000


def test_networks_listed_and_inspected(engine: Daemon, docker: DockerCli, name: str) -> None:
    rows = docker.ok("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").splitlines()
    assert set(rows) == {"bridge bridge local", "host host local", "none null local"}
    full = docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    data = json.loads(docker.ok("network", "inspect", "bridge"))[0]
    assert data["IPAM"]["Config"][0]["Gateway"] == engine.bip.split("/")[0]
    assert data["Containers"][full]["Name"] == name
    assert data["Containers"][full]["IPv4Address"] == f"{address(docker, name)}/24"
    result = docker.run("network", "rm", "bridge")
    assert result.code == 1
    assert "pre-defined network and cannot be removed" in result.err


def test_unknown_network(docker: DockerCli, name: str) -> None:
    result = docker.run("run", "--name", name, "--net", "nope", "busybox", "true")
    assert result.code == 125
    assert "network nope not found" in result.err


def test_own_mac(engine: Daemon, docker: DockerCli) -> None:
    not_on_dockerd(engine, "its API is older than this command line's option")
    out = docker.ok("run", "--rm", "--mac-address", "92:d0:c6:0a:29:33", "busybox", "cat",
                    "/sys/class/net/eth0/address")  # fmt: skip
    assert out == "92:d0:c6:0a:29:33"


def test_links_name_the_target_in_hosts_and_environment(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-e", "SECRET=1", *WEB)
    address = docker.inspect(name)["NetworkSettings"]["IPAddress"]
    script = "grep shop /etc/hosts; env | grep ^SHOP_ | sort"
    out = docker.ok("run", "--rm", "--link", f"{name}:shop", "busybox", "sh", "-c", script)
    assert out.splitlines()[0].split()[:2] == [address, "shop"]
    assert f"SHOP_PORT_80_TCP_ADDR={address}" in out
    assert "SHOP_ENV_SECRET=1" in out
    docker.ok("stop", "-t", "0", name)
    result = docker.run("run", "--rm", "--link", f"{name}:shop", "busybox", "true")
    assert result.code == 125
    assert "Cannot link to a non running container" in result.err


def test_a_created_container_shows_its_network(docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "busybox")
    networks = docker.inspect(name)["NetworkSettings"]["Networks"]
    assert list(networks) == ["bridge"]
    assert networks["bridge"]["IPAddress"] == ""


def test_an_unknown_donor_is_refused_at_the_start_and_pulls_nothing(docker: DockerCli, name: str) -> None:
    for flags in (["--net", "container:nowhere"], ["--volumes-from", "nowhere"]):
        result = docker.run("run", "--name", name, *flags, "busybox", "true")
        assert result.code == 125
        assert "No such container: nowhere" in result.err
        assert "locally" not in result.err
        docker.run("rm", "-f", name)
