"""Listeners, locks, pid files, systemd's protocol: one process at a time, nothing left."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pallet.config import Config
from pallet.daemon import listeners, main, systemd
from pallet.errors import InvalidParameterError, SystemFailureError


@pytest.mark.parametrize(("text", "expected"), [
    ("unix:///run/x.sock", ("unix", "/run/x.sock", 0)), ("unix://x", ("unix", "x", 0)),
    ("fd://", ("fd", "", 0)), ("tcp://", ("tcp", "127.0.0.1", 2375)),
    ("tcp://:99", ("tcp", "127.0.0.1", 99)), ("tcp://h", ("tcp", "h", 2375)),
    ("tcp://[::1]:5", ("tcp", "::1", 5)), ("tcp://[::1]", ("tcp", "::1", 2375)),
    (":7", ("tcp", "127.0.0.1", 7)), ("0.0.0.0:7", ("tcp", "0.0.0.0", 7))])
def test_hosts(text: str, expected: tuple[str, str, int]) -> None:
    assert listeners.parse_host(text, tls=False) == expected


def test_tls_has_its_own_port() -> None:
    assert listeners.parse_host("tcp://h", tls=True) == ("tcp", "h", 2376)


@pytest.mark.parametrize("text", ["foo://x", "tcp://h:x", "tcp://h:99999", "tcp://a:b:1", "",
                                  "unix://", "tcp://[::1", "tcp://h:1/p"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="Invalid bind address format: "):
        listeners.parse_host(text, tls=False)


def config(*hosts: str, group: str = "docker") -> Config:
    return Config(hosts=hosts, group=group)


def open_unix(path: Path, group: str = "") -> listeners.Listener:
    [listener] = listeners.open_all(config(f"unix://{path}", group=group), allow_plain_tcp=False)
    return listener


def test_unix_socket_is_private_from_the_first_moment_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    listener = open_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not listener.sock.get_inheritable()
    listeners.close_all([listener])
    assert not path.exists()


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
        old.listen()
    listener = open_unix(path)
    listeners.close_all([listener])


def test_socket_in_use_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = open_unix(path)
    with pytest.raises(SystemFailureError, match="another daemon listens on it"):
        open_unix(path)
    assert path.exists()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(SystemFailureError, match="no socket is in the way"):
        open_unix(path)
    listeners.close_all([listener])
    assert path.read_text() == "precious"


def test_unknown_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(InvalidParameterError, match="group no-such-group not found"):
        open_unix(path, group="no-such-group")
    assert not path.exists()


def test_one_bad_host_closes_the_others(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(InvalidParameterError):
        listeners.open_all(config(f"unix://{path}", "tcp://0.0.0.0:0", group=""),
                           allow_plain_tcp=False)
    assert not path.exists()


def test_plain_tcp_stays_on_loopback_unless_forced() -> None:
    [listener] = listeners.open_all(config("tcp://127.0.0.1:0"), allow_plain_tcp=False)
    listeners.close_all([listener])
    with pytest.raises(InvalidParameterError, match="--tlsverify, or insist with --allow-plain"):
        listeners.open_all(config("tcp://0.0.0.0:0"), allow_plain_tcp=False)
    [listener] = listeners.open_all(config("tcp://0.0.0.0:0"), allow_plain_tcp=True)
    listeners.close_all([listener])


def test_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemFailureError, match=f"listen tcp 127.0.0.1:{port}: bind: "):
            listeners.open_all(config(f"tcp://127.0.0.1:{port}"), allow_plain_tcp=False)


def test_activation_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.take_listeners() == []
    assert "LISTEN_FDS" not in os.environ
    with pytest.raises(SystemFailureError, match="no sockets found via socket activation"):
        listeners.open_all(config("fd://"), allow_plain_tcp=False)


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    path = str(tmp_path / "n")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    systemd.notify("READY=1")  # nobody there: no error
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        systemd.notify("READY=1")
        assert sock.recv(100) == b"READY=1"
        systemd.notify("RELOADING=1")
        assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def roots(top: Path, data: str, run: str) -> Config:
    return Config(data_root=top / data, exec_root=top / run)


def test_roots_belong_to_one_daemon(tmp_path: Path) -> None:
    with main.claim_roots(roots(tmp_path, "d", "r")):
        assert (tmp_path / "r/palletd.pid").read_text() == f"{os.getpid()}\n"
        for data, run in (("d", "r"), ("d", "r2"), ("d2", "r")):
            with pytest.raises(SystemFailureError, match="another palletd uses "), \
                    main.claim_roots(roots(tmp_path, data, run)):
                pass
        with main.claim_roots(roots(tmp_path, "d3", "r3")):
            pass
        assert (tmp_path / "r/palletd.pid").exists()
    assert not (tmp_path / "r/palletd.pid").exists()
    with main.claim_roots(roots(tmp_path, "d", "r")):
        pass


def test_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "pid"
    with main.pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(SystemFailureError, match="still running"), main.pid_file(path):
        pass
    assert path.exists()
    path.write_text("4194304999\n")
    with main.pid_file(path):
        pass


def test_answers_that_start_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = tmp_path / "good.json"
    good.write_text("{}")
    assert main.main(["--help"]) == 0
    assert "Usage:  palletd [OPTIONS]" in capsys.readouterr().out
    assert main.main(["-v"]) == 0
    assert capsys.readouterr().out.startswith("Pallet version ")
    assert main.main(["--validate", "--config-file", str(good)]) == 0
    assert capsys.readouterr().out == "configuration OK\n"
    assert main.main(["--nope"]) == 125
    assert capsys.readouterr().err == "unknown flag: --nope\nSee 'palletd --help'.\n"
    assert main.main(["--config-file", str(tmp_path / "none")]) == 1
    assert "no such file or directory" in capsys.readouterr().err
