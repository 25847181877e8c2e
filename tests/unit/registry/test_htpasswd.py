"""Users of a registry: the htpasswd file, its changes, and how passwords are checked."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError, NotFoundError
from pallet.registry.auth import htpasswd, passwords
from pallet.registry.auth.passwords import Passwords
from pallet.registry.codes import RegistryHttpError
from tests.support.access import cheap_hash, write_users

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords were compared with."""
    seen: list[str] = []
    real = passwords._matches

    def matches(data: bytes, hashed: str) -> bool:
        seen.append(hashed)
        return real(data, hashed)

    monkeypatch.setattr(passwords, "_matches", matches)
    return seen


def test_reading(tmp_path: Path) -> None:
    """Comments, blank lines and all of bcrypt's prefixes; the first line of a name counts."""
    hashed = cheap_hash("secret")
    path = tmp_path / "users"
    path.write_text(f"# people\njoe:{hashed}\n\n  ann:{hashed.replace('$2y$', '$2b$')}  \njoe:{cheap_hash('x')}\n"
                    f"kim:{hashed.replace('$2y$', '$2a$')}\n")
    users = Passwords(path)
    assert all(users.check(name, "secret") for name in ("joe", "ann", "kim"))
    assert not users.check("joe", "x")


@pytest.mark.parametrize(("line", "words"), [
    ("joe:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "SHA-1"), ("joe:$apr1$x$y", "Apache's MD5"),
    ("joe:$scrypt$AAAA$AAAA", "scrypt"), ("joe:$6$x$y", "SHA-512"), ("joe:$2y$05$abc", "malformed bcrypt"),
    ("joe:secret", "unknown kind"), ("joe:", "unknown kind"), ("joe", "NAME:HASH"), (":x", "NAME:HASH")])
def test_other_hashes_are_refused_by_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{cheap_hash('x')}\n{line}\n")
    with pytest.raises(InvalidParameterError, match=rf"users:2: .*{words}") as error:
        Passwords(path)
    assert line.partition(":")[2] not in str(error.value) or not line.partition(":")[2]


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="No such file"):
        Passwords(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidParameterError, match="binary"):
        Passwords(tmp_path / "binary")


def test_changes_keep_comments_order_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "users"
    assert not htpasswd.put(path, "joe", cheap_hash("a"))
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(f"# head\njoe:{cheap_hash('a')}\n\nann:{cheap_hash('b')}\n")
    path.chmod(0o640)
    assert htpasswd.put(path, "joe", cheap_hash("c"))
    assert not htpasswd.put(path, "kim", cheap_hash("d"))
    assert [line.partition(":")[0] for line in path.read_text().splitlines()] == ["# head", "joe", "", "ann", "kim"]
    htpasswd.delete(path, "ann")
    with pytest.raises(NotFoundError, match="no user 'ann'"):
        htpasswd.delete(path, "ann")
    assert list(htpasswd.read(path)) == ["joe", "kim"]
    assert path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link"
    link.symlink_to(path)
    htpasswd.put(link, "eve", cheap_hash("e"))
    assert link.is_symlink()
    assert list(htpasswd.read(path)) == ["joe", "kim", "eve"]
    assert sorted(os.listdir(tmp_path)) == ["link", "users"]


def test_what_a_killed_change_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """It is one file, however often that happens, and no link there is followed."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".users.new").symlink_to(victim)
    htpasswd.put(tmp_path / "users", "joe", cheap_hash("a"))
    (tmp_path / ".users.new").write_text("half")
    htpasswd.put(tmp_path / "users", "ann", cheap_hash("a"))
    assert list(htpasswd.read(tmp_path / "users")) == ["joe", "ann"]
    assert sorted(os.listdir(tmp_path)) == ["users", "victim"]
    assert victim.read_text() == "untouched"


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path, hashed = tmp_path / "users", cheap_hash("x")
    names = [f"user{number}" for number in range(20)]
    threads = [threading.Thread(target=htpasswd.put, args=(path, name, hashed)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(htpasswd.read(path)) == sorted(names)


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "a\n", "a\0b", "a\tb"])
def test_names_that_no_line_can_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid user name"):
        htpasswd.put(tmp_path / "users", name, cheap_hash("x"))
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize("password", ["", "a\0b", "x" * 73, "é" * 37])
def test_passwords_that_bcrypt_cannot_hold(password: str) -> None:
    with pytest.raises(InvalidParameterError):
        htpasswd.hash_password(password, cost=4)


def test_odd_passwords_are_wrong_without_a_hash(count: list[str]) -> None:
    """A NUL would end the password in C's bcrypt, and a huge one is not worth hashing."""
    users = Passwords({"joe": cheap_hash("secret")})
    for password in ("", "secret\0", "secret\0x", "\0", "x" * 5000):
        assert not users.check("joe", password)
    assert not count
    assert not users.check("joe", "x" * 100)
    assert not users.check("joe", "\udc80")


def test_what_was_right_is_remembered_for_a_while(count: list[str]) -> None:
    clock = Clock()
    users = Passwords({"joe": cheap_hash("secret")}, now=clock)
    for _ in range(3):
        assert users.check("joe", "secret")
        assert users.remembers("joe", "secret")
    assert len(count) == 1
    assert not users.remembers("joe", "other")
    clock.now += 301
    assert not users.remembers("joe", "secret")
    assert users.check("joe", "secret")
    assert len(count) == 2


def test_unknown_users_cost_as_much_as_wrong_passwords(count: list[str]) -> None:
    """One comparison with a hash of the same cost each: the time tells nothing."""
    hashed = cheap_hash("secret")
    users = Passwords({"joe": hashed})
    assert not users.check("joe", "no")
    assert not users.check("nobody", "no")
    assert not users.check("nobody", "secret")
    assert count == [hashed, hashed, hashed]
    assert not Passwords({}).check("nobody", "no")


def test_a_changed_file_counts_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_users(tmp_path / "users")
    users = Passwords(path)
    assert users.check("joe", "secret")
    before = users.fingerprint("joe")
    htpasswd.put(path, "joe", cheap_hash("other"))
    assert not users.remembers("joe", "secret")
    assert not users.check("joe", "secret")
    assert users.check("joe", "other")
    assert users.fingerprint("joe") not in {before, ""}
    with caplog.at_level(logging.ERROR):
        path.write_text("joe:plain\n")
        assert users.check("joe", "other")
        assert users.knows("joe")
        path.unlink()
        assert users.check("joe", "other")
    assert len(caplog.records) == 2
    assert "users:1" in caplog.text
    write_users(path, {"ann": "x"})
    assert not users.knows("joe")
    assert users.fingerprint("joe") == ""
    assert users.check("ann", "x")


def test_many_requests_with_one_password_wait_for_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right or wrong; and beyond a number of different ones clients are told to come again."""
    entered, go = threading.Semaphore(0), threading.Event()
    calls: list[bytes] = []

    def matches(data: bytes, _hashed: str) -> bool:
        calls.append(data)
        entered.release()
        go.wait(10)
        return data == b"secret"

    monkeypatch.setattr(passwords, "_matches", matches)
    monkeypatch.setattr(passwords, "_WAITING", 2)
    users = Passwords({"joe": cheap_hash("secret")})
    answers: list[bool] = []

    def check(password: str) -> None:
        answers.append(users.check("joe", password))

    threads = [threading.Thread(target=check, args=(password,)) for password in ["secret", "wrong"] * 5]
    threads[0].start()
    assert entered.acquire(timeout=10)
    threads[1].start()
    while len(users._flights) < 2:
        threading.Event().wait(0.001)
    with pytest.raises(RegistryHttpError) as error:
        users.check("joe", "third")
    assert (error.value.status, error.value.headers["Retry-After"]) == (429, "1")
    for thread in threads[2:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 5 + [True] * 5
    assert sorted(calls) == [b"secret", b"wrong"]


def test_changes_within_a_tick_of_the_clock_are_seen(tmp_path: Path) -> None:
    """In place, of the same length: the file's time may not tell them apart."""
    path = write_users(tmp_path / "users", {"joe": "secret0"})
    users = Passwords(path)
    for number in range(1, 20):
        write_users(path, {"joe": f"secret{number % 10}"})
        assert users.check("joe", f"secret{number % 10}")
        assert not users.remembers("joe", f"secret{(number - 1) % 10}")
