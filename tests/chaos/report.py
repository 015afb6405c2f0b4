"""What a run found, as a table for people."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tests.chaos.compare import Table, Verdict
from tests.chaos.members import State

_COMPLAINTS = 15


@dataclass(frozen=True, slots=True)
class Report:
    """What was done and what came of it.

    Attributes:
        verdicts: by output topic.
        gaps: kind and longest silence in seconds, of each disturbance in its order.
        killed_while: what the members that were killed were doing.
        refused: the undisturbed group's dead letters.
        aborted: records of the disturbed group that lie in aborted transactions: nobody sees them.
        hidden_seconds: how long an open transaction hid records after the end.
        complaints: warnings and errors of the members.
    """

    guarantee: str
    events: int
    verdicts: dict[str, Verdict]
    gaps: list[tuple[str, float]]
    killed_while: Counter[State]
    refused: Table
    aborted: int
    hidden_seconds: float
    complaints: Counter[str]

    @property
    def clean(self) -> bool:
        """Exactly once, in all three topics."""
        return all(verdict.clean for verdict in self.verdicts.values())

    @property
    def stages(self) -> Counter[str]:
        """Dead letters by stage: a run in which nothing is refused shows nothing of them."""
        return Counter(str(stage) for stage, *_ in self.refused.exact)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        refused = ", ".join(f"{n} {stage}" for stage, n in sorted(self.stages.items()))
        yield f"{self.guarantee}: {self.events} events, of which refused: {refused or 'none'}"
        heads = f"{'records':>9}{'lost':>8}{'invented':>10}{'doubled':>9}{'different':>11}{'largest':>10}"
        yield f"{'':<10}{heads}  identical"
        for name, v in self.verdicts.items():
            identical = "yes" if v.identical else "no"
            yield (
                f"{name:<10}{v.records:>9}{v.lost:>8}{v.invented:>10}{v.doubled:>9}{v.different:>11}"
                f"{v.largest:>10.1e}  {identical}"
                + (f" ({v.calm_doubled} doubled undisturbed)" if v.calm_doubled else "")
            )
        yield f"in aborted transactions: {self.aborted} records; hidden after the end for {self.hidden_seconds:.1f} s"
        killed = ", ".join(f"{n} {state}" for state, n in sorted(self.killed_while.items()))
        yield f"killed while: {killed or 'nobody'}"
        yield from self._silences()
        yield from (f"  {example}" for name, v in self.verdicts.items() for example in _examples(name, v))
        yield from (f"  {n:>5} x {what}" for what, n in self.complaints.most_common(_COMPLAINTS))

    def _silences(self) -> Iterator[str]:
        by_kind: defaultdict[str, list[float]] = defaultdict(list)
        for kind, seconds in self.gaps:
            by_kind[kind].append(seconds)
        yield f"{'disturbance':<38}{'times':>6}{'longest silence':>17}{'median':>9}"
        for kind, all_seconds in sorted(by_kind.items()):
            yield f"{kind:<38}{len(all_seconds):>6}{max(all_seconds):>15.1f} s{median(all_seconds):>7.1f} s"


def _examples(name: str, verdict: Verdict) -> Iterator[str]:
    return (f"{name} {example}" for example in verdict.examples)
