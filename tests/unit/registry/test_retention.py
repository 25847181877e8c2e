"""Which tags retention removes, and the configuration it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.config import RetentionRule, read_config
from pallet.registry.metadata.records import TagRecord
from pallet.registry.retention import DAY_S, expired, untagged_before
from pallet.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

NOW = 100 * DAY_S
TAGS = [TagRecord(name=name, digest=Digest("sha256:" + "0" * 64), updated_at=NOW - age * DAY_S)
        for name, age in (("v1", 40), ("v2", 20), ("v3", 1), ("pr-1", 9), ("pr-2", 2), ("latest", 50))]


def gone(*rules: RetentionRule, repository: str = "team/app") -> list[str]:
    return [tag.name for tag in expired(repository, TAGS, rules, NOW)]


@pytest.mark.parametrize(("rules", "expected"), [
    ([], []),
    ([RetentionRule(keep_last=2)], ["latest", "v1", "v2", "pr-1"]),
    ([RetentionRule(keep_days=10)], ["latest", "v1", "v2"]),
    ([RetentionRule(tags=("v*",), keep_last=1)], ["v1", "v2"]),
    ([RetentionRule(tags=("v*",), keep_last=1, keep_days=30)], ["v1"]),
    ([RetentionRule(tags=("latest",), keep=True), RetentionRule(tags=("pr-*",), keep_days=5),
      RetentionRule(keep_last=2)], ["v1", "pr-1"]),
    ([RetentionRule(repositories=("other/*",), keep_last=0)], []),
    ([RetentionRule(repositories=("team/*",), keep_last=0)],
     ["latest", "v1", "v2", "pr-1", "pr-2", "v3"]),
])
def test_rules(rules: list[RetentionRule], expected: list[str]) -> None:
    """The first rule that fits decides; any of its conditions keeps a tag."""
    assert gone(*rules) == expected


def test_untagged() -> None:
    rules = [RetentionRule(repositories=("a/*",)), RetentionRule(untagged_days=2)]
    assert untagged_before("a/b", rules, NOW) == NOW - 2 * DAY_S
    assert untagged_before("a/b", rules[:1], NOW) is None


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("""
        database = "postgresql://r@db/registry"
        [storage.s3]
        bucket = "images"
        [gc]
        grace_s = 60
        [[retention]]
        repositories = ["team/*"]
        keep_last = 5
        [elsewhere]
        anything = "goes"
    """)
    config = read_config(path)
    assert config.storage.s3 is not None
    assert (config.storage.s3.bucket, config.gc.grace_s) == ("images", 60)
    assert config.retention[0] == RetentionRule(repositories=("team/*",), keep_last=5)
    assert config.database_url == "postgresql://r@db/registry"


@pytest.mark.parametrize(("text", "words"), [
    ("[gc]\ngrace = 3", "unknown field `grace`"), ("[storage", "registry.toml: "),
    ("[[retention]]\nkeep_last = 'x'", r"retention\[0\]")])
def test_wrong_configuration_names_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    with pytest.raises(InvalidParameterError, match=words):
        read_config(path)
