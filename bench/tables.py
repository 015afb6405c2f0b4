"""What a sub-command found: figures, goals and notes; as a table, as JSON, as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import machine
from bench.measure import Samples, Spread


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured, a sample a round."""

    what: str
    unit: str
    samples: Samples

    def as_json(self) -> dict[str, Any]:
        """With its spread."""
        found = Spread.of(self.samples)
        spread = {"median": found.median, "low": found.low, "high": found.high}
        return {"what": self.what, "unit": self.unit, **spread, "samples": list(self.samples)}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that has something to reach: at least ``goal``, or at most where ``at_most``.

    Attributes:
        aim: what would be better still, if that was said.
    """

    figure: Figure
    goal: float
    aim: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the median is there."""
        return self._there(self.goal)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if not self.reached:
            return "missed"
        return "aim reached" if self.aim is not None and self._there(self.aim) else "reached"

    @property
    def wanted(self) -> str:
        """Goal and aim in words."""
        sign = "<=" if self.at_most else ">="
        aim = "" if self.aim is None else f" (aim {number(self.aim)})"
        return f"{sign} {number(self.goal)}{aim}"

    def as_json(self) -> dict[str, Any]:
        """The figure and what it is held against."""
        wanted = {"goal": self.goal, "aim": self.aim, "at_most": self.at_most}
        return {**self.figure.as_json(), **wanted, "reached": self.reached, "verdict": self.verdict}

    def _there(self, limit: float) -> bool:
        median = Spread.of(self.figure.samples).median
        return median <= limit if self.at_most else median >= limit


@dataclass(slots=True)
class Report:
    """What one sub-command found.

    Attributes:
        bench: its name. workload: on what, in a sentence.
    """

    bench: str
    workload: str
    quick: bool
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine.describe)

    def figure(self, what: str, unit: str, samples: Samples) -> None:
        """Add a figure."""
        self.figures.append(Figure(what, unit, samples))

    def goal(
        self, what: str, unit: str, samples: Samples, goal: float, aim: float | None = None, *, at_most: bool = False
    ) -> None:
        """Add a figure that has something to reach."""
        self.goals.append(Goal(Figure(what, unit, samples), goal, aim, at_most))

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "bench": self.bench, "workload": self.workload, "quick": self.quick, "machine": self.machine,
            "figures": [f.as_json() for f in self.figures], "goals": [g.as_json() for g in self.goals],
            "notes": self.notes,
        }  # fmt: skip

    def as_text(self) -> str:
        """Two tables and what is to be said, for a terminal."""
        parts = [f"{self.bench}: {self.workload}" + (" (quick: no figure to quote)" if self.quick else "")]
        parts += [f"on {machine.one_line(self.machine)}"]
        parts += [_aligned(rows) for rows in (self._figure_rows(), self._goal_rows()) if len(rows) > 1]
        return "\n\n".join([*parts, *(f"note: {note}" for note in self.notes)])

    def as_markdown(self) -> str:
        """A section."""
        parts = [f"## `fleetcast bench {self.bench}`", self.workload]
        parts += [_markdown(rows) for rows in (self._figure_rows(), self._goal_rows()) if len(rows) > 1]
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def _figure_rows(self) -> list[list[str]]:
        rows = [["measured", "median", "from", "to", "unit"]]
        return rows + [[f.what, *_spread(f.samples), f.unit] for f in self.figures]

    def _goal_rows(self) -> list[list[str]]:
        return _goal_rows(self.goals)


def summary(goals: Sequence[Goal]) -> str:
    """All goals in one Markdown table."""
    return _markdown(_goal_rows(goals))


def _goal_rows(goals: Sequence[Goal]) -> list[list[str]]:
    rows = [["to reach", "median", "from", "to", "unit", "goal", ""]]
    return rows + [[g.figure.what, *_spread(g.figure.samples), g.figure.unit, g.wanted, g.verdict] for g in goals]


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _spread(samples: Samples) -> list[str]:
    found = Spread.of(samples)
    return [number(found.median), number(found.low), number(found.high)]


def _aligned(rows: list[list[str]]) -> str:
    """Text to the left, the three numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if 1 <= i <= 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    rule = "|".join("---:" if 1 <= i <= 3 else "---" for i in range(len(head)))
    lines = ["| " + " | ".join(row) + " |" for row in (head, *body)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
