"""image/store: look-ups, names, deletion in Docker's words, what is freed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from pallet.errors import DataLossError, InvalidParameterError
from pallet.image.model import ImageConflictError, ImageNotFoundError, ImageUser
from pallet.image.moments import unix_seconds
from pallet.image.store import ImageStore, chain_ids
from pallet.paths import DataPaths
from pallet.spec import digest as digests
from pallet.spec import image as images
from pallet.spec.reference import parse_normalized
from pallet.storage.content import ContentStore
from pallet.storage.metadata import Metadata
from pallet.storage.overlay import OverlaySnapshotter
from pallet.types import DiffID, Digest, ImageId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.image.model import Image


class World:
    """A store with everything below it, and images made of nothing."""

    def __init__(self, root: Path) -> None:
        self.paths = DataPaths(root)
        self.metadata = Metadata(self.paths.database)
        self.content = ContentStore(self.paths)
        self.snapshots = OverlaySnapshotter(self.paths, self.metadata)
        self.users: dict[str, list[ImageUser]] = {}
        self.open()

    def open(self) -> None:
        """Make the store anew, as the next daemon does."""
        self.images = ImageStore(self.content, self.snapshots, self.metadata,
                                 users=lambda image_id: self.users.get(image_id, []))

    def layer(self, text: str) -> tuple[DiffID, images.Descriptor]:
        diff_id = DiffID(digests.of_bytes(text.encode()))
        self.snapshots.commit_layer(self.snapshots.draft(), diff_id, len(text))
        blob = self.content.put(f"blob of {text}".encode())
        return diff_id, images.Descriptor(
            media_type=images.OCI_LAYER_GZIP, digest=blob, size=self.content.size(blob))

    def image(self, *layers: str, name: str = "", created: str = "2024-01-01T00:00:00Z",
              parent: ImageId | None = None, index: bool = False, comment: str = "") -> Image:
        made = [self.layer(text) for text in layers]
        config = self.content.put(images.encode(images.ImageConfigFile(
            architecture="amd64", os="linux", created=created, comment=comment,
            rootfs=images.RootFS(diff_ids=[diff_id for diff_id, _ in made]))))
        manifest = self.content.put(images.encode(images.Manifest(
            media_type=images.OCI_MANIFEST, layers=[blob for _, blob in made],
            config=images.Descriptor(media_type=images.OCI_CONFIG, digest=config, size=1))))
        target = self.content.put(images.encode(images.Index(
            media_type=images.OCI_INDEX, manifests=[images.Descriptor(
                media_type=images.OCI_MANIFEST, digest=manifest, size=1)]))) if index else None
        return self.images.put(config, manifest_digest=manifest, target_digest=target,
                               reference=parse_normalized(name) if name else None, parent=parent)

    def use(self, image: Image, *, running: bool) -> None:
        self.users[image.id] = [ImageUser(container_id="c" * 64, running=running)]

    def blobs(self) -> set[Digest]:
        return {digest for digest, _ in self.content.walk()}

    def delete(self, name: str, **options: bool) -> list[str]:
        return [f"untagged {item.untagged}" if item.untagged else f"deleted {item.deleted}"
                for item in self.images.delete(name, **options)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.snapshots.close()
    made.metadata.close()


def test_an_image_has_what_its_documents_say(world: World) -> None:
    image = world.image("one", "three", name="debian:12", created="2024-05-06T07:08:09.123456789Z")
    assert list(map(str, image.diff_ids)) == [digests.of_bytes(b"one"), digests.of_bytes(b"three")]
    assert image.size_bytes == len("one") + len("three")
    assert image.repo_tags == ("debian:12",)
    assert image.repo_digests == (f"debian@{image.manifests[0]}",)
    assert image.created == "2024-05-06T07:08:09.123456789Z"
    assert image.created_at == pytest.approx(1714979289.123456)
    assert image.last_tagged_at > "2024"
    assert ImageId(digests.of_bytes(image.raw_config)) == image.id
    assert not image.is_dangling


def test_everything_is_there_after_a_restart(world: World) -> None:
    image = world.image("one", name="debian:12", index=True)
    world.images.tag(image.id, parse_normalized("other"))
    before = world.images.list()
    world.open()
    assert world.images.list() == before
    assert world.images.find(parse_normalized("other")) == before[0]


@pytest.mark.parametrize("name", [
    "debian:12", "docker.io/library/debian:12", "library/debian:12", "{id}", "{hex}", "{short}",
    "sha256:{short}", "debian@{digest}", "debian:13@{digest}", "{hex:.4}"])
def test_resolve(world: World, name: str) -> None:
    image = world.image("one", name="debian:12")
    world.image("two", name="debian")
    encoded = digests.encoded(image.id)
    text = name.format(id=image.id, hex=encoded, short=encoded[:12], digest=image.manifests[0])
    assert world.images.resolve(text).id == image.id


@pytest.mark.parametrize(("name", "shown"), [
    ("nothing", "nothing:latest"), ("debian", "debian:latest"), ("debian:11", "debian:11"),
    ("localhost:5000/x", "localhost:5000/x:latest"), ("docker.io/library/x:1", "x:1"),
    ("0" * 12, "000000000000:latest"), ("0" * 64, f"sha256:{'0' * 64}"),
    ("sha256:" + "0" * 64, f"sha256:{'0' * 64}"),
    ("x@sha256:" + "0" * 64, f"x@sha256:{'0' * 64}")])
def test_unknown_names(world: World, name: str, shown: str) -> None:
    world.image("one", name="debian:12")
    with pytest.raises(ImageNotFoundError) as caught:
        world.images.resolve(name)
    assert str(caught.value) == f"No such image: {shown}"


@pytest.mark.parametrize("name", ["", "UPPER", "a b", ":x"])
def test_malformed_names(world: World, name: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid reference format"):
        world.images.resolve(name)


def test_an_ambiguous_prefix_is_unknown(world: World) -> None:
    seen: dict[str, Image] = {}
    for number in range(40):
        image = world.image(str(number))
        first = digests.encoded(image.id)[0]
        if first in seen:
            with pytest.raises(ImageNotFoundError):
                world.images.resolve(first)
            return
        seen[first] = image
    pytest.fail("forty images with different first digits of sixteen")


def test_a_tag_beats_an_id_prefix(world: World) -> None:
    by_id = world.image("one")
    by_name = world.image("two", name=f"{digests.encoded(by_id.id)[:12]}:latest")
    assert world.images.resolve(digests.encoded(by_id.id)[:12]).id == by_name.id


def test_a_moved_tag_leaves_the_old_image_dangling(world: World) -> None:
    old = world.image("one", name="app:1")
    new = world.image("two", name="app:1")
    assert world.images.get(old.id).repo_tags == ()
    assert world.images.get(old.id).is_dangling
    assert world.images.get(old.id).repo_digests == (f"app@{old.manifests[0]}",)
    assert world.images.resolve("app:1").id == new.id


def test_target_tells_what_was_pulled(world: World) -> None:
    image = world.image("one", name="app:1", index=True)
    target = world.images.target(parse_normalized("app:1"))
    assert target != image.manifests[0]
    assert image.repo_digests == (f"app@{target}",)
    assert world.images.target(parse_normalized("app:2")) is None


def test_list_is_newest_first(world: World) -> None:
    times = ["2024-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "2025-01-01T00:00:00+02:00",
             "2024-12-31T23:30:00.5Z"]
    for number, created in enumerate(times):
        world.image(str(number), created=created)
    assert [image.created for image in world.images.list()] == [
        times[3], times[2], times[0], times[1]]


@pytest.mark.parametrize(("text", "seconds"), [
    ("1970-01-01T00:00:01Z", 1.0), ("2024-01-01T00:00:00.1Z", 1704067200.1),
    ("2024-01-01T02:00:00+02:00", 1704067200.0), ("0001-01-01T00:00:00Z", 0.0),
    ("nonsense", 0.0), ("", 0.0)])
def test_moments(text: str, seconds: float) -> None:
    assert unix_seconds(text) == pytest.approx(seconds)


def test_tag_and_untag(world: World) -> None:
    image = world.image("one")
    world.images.tag(image.id, parse_normalized("a"))
    world.images.tag(image.id, parse_normalized("reg.example:5000/b:2"))
    assert world.images.get(image.id).repo_tags == ("a:latest", "reg.example:5000/b:2")
    with pytest.raises(InvalidParameterError, match="digest reference"):
        world.images.tag(image.id, parse_normalized("a@sha256:" + "0" * 64))
    with pytest.raises(ImageNotFoundError):
        world.images.tag(ImageId("sha256:" + "0" * 64), parse_normalized("a"))
    assert world.images.untag(parse_normalized("a")) == image.id
    assert world.images.untag(parse_normalized("a")) is None
    world.images.add_digest(image.id, parse_normalized("b@sha256:" + "1" * 64))
    assert world.images.get(image.id).repo_digests == ("b@sha256:" + "1" * 64,)


def test_put_refuses_what_is_not_whole(world: World) -> None:
    whole = world.image("one")
    other = world.image("two", "three")
    with pytest.raises(DataLossError, match="don't match"):
        world.images.put(Digest(whole.id), manifest_digest=other.manifests[0])
    with pytest.raises(DataLossError):
        world.images.put(Digest(whole.id), manifest_digest=Digest("sha256:" + "0" * 64))
    world.snapshots.remove_layer(other.diff_ids[1])
    with pytest.raises(DataLossError, match="does not exist"):
        world.images.put(Digest(other.id), manifest_digest=other.manifests[0])


def test_missing_layers_after_a_power_cut(world: World) -> None:
    image = world.image("one", "two")
    assert world.images.missing_layers(image.id) == []
    world.snapshots.remove_layer(image.diff_ids[1])
    [(diff_id, blob)] = world.images.missing_layers(image.id)
    assert diff_id == image.diff_ids[1]
    assert world.content.read(blob.digest) == b"blob of two"


def test_layer_sharing(world: World) -> None:
    world.image("one", "two")
    world.image("one", "three", "one")
    sharing = world.images.layer_sharing()
    assert sharing == {DiffID(digests.of_bytes(text)): count
                       for text, count in ((b"one", 2), (b"two", 1), (b"three", 1))}


class TestDelete:
    """semantics "image delete", dockerd's classic store."""

    def test_by_its_only_name(self, world: World) -> None:
        image = world.image("one", "two", name="app:1", index=True)
        target = world.images.target(parse_normalized("app:1"))
        chains = chain_ids(image.diff_ids)
        assert world.delete("app:1") == [
            "untagged app:1", f"untagged app@{target}", f"deleted {image.id}",
            f"deleted {chains[1]}", f"deleted {chains[0]}"]
        assert world.images.list() == []
        assert world.blobs() == set()
        assert world.snapshots.layers() == []

    def test_one_name_of_several(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.images.tag(image.id, parse_normalized("app:2"))
        assert world.delete("app:1") == ["untagged app:1"]
        assert world.images.get(image.id).repo_tags == ("app:2",)
        assert world.blobs() != set()

    def test_the_last_tag_of_a_repository_takes_its_digests(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.images.tag(image.id, parse_normalized("other:1"))
        assert world.delete("app:1") == ["untagged app:1", f"untagged app@{image.manifests[0]}"]
        assert world.images.get(image.id).repo_tags == ("other:1",)

    def test_by_id_with_one_name(self, world: World) -> None:
        image = world.image("one", name="app:1")
        assert world.delete(image.id[7:19])[-2] == f"deleted {image.id}"
        assert world.images.list() == []

    def test_by_id_with_several_repositories(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.images.tag(image.id, parse_normalized("other:1"))
        with pytest.raises(ImageConflictError) as caught:
            world.delete(image.id)
        assert str(caught.value) == (
            f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced "
            "in multiple repositories")
        assert f"deleted {image.id}" in world.delete(image.id, force=True)
        assert world.images.list() == []

    def test_the_last_name_of_a_used_image(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.use(image, running=False)
        with pytest.raises(ImageConflictError) as caught:
            world.delete("app:1")
        assert str(caught.value) == (
            'conflict: unable to remove repository reference "app:1" (must force) - container '
            f"{'c' * 12} is using its referenced image {image.id[7:19]}")
        assert world.images.get(image.id).repo_tags == ("app:1",)

    @pytest.mark.parametrize(("running", "force", "words"), [
        (False, False, "(must be forced) - image is being used by stopped container cccccccccccc"),
        (True, False, "(cannot be forced) - image is being used by running container cccccccccccc"),
        (True, True, "(cannot be forced) - image is being used by running container cccccccccccc")])
    def test_a_used_image_by_id(
        self, world: World, *, running: bool, force: bool, words: str
    ) -> None:
        image = world.image("one", name="app:1")
        world.use(image, running=running)
        with pytest.raises(ImageConflictError) as caught:
            world.delete(image.id, force=force)
        assert str(caught.value) == f"conflict: unable to delete {image.id[7:19]} {words}"
        assert world.images.get(image.id).repo_tags == ("app:1",)

    def test_forced_name_of_a_running_image_only_goes_away(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.use(image, running=True)
        assert world.delete("app:1", force=True) == [
            "untagged app:1", f"untagged app@{image.manifests[0]}"]
        assert world.images.get(image.id).is_dangling

    def test_forced_name_of_a_stopped_image_deletes_it(self, world: World) -> None:
        image = world.image("one", name="app:1")
        world.use(image, running=False)
        assert f"deleted {image.id}" in world.delete("app:1", force=True)

    def test_a_parent_is_kept_by_its_child(self, world: World) -> None:
        parent = world.image("one")
        child = world.image("one", "two", parent=parent.id)
        with pytest.raises(ImageConflictError, match="dependent child images"):
            world.delete(parent.id, force=True)
        assert [line for line in world.delete(child.id) if "sha256" in line][:2] == [
            f"deleted {child.id}", f"deleted {parent.id}"]
        assert world.images.list() == []

    def test_no_prune_and_named_parents_stay(self, world: World) -> None:
        parent = world.image("one")
        child = world.image("one", "two", parent=parent.id)
        world.delete(child.id, prune=False)
        assert [image.id for image in world.images.list()] == [parent.id]

    def test_shared_layers_and_blobs_stay(self, world: World) -> None:
        gone = world.image("one", "two", name="gone:latest")
        kept = world.image("one", "three", name="kept:latest")
        removed = world.delete("gone")
        assert removed[-1] == f"deleted {chain_ids(gone.diff_ids)[1]}"
        assert set(world.snapshots.layers()) == set(kept.diff_ids)
        manifest = images.decode_manifest(world.content.read(kept.manifests[0]))
        assert world.blobs() == {Digest(kept.id), kept.manifests[0],
                                 *(layer.digest for layer in manifest.layers)}

    def test_layers_of_a_container_stay_until_it_goes(self, world: World) -> None:
        image = world.image("one", name="app:latest")
        world.snapshots.prepare("c1", image.diff_ids)
        world.delete("app", force=True)
        assert world.snapshots.layers() == list(image.diff_ids)
        world.snapshots.remove("c1")
        world.images.collect()
        assert world.snapshots.layers() == []

    def test_what_is_leased_stays(self, world: World) -> None:
        image = world.image("one", "two", name="app:latest")
        blob = world.content.put(b"blob of one")
        with world.images.lease() as lease:
            lease.add_blob(blob)
            lease.add_layer(image.diff_ids[0])
            world.delete("app")
            assert world.blobs() == {blob}
            assert world.snapshots.layers() == [image.diff_ids[0]]
        world.images.collect()
        assert world.blobs() == set()
        assert world.snapshots.layers() == []

    def test_a_missing_image(self, world: World) -> None:
        with pytest.raises(ImageNotFoundError, match="No such image: nothing:latest"):
            world.delete("nothing")


def test_a_layer_blob_that_looks_like_json_is_no_manifest(world: World) -> None:
    odd = world.content.put(msgspec.json.encode({"schemaVersion": 2, "layers": "no"}))
    with world.images.lease() as lease:
        lease.add_blob(odd)
        world.images.collect()
        assert world.blobs() == {odd}


def test_chain_ids() -> None:
    """image-spec config.md#layer-chainid."""
    first, second = DiffID("sha256:" + "a" * 64), DiffID("sha256:" + "b" * 64)
    assert chain_ids([]) == []
    assert chain_ids([first]) == [Digest(first)]
    joined = hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == [Digest(first), f"sha256:{joined}"]
