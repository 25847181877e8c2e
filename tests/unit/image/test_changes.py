"""image/changes: ``--change`` instructions, as dockerd carries them out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pallet.errors import InvalidParameterError
from pallet.image.changes import apply_changes
from pallet.spec.image import RunConfig

START = RunConfig(env=["PATH=/bin", "A=1"], cmd=["old"], working_dir="/srv", labels={"k": "v"})
SECOND = 1_000_000_000


@pytest.mark.parametrize(("changes", "field", "expected"), [
    (["CMD echo hi"], "cmd", ["/bin/sh", "-c", "echo hi"]),
    (['CMD ["echo", "hi"]'], "cmd", ["echo", "hi"]),
    (["CMD [not json"], "cmd", ["/bin/sh", "-c", "[not json"]),
    (['cmd ["low"]'], "cmd", ["low"]),
    (['ENTRYPOINT ["/e"]'], "entrypoint", ["/e"]),
    (['ENTRYPOINT ["/e"]'], "cmd", None),
    (['CMD ["new"]', 'ENTRYPOINT ["/e"]'], "cmd", ["new"]),
    (["ENV A=2 B=3"], "env", ["PATH=/bin", "A=2", "B=3"]),
    (["ENV B the rest $A"], "env", ["PATH=/bin", "A=1", "B=the rest 1"]),
    (["ENV PATH=/x:$PATH"], "env", ["PATH=/x:/bin", "A=1"]),
    (["ENV PATH=/x:${PATH}"], "env", ["PATH=/x:/bin", "A=1"]),
    (["ENV B='$A' C=\"$A b\" D=a\\ b E=\\$A"], "env",
     ["PATH=/bin", "A=1", "B=$A", "C=1 b", "D=a b", "E=$A"]),
    (["ENV B="], "env", ["PATH=/bin", "A=1", "B="]),
    (["EXPOSE 80 90/udp 100-102"], "exposed_ports",
     {"80/tcp": {}, "90/udp": {}, "100/tcp": {}, "101/tcp": {}, "102/tcp": {}}),
    (["LABEL a=b \"c d\"=e"], "labels", {"k": "v", "a": "b", "c d": "e"}),
    (["USER 1000:1000"], "user", "1000:1000"),
    (["VOLUME /a /b"], "volumes", {"/a": {}, "/b": {}}),
    (['VOLUME ["/a b"]'], "volumes", {"/a b": {}}),
    (["WORKDIR sub"], "working_dir", "/srv/sub"),
    (["WORKDIR /a", "WORKDIR ../b"], "working_dir", "/b"),
    (["STOPSIGNAL SIGINT"], "stop_signal", "SIGINT"),
    (["ONBUILD RUN make", "ONBUILD ADD . /"], "on_build", ["RUN make", "ADD . /"]),
])
def test_instructions(changes: list[str], field: str, expected: Any) -> None:
    assert getattr(apply_changes(START, changes), field) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("HEALTHCHECK NONE", {"Test": ["NONE"]}),
    ("HEALTHCHECK CMD curl -f x", {"Test": ["CMD-SHELL", "curl -f x"]}),
    ('HEALTHCHECK --interval=1m30s --timeout=5s --start-period=1h --retries=4 CMD ["a", "b"]',
     {"Test": ["CMD", "a", "b"], "Interval": 90 * SECOND, "Timeout": 5 * SECOND,
      "StartPeriod": 3600 * SECOND, "Retries": 4}),
])
def test_healthcheck(text: str, expected: dict[str, Any]) -> None:
    assert msgspec.to_builtins(apply_changes(START, [text]).healthcheck) == expected


@pytest.mark.parametrize(("text", "words"), [
    ("RUN make", "run is not a valid change command"),
    ("FROM x", "from is not a valid change command"),
    ("", " is not a valid change command"),
    ("USER", "USER requires exactly one argument"),
    ("LABEL a", "LABEL must have two arguments"),
    ("ENV a", "ENV must have two arguments"),
    ("ENV a=b c", "can't find ="),
    ("ENV a='b", "single-quote"),
    ("EXPOSE 80/icmp", "invalid proto: icmp"),
    ("EXPOSE 9-8", "invalid containerPort: 9-8"),
    ('VOLUME [""]', "empty string"),
    ("ONBUILD ONBUILD RUN x", "isn't allowed"),
    ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ("HEALTHCHECK curl", 'Unknown type "CURL"'),
    ("HEALTHCHECK --interval=5 CMD x", "missing unit in duration"),
    ("HEALTHCHECK --colour=5 CMD x", "unknown flag"),
])
def test_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        apply_changes(START, [text])
