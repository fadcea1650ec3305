"""What was measured: rows of values by subject."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SUBJECTS = ("docker", "podman", "runc", "crun", "kernel", "capsa")


@dataclass(frozen=True)
class Value:
    """A median with its quartiles and the number of samples, in the row's unit."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Value:
        """From single measurements."""
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0], len(samples))
        quartiles = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(statistics.median(samples), quartiles[0], quartiles[2], len(samples))


@dataclass
class Row:
    """One line of the table: less is better. ``unit`` is ms, s or MB. ``failures`` say why a subject has no value."""

    key: str
    part: str
    title: str
    unit: str
    values: dict[str, Value] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def ratio(self, subject: str) -> float | None:
        """Ours by that subject's."""
        ours, theirs = self.values.get("capsa"), self.values.get(subject)
        if ours is None or theirs is None or theirs.median <= 0:
            return None
        return ours.median / theirs.median


class Results:
    """All rows, in order of appearance."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def add(self, key: str, part: str, title: str, unit: str, subject: str, samples: Sequence[float]) -> None:
        """Enter what was measured for a subject."""
        self._row(key, part, title, unit).values[subject] = Value.of(samples)

    def fail(self, key: str, part: str, title: str, unit: str, subject: str, why: str) -> None:
        """Enter why nothing was."""
        self._row(key, part, title, unit).failures[subject] = why

    def plain(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(row) for row in self.rows.values()]

    def _row(self, key: str, part: str, title: str, unit: str) -> Row:
        return self.rows.setdefault(key, Row(key, part, title, unit))
