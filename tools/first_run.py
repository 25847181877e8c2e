"""``make run``: from an empty machine to a container that came from a registry.

Starts palletd if none answers and pulls ``debian:bookworm`` from a public registry. Where none can
be reached, it makes that image from the distribution's own packages, pushes it to a registry on
loopback and pulls it from there. Then, at a terminal, a shell in a container of it; otherwise a
short demonstration of isolation, the writable layer and the network, which removes what it made.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

IMAGE = "debian:bookworm"
NAME = "pallet-first-run"
PALLET = str(Path(sys.executable).with_name("pallet"))
PID_FILE = Path("/run/pallet/palletd.pid")
PULL_PATIENCE_S = 60

SHOW = r"""
. /etc/os-release; echo "system:     $PRETTY_NAME"
echo "host name:  $(hostname)"
echo "processes:  $(cd /proc; ls -d [0-9]* | wc -l), the first is $(cat /proc/1/comm)"
echo "user:       $(id -un), seccomp mode $(awk '/^Seccomp:/ {print $2}' /proc/self/status)"
echo "address:    $(hostname -I)"
echo "root:       $(awk '$2 == "/" {print $3}' /proc/mounts)"
date >> /root/visits; echo "visits:     $(wc -l < /root/visits) (kept in the container's own layer)"
"""
SERVER = (
    "my $s = IO::Socket::INET->new(LocalPort => 8000, Listen => 5) or die; "
    "while (my $c = $s->accept) "
    '{ <$c>; print $c "HTTP/1.0 200 OK\\r\\n\\r\\nhello from ", `hostname` }'
)


def say(text: str) -> None:
    """One line of what is going on."""
    print(f"==> {text}", flush=True)


def pallet(*args: str, quiet: bool = False, check: bool = True) -> str:
    """Run the command line, show the command, return its output."""
    if not quiet:
        words = ["…" if "\n" in word else word for word in args]
        print(f"$ pallet {shlex.join(words)}", flush=True)
    done = subprocess.run([PALLET, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=None if not quiet else subprocess.PIPE, text=True,
                          check=False)  # fmt: skip
    if not quiet:
        print(done.stdout, end="", flush=True)
    if check and done.returncode:
        sys.exit(f"pallet {args[0]} ended with {done.returncode}\n{done.stderr or ''}")
    return done.stdout.strip()


def pulled_from_a_public_registry() -> bool:
    """Try the ordinary way, with a limit: a host without a way out may hang instead of failing."""
    say(f"pulling {IMAGE}")
    try:
        done = subprocess.run([PALLET, "pull", IMAGE], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PULL_PATIENCE_S,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        say(f"no answer within {PULL_PATIENCE_S} s")
        return False
    if done.returncode:
        say(f"no public registry: {done.stderr.strip().splitlines()[-1]}")
        return False
    print(done.stdout, end="")
    return True


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def through_a_local_registry() -> None:
    """Make the base image, push it to a registry on loopback, pull it back under its own name."""
    say(f"making {IMAGE} from the distribution's own packages (a minute or two)")
    pallet("image", "bootstrap", IMAGE)
    port = free_port()
    remote = f"127.0.0.1:{port}/{IMAGE}"
    with tempfile.TemporaryDirectory(prefix="pallet-registry-") as store:
        say(f"serving a registry on 127.0.0.1:{port}; pushing, removing and pulling the image")
        server = subprocess.Popen(
            [PALLET, "registry", "serve", "--address", f"127.0.0.1:{port}", "--root", store],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(port)
            pallet("tag", IMAGE, remote)
            pallet("push", remote)
            pallet("rmi", remote, IMAGE)
            pallet("pull", remote)
            pallet("tag", remote, IMAGE)
            pallet("rmi", remote)
        finally:
            server.terminate()
            server.wait()


def wait_for(port: int) -> None:
    """Until something listens on the port."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            sys.exit(f"nothing listens on port {port}")
        time.sleep(0.05)


def demonstrate() -> None:
    """A container's isolation, layer and network, without a terminal."""
    pallet("rm", "-f", NAME, quiet=True, check=False)
    say("running a container")
    pallet("run", "--name", NAME, IMAGE, "bash", "-c", SHOW)
    say("starting it again: its layer is still there")
    pallet("start", "-a", NAME)
    pallet("rm", NAME)
    say("a server in a container, its port published on this host")
    command = ("perl", "-MIO::Socket::INET", "-e", SERVER)
    pallet("run", "-d", "--name", NAME, "-p", "127.0.0.1::8000", IMAGE, *command)
    port = int(pallet("port", NAME, "8000").rsplit(":", 1)[1])
    wait_for(port)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/", timeout=10) as reply:
        say(f"http://127.0.0.1:{port}/ says: {reply.read().decode().strip()}")
    pallet("rm", "-f", NAME)


def daemon_pid() -> int | None:
    """The default daemon's pid; None when none runs."""
    try:
        pid = int(PID_FILE.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def main() -> None:
    """The whole session."""
    if os.geteuid() != 0:
        sys.exit("Pallet needs root on this host so far: sudo make run")
    had_daemon = daemon_pid() is not None
    pallet("version", quiet=True)
    have = pallet("images", "--format", "{{.Repository}}:{{.Tag}}", quiet=True).split()
    if IMAGE in have:
        say(f"{IMAGE} is here already")
    elif not pulled_from_a_public_registry():
        through_a_local_registry()
    if sys.stdin.isatty() and sys.stdout.isatty():
        say(f"pallet run -it --rm {IMAGE} bash   (leave with exit)")
        code = subprocess.run([PALLET, "run", "-it", "--rm", IMAGE, "bash"], check=False).returncode
        say(f"the shell ended with {code}; palletd goes on, with your images: {PALLET} images")
        return
    demonstrate()
    if not had_daemon and (pid := daemon_pid()):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while daemon_pid() == pid and time.monotonic() < deadline:
            time.sleep(0.05)
        say("palletd stopped; the image stays for the next time")


if __name__ == "__main__":
    main()
