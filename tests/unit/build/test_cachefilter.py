"""containerd's filter expressions over cache records."""

from __future__ import annotations

import pytest

from pallet.build.cachefilter import accepts
from pallet.build.usage import CacheUsage
from pallet.errors import InvalidParameterError

USAGE = CacheUsage(id="abc1", kind="exec.cachemount", description="cached mount /x, with a comma", size_bytes=1,
                   created_ns=1, parents=("p1", "p2"), in_use=True, mutable=True)


@pytest.mark.parametrize(("filters", "wanted"), [
    ([], True), ([""], True),
    (["id==abc1"], True), (["id==abc"], False), (["id~=^abc"], True), (["id!=abc1"], False),
    (["type==exec.cachemount"], True), (["type==regular", "type==exec.cachemount"], True),
    (["type==exec.cachemount,id==zzz"], False), (["type==exec.cachemount, id~=1$"], True),
    (['description=="cached mount /x, with a comma"'], True), (["parents==p2"], True), (["parents==p3"], False),
    (["inuse"], True), (["mutable"], True), (["immutable"], False), (["shared"], False), (["private"], True),
    (["inuse==true"], True), (["nosuch"], False), (["nosuch==x"], False)])
def test_filters(filters: list[str], *, wanted: bool) -> None:
    assert accepts(filters)(USAGE) is wanted


@pytest.mark.parametrize("text", ["==x", "id~=(", "id==a,,b", "!"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="failed to parse prune filters"):
        accepts([text])
