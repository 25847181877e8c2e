"""Bills of materials by scanners that are images (BuildKit's SBOM generator protocol)."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

SPDX = "https://spdx.dev/Document"
SCANNER = """\
#!/bin/sh
for place in $BUILDKIT_SCAN_SOURCE ${BUILDKIT_SCAN_SOURCE_EXTRAS:-/none}/*; do
  [ -d "$place" ] || continue
  touch $place/x 2>/dev/null && exit 9
  files=$(cd $place; find . -type f | grep -v busybox | grep -v /etc/ | grep -v srv | sort | tr '\\n' ' ')
  echo "{\\"predicateType\\": \\"https://spdx.dev/Document\\", \\"subject\\": [], \\"predicate\\": {\\"name\\": \\"$(basename $place)\\",\
 \\"comment\\": \\"$files\\", \\"is\\": \\"$MINE $BUILDKIT_SCAN_depth $* $PWD\\"}}" > $BUILDKIT_SCAN_DESTINATION/$(basename $place).spdx.json
done
echo ignored > $BUILDKIT_SCAN_DESTINATION/notes.txt
"""
DOCKERFILE = """\
FROM busybox AS tools
ARG BUILDKIT_SBOM_SCAN_STAGE=true
RUN echo tool > /tool
FROM busybox AS other
RUN echo other > /other
FROM busybox
COPY --from=tools /tool /copied
COPY --from=other /other /also
COPY mine /mine
"""


@pytest.fixture(scope="module")
def scanners(engine: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One that works, and some that do not."""
    not_on_dockerd(engine, "it has no BuildKit with attestations")
    cli, where = engine.cli(pallet_command()), tmp_path_factory.mktemp("scanners")
    (where / "scan").write_text(SCANNER)
    files = {
        "good": 'FROM busybox\nENV MINE=mine\nWORKDIR /w\nCOPY --chmod=755 scan /scan\nENTRYPOINT ["/scan"]\nCMD ["argument"]\n',
        "failing": "FROM busybox\nCMD exit 4\n", "none": "FROM scratch\nLABEL a=b\n",
        "broken": "FROM busybox\nCMD echo text > /run/out/sbom.spdx.json\n",
        "foreign": "FROM busybox\nCMD echo '{\"predicateType\": \"x\"}' > /run/out/sbom.spdx.json\n"}
    for name, text in files.items():
        (where / "Dockerfile").write_text(text)
        cli.ok("build", "-q", "-t", f"scanner-{name}", str(where))
    yield
    for name in files:
        cli.run("rmi", "-f", f"scanner-{name}")


def statements(archive: Path) -> list[dict[str, Any]]:
    """In-toto statements beside the image of an OCI archive."""
    with tarfile.open(archive) as tar:
        def document(digest: str) -> Any:
            member = tar.extractfile(f"blobs/sha256/{digest.partition(':')[2]}")
            assert member is not None
            return json.load(member)

        index = tar.extractfile("index.json")
        assert index is not None
        top = document(json.load(index)["manifests"][0]["digest"])
        return [document(layer["digest"]) for entry in top["manifests"] if "annotations" in entry
                for layer in document(entry["digest"])["layers"]]


@pytest.mark.usefixtures("scanners")
def test_what_a_scanner_finds_lies_beside_the_image(pallet_cli: DockerCli, tmp_path: Path) -> None:
    """The stage that asks for it is shown, the other is not; the subject is the image."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    done = pallet_cli.run("build", "--sbom=generator=scanner-good,depth=3", "--provenance=mode=min", "-t", "scanned:1",
                          "-o", f"type=oci,dest={tmp_path / 'o.tar'}", str(tmp_path))
    assert done.code == 0, done.err
    assert "] generating sbom using docker.io/library/scanner-good:latest" in done.err
    found = statements(tmp_path / "o.tar")
    bills = [one for one in found if one["predicateType"] == SPDX]
    assert {one["predicate"]["name"]: one["predicate"]["comment"] for one in bills} == {
        "sbom": "./also ./copied ./mine ", "sbom-tools": "./tool "}
    assert {one["predicate"]["is"] for one in bills} == {"mine 3 argument /w"}
    assert {one["subject"][0]["name"].partition("?")[0] for one in found} == {"pkg:docker/scanned@1"}
    (provenance,) = (one for one in found if one["predicateType"] != SPDX)
    assert any(material["uri"].startswith("pkg:docker/scanner-good") for material in provenance["predicate"]["materials"])
    pallet_cli.ok("build", "--sbom=generator=scanner-good,depth=3", "-o", f"type=local,dest={tmp_path / 'out'}",
                  str(tmp_path))
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert {name: one["predicate"]["name"] for name, one in files.items()} == {
        "sbom.spdx.json": "sbom", "sbom-tools.spdx.json": "sbom-tools"}
    again = pallet_cli.run("build", "--sbom=generator=scanner-good,depth=3", "-o", "type=cacheonly", str(tmp_path))
    assert "CACHED" in again.err.partition("generating sbom")[2]


@pytest.mark.usefixtures("scanners")
def test_the_context_is_scanned_where_it_is_asked_for(pallet_cli: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "unused").write_text("in no layer")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG BUILDKIT_SBOM_SCAN_CONTEXT\nLABEL a=b\n")
    pallet_cli.ok("build", "--attest", "type=sbom,generator=scanner-good", "--build-arg", "BUILDKIT_SBOM_SCAN_CONTEXT=1",
                  "-o", f"type=oci,dest={tmp_path.parent / 'context.tar'}", str(tmp_path))
    assert {one["predicate"]["name"]: one["predicate"]["comment"] for one in statements(
        tmp_path.parent / "context.tar")} == {"sbom": "", "sbom-context": "./Dockerfile ./unused "}


@pytest.mark.usefixtures("scanners")
@pytest.mark.parametrize(("name", "problem"), [
    ("failing", 'process "/bin/sh -c exit 4" did not complete successfully: exit code: 4'),
    ("none", "scanner docker.io/library/scanner-none:latest does not have cmd"),
    ("broken", "cannot decode in-toto statement"),
    ("foreign", f"bundle entry x does not match required predicate type {SPDX}")])
def test_scanners_that_do_not_work(pallet_cli: DockerCli, tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    failed = pallet_cli.run("build", f"--sbom=generator=scanner-{name}", str(tmp_path))
    assert failed.code == 1
    assert problem in failed.err
