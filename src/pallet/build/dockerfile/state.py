"""One stage while its instructions are carried out.

Owns   ``StageState``.
Runs   on the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.spec.dockerfile.runconfig import ConfigState

if TYPE_CHECKING:
    from pallet.build.dockerfile.draft import Draft
    from pallet.build.ports import ResolvedImage
    from pallet.spec.dockerfile import instructions as ins
    from pallet.spec.dockerfile.expand import Budget
    from pallet.spec.platform import Platform


@dataclass(slots=True, kw_only=True)
class Entry:
    """A history entry to be."""

    created_by: str
    draft: Draft | None = None
    instruction: ins.Instruction | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class StageState:
    """One stage, for one target platform."""

    index: int
    """In the Dockerfile; -1 for an image that ``--from`` names."""
    start: ins.From | None
    base_name: str
    """Expanded: an image, a stage, or ``scratch``."""
    name: str = ""
    """As the Dockerfile has it; "" for none."""
    shown_name: str = ""
    commands: list[ins.Instruction] = field(default_factory=list)
    platform: Platform
    target_platform: Platform
    show_platform: bool = False
    parent: StageState | None = None
    """The stage that it is built on."""
    needs: list[StageState] = field(default_factory=list)
    """Stages and images that its instructions take files from, and its parent."""
    sources: dict[str, StageState] = field(default_factory=dict)
    """What its ``--from`` words mean."""
    image: ResolvedImage | None = None
    """Its base, or the base of its base."""
    is_local: bool = False
    """A client's tree, which has no owners of its own."""
    ignore_cache: bool = False
    resolved: bool = False
    """Its base is known (or is another stage)."""
    replaced: bool = False
    """A named context stands for it; its instructions are not carried out."""
    label: str = ""
    """Name of its base's vertex where that is not the usual one."""
    trigger_total: int = 0
    """ONBUILD triggers of its base: BuildKit counts each as a vertex."""

    draft: Draft | None = None
    config: ConfigState = field(default_factory=ConfigState)
    env: dict[str, str] = field(default_factory=dict)
    """ENV and ARG together: what words expand with and commands get."""
    arguments: dict[str, str | None] = field(default_factory=dict)
    """Declared ARGs."""
    history: list[Entry] = field(default_factory=list)
    total: int = 0
    number: int = 0
    workdir_set: bool = False
    last_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Lines of the last CMD, ENTRYPOINT and HEALTHCHECK."""
    ssh_mounts: int = 0

    @property
    def lines(self) -> tuple[int, int] | None:
        """Of its FROM; of the first instruction that takes from an image that is no stage."""
        return self.start.lines if self.start is not None else self.asked

    asked: tuple[int, int] | None = None
    _env_items: tuple[str, ...] | None = None
    used: set[str] = field(default_factory=set)
    """Variables that words named and that have a value."""
    used_globals: set[str] = field(default_factory=set)
    """Those that its FROM named."""

    def root(self) -> Draft:
        """The vertex with its files so far."""
        assert self.draft is not None, "a stage is begun before anything uses it"
        return self.draft

    def set_env(self, name: str, value: str) -> None:
        """Set a variable for the instructions that follow; the newest is the last."""
        self.env.pop(name, None)
        self.env[name] = value
        self._env_items = None

    def env_items(self, budget: Budget) -> tuple[str, ...]:
        """``NAME=value`` of all variables."""
        if self._env_items is None:
            budget.spend_items(len(self.env))
            self._env_items = tuple(f"{name}={value}" for name, value in self.env.items())
        return self._env_items
