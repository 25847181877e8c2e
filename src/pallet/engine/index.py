"""All containers in memory, by id and name. ``meta.db`` holds the same records on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import ConflictError, InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.engine.container import Container


class ContainerIndex:
    """Look-up as Docker does it: full id, exact name, then a unique id prefix."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._by_image: dict[str, dict[str, Container]] = {}

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def reserve_name(self, name: str, container_id: str) -> None:
        """Take ``name`` (no slash) for ``container_id``.

        Raises:
            ConflictError: another container has it.
        """
        holder = self._names.get(name)
        if holder is not None and holder != container_id:
            msg = (f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                   "You have to remove (or rename) that container to be able to reuse that name.")
            raise ConflictError(msg)
        self._names[name] = container_id

    def release_name(self, name: str) -> None:
        """Give ``name`` back; unknown names are ignored."""
        self._names.pop(name, None)

    def is_taken(self, name: str) -> bool:
        """Whether a container has (or is about to have) ``name``."""
        return name in self._names

    def add(self, container: Container) -> None:
        """Make a created container visible. Its name must be reserved already."""
        self._by_id[container.id] = container
        self._by_image.setdefault(container.image_id, {})[container.id] = container
        self._names[container.name] = container.id

    def discard(self, container: Container) -> None:
        """Forget a removed container and its name."""
        self._by_id.pop(container.id, None)
        users = self._by_image.get(container.image_id, {})
        users.pop(container.id, None)
        if not users:
            self._by_image.pop(container.image_id, None)
        if self._names.get(container.name) == container.id:
            del self._names[container.name]

    def of_image(self, image_id: str) -> list[Container]:
        """Containers made from an image."""
        return list(self._by_image.get(image_id, {}).values())

    def find(self, name_or_id: str) -> Container | None:
        """Like ``get``, None when there is none."""
        try:
            return self.get(name_or_id)
        except NotFoundError:
            return None

    def get(self, name_or_id: str) -> Container:
        """Resolve what a user typed.

        Raises:
            NotFoundError: "No such container: x".
            InvalidParameterError: an ambiguous id prefix.
        """
        found = self._by_id.get(name_or_id)
        if found is not None:
            return found
        named = self._names.get(name_or_id.removeprefix("/"))
        if named is not None and named in self._by_id:
            return self._by_id[named]
        if not name_or_id:
            msg = "No such container: "
            raise NotFoundError(msg)
        matches = [c for cid, c in self._by_id.items() if cid.startswith(name_or_id)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            msg = f"multiple IDs found with provided prefix: {name_or_id}"
            raise InvalidParameterError(msg)
        msg = f"No such container: {name_or_id}"
        raise NotFoundError(msg)
