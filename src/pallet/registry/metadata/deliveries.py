"""Statements on the queue of notifications.

Owns   who delivers what, and when again.
Runs   in the server's threads; every method is one transaction.
Needs  a prepared ``Database``.

A delivery is taken by setting when it is due again: whoever takes it has until then, in whichever process
or replica, and if it is killed meanwhile the next one takes it. So each is delivered at least once, and
by one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.registry.metadata.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.registry.metadata.database import Database, Session


class DeliveryTables:
    """Notifications that wait for their receivers."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Queue notifications of something that is no transaction itself."""
        with self._db.write() as db:
            queue(db, deliveries, self._db.now())

    def take(self, receiver: str, most: int, for_s: float) -> list[Delivery]:
        """Take what is due, oldest first; it is due again after ``for_s``."""
        now = self._db.now()
        with self._db.read() as db:  # mostly there is nothing: that needs no lock
            if not db.execute("SELECT 1 FROM deliveries WHERE dead = 0 AND due_at <= ? AND receiver = ? LIMIT 1",
                              (now, receiver)):
                return []
        with self._db.write() as db:
            ids = [found for (found,) in db.execute(
                "SELECT id FROM deliveries WHERE dead = 0 AND due_at <= ? AND receiver = ? "
                f"ORDER BY created_at, id LIMIT {int(most)}" + db.for_update, (now, receiver))]
            taken = []
            for delivery_id in ids:
                rows = db.execute("UPDATE deliveries SET due_at = ?, attempts = attempts + 1 WHERE id = ? "
                                  "RETURNING event, attempts, created_at", (now + for_s, delivery_id))
                taken += [Delivery(id=delivery_id, receiver=receiver, event=bytes(event), attempts=attempts,
                                   created_at=created_at) for event, attempts, created_at in rows]
        return taken

    def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what arrived."""
        with self._db.write() as db:
            for delivery in deliveries:
                db.execute("DELETE FROM deliveries WHERE id = ?", (delivery.id,))

    def failed(self, delivery: Delivery, problem: str, after_s: float | None) -> None:
        """Note a failure.

        Args:
            after_s: until the next attempt; None gives it up.
        """
        with self._db.write() as db:
            db.execute("UPDATE deliveries SET problem = ?, due_at = ?, dead = ? WHERE id = ? AND attempts = ?",
                       (problem, self._db.now() + (after_s or 0.0), int(after_s is None), delivery.id,
                        delivery.attempts))

    def purge(self, age_s: float) -> int:
        """Forget everything older, delivered or not; how many that were."""
        with self._db.write() as db:
            return len(db.execute("DELETE FROM deliveries WHERE created_at < ? RETURNING id",
                                  (self._db.now() - age_s,)))


def queue(db: Session, deliveries: Sequence[Delivery], now: float) -> None:
    """Queue notifications within the transaction that they tell of."""
    for delivery in deliveries:
        db.execute("INSERT INTO deliveries (id, receiver, event, created_at, due_at, attempts, dead, problem) "
                   "VALUES (?, ?, ?, ?, ?, 0, 0, '')",
                   (delivery.id, delivery.receiver, delivery.event, now, now))
