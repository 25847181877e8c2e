"""Credentials in URLs: shown nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pallet.build.dockerfile.sources import http_filename
from pallet.build.ops.downloads import Downloads
from pallet.build.ops.gitworker import GitRequest, redacted, run
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/x", "http://me:word@[::1/x"])
async def test_a_url_that_is_none_is_told_without_what_it_holds(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid port") as caught:
        await Downloads(environ={}).fetch(url, str(tmp_path / "x"))
    assert "word" not in str(caught.value)
