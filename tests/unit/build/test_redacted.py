"""Credentials in URLs: shown nowhere."""

from __future__ import annotations

import msgspec
import pytest

from pallet.build.dockerfile.sources import http_filename
from pallet.build.ops.gitworker import GitRequest, redacted, run


@pytest.mark.parametrize(("url", "shown"), [
    ("https://host/a.git", "https://host/a.git"),
    ("https://me:token@host/a.git", "https://xxxxx:xxxxx@host/a.git"),
    ("https://token@host:8443/a@b.git", "https://xxxxx@host:8443/a@b.git"),
    ("https://a@b:c@host/x", "https://xxxxx:xxxxx@host/x"),
    ("git@host:a/b.git", "git@host:a/b.git"),
    ("http://host/path@v1:2", "http://host/path@v1:2"),
])
def test_urls_are_masked(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_failures_name_no_password() -> None:
    for remote in ("https://me:hidden@127.0.0.1:1/a.git", "ext::sh -c hidden", "file:///etc/hidden",
                   "-u./hidden", "--upload-pack=hidden"):
        reply = run(msgspec.json.encode(GitRequest(action="resolve", remote=remote)), [])
        assert b'"failure"' in reply
        assert b":hidden@" not in reply


def test_a_download_has_a_name_of_its_own() -> None:
    assert http_filename("http://host/a/..", "/x/") == "__unnamed__"
