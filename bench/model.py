"""What a measurement is: samples by competitor, a unit, a goal; and how a table is made of them."""

from __future__ import annotations

import os
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Figure:
    """Samples of one thing for every competitor that was measured.

    ``goal`` is a ceiling for Pallet's median in ``unit``; ``factor`` is how many times dockerd's
    median must be above Pallet's; ``at_least`` names a competitor whose rate Pallet's must reach.
    """

    name: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    goal: float | None = None
    factor: float | None = None
    at_least: str = ""
    note: str = ""

    def add(self, competitor: str, value: float) -> None:
        """Record one sample."""
        self.samples.setdefault(competitor, []).append(value)

    def median(self, competitor: str) -> float | None:
        """Median of a competitor's samples; None when it was not measured."""
        values = self.samples.get(competitor)
        return statistics.median(values) if values else None

    def verdict(self) -> str:
        """Whether the goals are met, in words; empty when there are none or Pallet was not run."""
        ours, theirs = self.median("pallet"), self.median("dockerd")
        if ours is None:
            return ""
        words = []
        if self.goal is not None:
            words.append(f"at most {self.goal:g}: {'met' if ours <= self.goal else 'missed'}")
        if self.factor is not None and theirs is not None:
            met = "met" if theirs >= self.factor * ours else "missed"
            words.append(f"at least {self.factor:g} times: {met}")
        other = self.median(self.at_least) if self.at_least else None
        if other is not None:
            words.append(f"at least {self.at_least}'s: {'met' if ours >= other else 'missed'}")
        return "; ".join(words)


def table(figures: list[Figure]) -> str:
    """Markdown: one row a figure, one column a competitor, medians with the ratio to Pallet."""
    names = sorted({name for figure in figures for name in figure.samples}, key=_order)
    head = ["figure", "unit", "n", *names, "goal"]
    rows = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for figure in figures:
        ours = figure.median("pallet")
        cells = [figure.name, figure.unit, str(max(map(len, figure.samples.values()), default=0))]
        for name in names:
            value = figure.median(name)
            if value is None:
                cells.append("")
                continue
            digits = 1 if ours and value / ours >= 0.1 else 2
            ratio = f" ({value / ours:.{digits}f}x)" if ours and name != "pallet" else ""
            cells.append(f"{value:.3g}{ratio}" if value < 1000 else f"{value:.0f}{ratio}")
        cells.append(figure.verdict())
        rows.append("| " + " | ".join(cells) + " |")
    notes = [f"- {figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join(rows) + ("\n\n" + "\n".join(notes) if notes else "")


def _order(name: str) -> tuple[int, str]:
    first = ["pallet", "dockerd", "podman", "runc", "crun", "skopeo", "docker-registry"]
    return (first.index(name) if name in first else len(first), name)


def machine() -> str:
    """One line on the machine the figures were taken on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "unknown processor",
    )  # fmt: skip
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    kernel = os.uname().release
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {kernel}"


def versions(commands: dict[str, list[str]]) -> list[str]:
    """``name version`` of each installed competitor."""
    found = []
    for name, argv in commands.items():
        try:
            out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        found.append(f"{name}: {out.splitlines()[0].strip()}")
    return found
