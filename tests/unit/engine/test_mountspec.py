"""The grammar of ``-v`` and ``--tmpfs``, semantics rows "volumes"."""

from __future__ import annotations

import pytest

from pallet.engine.mountspec import MountSpec, check_duplicates, parse_bind, parse_tmpfs, parse_volumes_from
from pallet.errors import InvalidParameterError


def test_host_paths_are_binds_and_their_missing_source_is_made() -> None:
    spec = parse_bind("/srv/../srv/data/:/data/:ro,rslave")
    assert (spec.type, spec.source, spec.destination) == ("bind", "/srv/data", "/data")
    assert (spec.read_only, spec.propagation, spec.create_source) == (True, "rslave", True)
    assert spec.mode == "ro,rslave"


def test_names_are_volumes() -> None:
    spec = parse_bind("db:/var/lib/db:nocopy", volume_driver="local")
    assert (spec.type, spec.source, spec.copy_up, spec.driver) == ("volume", "db", False, "local")


def test_a_bare_path_is_an_anonymous_volume() -> None:
    assert parse_bind("/data") == MountSpec(type="volume", destination="/data")


@pytest.mark.parametrize(("text", "words"), [
    ("/a:/b:ro,rw", "invalid mode: ro,rw"),
    ("/a:/b:bogus", "invalid mode: bogus"),
    ("/a:/b:nocopy", "invalid mode: nocopy"),
    ("vol:/b:shared", "invalid mode: shared"),
    ("/a:b", "mount path must be absolute"),
    ("/a:/", "destination can't be '/'"),
    ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
    (":/b", "invalid volume specification: ':/b'"),
    ("x:/b", "volume name is too short"),
    ("no/slash:/b", "includes invalid characters for a local volume name"),
])
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        parse_bind(text)


def test_two_mounts_on_one_destination_are_refused() -> None:
    with pytest.raises(InvalidParameterError, match="Duplicate mount point: /x"):
        check_duplicates([parse_bind("/a:/x"), parse_tmpfs("/x", "")])


def test_volumes_from() -> None:
    assert parse_volumes_from("web") == ("web", None)
    assert parse_volumes_from("web:ro") == ("web", True)
    with pytest.raises(InvalidParameterError, match="invalid mode: what"):
        parse_volumes_from("web:what")
