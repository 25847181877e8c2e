"""Resource limits."""

from __future__ import annotations

import errno
import resource

import pytest

from pallet.errors import SyscallError
from pallet.linux import rlimits


def test_a_limit_is_set_and_can_be_lowered_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    rlimits.apply([("RLIMIT_CORE", 0, rlimits.INFINITY if before[1] == -1 else before[1])])
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, before[1])
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.parametrize("limit", [
    ("RLIMIT_FOO", 1, 1), ("RLIMIT_NOFILE", 20, 10), ("RLIMIT_CORE", 2**70, 2**70),
])
def test_nonsense_is_einval(limit: tuple[str, int, int]) -> None:
    with pytest.raises(SyscallError) as caught:
        rlimits.apply([limit])
    assert (caught.value.call, caught.value.errno) == ("setrlimit", errno.EINVAL)
    assert caught.value.path == limit[0]
