"""``bench all``: every sub-command, one after the other, onto one page."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import cast

from bench import machine
from bench.plot import plot
from bench.tables import Report, summary
from schemas.errors import InputError

NAMES = ("inference", "codec", "stream", "latency", "restore", "memory", "scaling")
_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"


def run(name: str, *, quick: bool) -> Report:
    """Run one sub-command."""
    module = import_module(f"bench.{name}")
    return cast("Callable[..., Report]", module.run)(quick=quick)


def run_all(*, quick: bool) -> Iterator[Report]:
    """Run all of them."""
    for name in NAMES:
        yield run(name, quick=quick)


def write(reports: list[Report], file: Path) -> None:
    """The figures onto a page, in the place of those of the last run, and the plot beside it in ``images/``."""
    picture = file.parent / "images" / f"{file.stem}.png"
    drawn = plot(reports, picture)
    parts = ["Between these two marks `make bench` (`fleetcast bench all`) writes; do not edit."]
    if reports:
        parts.append(f"Machine: {machine.one_line(reports[0].machine)}.")
    if any(report.quick for report in reports):
        parts.append("**Quick runs: these figures say nothing.**")
    parts.append(summary([goal for report in reports for goal in report.goals]))
    if drawn:
        parts.append(f"![ratios](images/{picture.name})")
    made = "\n\n".join([_BEGIN, *parts, *(report.as_markdown() for report in reports), _END])
    page = file.read_text("utf-8") if file.exists() else f"# Benchmarks\n\n{_BEGIN}{_END}\n"
    before, _, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise InputError(f"{file} has no {_BEGIN} with {_END} behind it to write between")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(before + made + after, encoding="utf-8")
