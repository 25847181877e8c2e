"""Docker's reference grammar: what is accepted, what it means, how it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.errors import InvalidParameterError
from pallet.spec import reference as references
from pallet.spec.reference import Reference, ReferenceFormatError, parse_normalized

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(("text", "canonical", "familiar"), [
    ("debian", "docker.io/library/debian", "debian"),
    ("debian:12", "docker.io/library/debian:12", "debian:12"),
    ("docker.io/debian", "docker.io/library/debian", "debian"),
    ("index.docker.io/a/b", "docker.io/a/b", "a/b"),
    ("docker.io/library/debian", "docker.io/library/debian", "debian"),
    ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ("a/b", "docker.io/a/b", "a/b"),
    ("localhost/a", "localhost/a", "localhost/a"),
    ("localhost:5000/a:x", "localhost:5000/a:x", "localhost:5000/a:x"),
    ("host.example/a/b:1.0-rc", "host.example/a/b:1.0-rc", "host.example/a/b:1.0-rc"),
    ("HOST/a", "HOST/a", "HOST/a"),
    ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
    ("a--b__c.d_e", "docker.io/library/a--b__c.d_e", "a--b__c.d_e"),
    (f"a@sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}", f"a@sha256:{HEX}"),
    (f"a:t@sha256:{HEX}", f"docker.io/library/a:t@sha256:{HEX}", f"a:t@sha256:{HEX}"),
    (f"a@sha512:{HEX}{HEX}", f"docker.io/library/a@sha512:{HEX}{HEX}", f"a@sha512:{HEX}{HEX}"),
    (HEX[:63], f"docker.io/library/{HEX[:63]}", HEX[:63]),
])
def test_accepted(text: str, canonical: str, familiar: str) -> None:
    """Docker's defaulting of domain and library, and the way back."""
    parsed = parse_normalized(text)
    assert str(parsed) == canonical
    assert parsed.familiar() == familiar
    assert parse_normalized(familiar) == parsed


@pytest.mark.parametrize(("text", "message"), [
    ("", "invalid reference format"),
    ("Debian", "invalid reference format: repository name (library/Debian) must be lowercase"),
    ("a/B:t", "invalid reference format: repository name (a/B) must be lowercase"),
    ("a:", "invalid reference format"),
    ("a@", "invalid reference format"),
    ("a@sha256:abc", "invalid reference format"),
    (f"a@md5:{HEX[:32]}", "unsupported digest algorithm"),
    (f"a@sha256:{HEX[:40]}", "invalid checksum digest length"),
    (f"a@sha256:{HEX[:62]}AB", "invalid checksum digest format"),
    ("a___b", "invalid reference format"),
    ("a//b", "invalid reference format"),
    ("-a", "invalid reference format"),
    ("a/", "invalid reference format"),
    (" a", "invalid reference format"),
    ("a\n", "invalid reference format"),
    ("a:t\n", "invalid reference format"),
    ("a:" + "t" * 129, "invalid reference format"),
    ("ä", "invalid reference format"),
    ("a_b.example/c", "invalid reference format"),
    (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
    ("x/" + "b" * 254, "repository name must not be more than 255 characters"),
])
def test_refused(text: str, message: str) -> None:
    """The error texts are Docker's: clients show them as they are."""
    with pytest.raises(InvalidParameterError) as error:
        parse_normalized(text)
    assert str(error.value) == message


@pytest.mark.parametrize(("tag", "expected"), [
    ("", "docker.io/library/a:old"),
    ("new", "docker.io/library/a:new"),
    (f"sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}"),
])
def test_repository_and_tag_parameters(tag: str, expected: str) -> None:
    """``fromImage=a:old&tag=…``: the tag parameter wins, and may be a digest."""
    assert str(references.parse_repository_tag("a:old", tag)) == expected


@pytest.mark.parametrize("tag", ["x:y", "sha256:3cc", "-x", "x/y", "t" * 129])
def test_bad_tag_parameter(tag: str) -> None:
    """A tag parameter that is neither a tag nor a digest is refused in Docker's words."""
    with pytest.raises(ReferenceFormatError, match=r"^invalid tag format$"):
        references.parse_repository_tag("a", tag)


def test_default_tag() -> None:
    """``latest`` is added only where neither tag nor digest is given."""
    assert parse_normalized("a").with_default_tag().tag == "latest"
    assert parse_normalized("a:b").with_default_tag().tag == "b"
    assert parse_normalized(f"a@sha256:{HEX}").with_default_tag().tag is None


component = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,3}", fullmatch=True)
domain = st.one_of(
    st.just("docker.io"), st.just("localhost"),
    st.from_regex(r"[a-zA-Z0-9]{1,8}\.[a-z]{2,5}(:[0-9]{1,5})?", fullmatch=True))
made = st.builds(
    Reference, domain=domain, path=st.lists(component, min_size=1, max_size=4).map("/".join),
    tag=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.none() | st.just(f"sha256:{HEX}"))


@given(made)
def test_canonical_form_is_read_back(reference: Reference) -> None:
    """Every reference there can be survives being written and read, in both forms."""
    if reference.domain == "docker.io" and "/" not in reference.path:
        reference = Reference(domain="docker.io", path=f"library/{reference.path}",
                              tag=reference.tag, digest=reference.digest)
    assert parse_normalized(str(reference)) == reference
    assert parse_normalized(str(reference)).familiar_name in str(reference)


@given(st.text(max_size=60))
def test_nothing_but_reference_errors(text: str) -> None:
    """Any text is either parsed to something stable or refused with an error kind."""
    try:
        parsed = parse_normalized(text)
    except InvalidParameterError:
        return
    assert parse_normalized(str(parsed)) == parsed
