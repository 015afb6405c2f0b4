"""``bench all``: every sub-command, one after the other, onto one page."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import cast

from bench import machine
from bench.plot import plot
from bench.tables import Report

NAMES = ("inference", "codec", "stream", "latency", "restore", "memory", "scaling")


def run(name: str, *, quick: bool) -> Report:
    """Run one sub-command."""
    module = import_module(f"bench.{name}")
    return cast("Callable[..., Report]", module.run)(quick=quick)


def run_all(*, quick: bool) -> Iterator[Report]:
    """Run all of them."""
    for name in NAMES:
        yield run(name, quick=quick)


def write(reports: list[Report], file: Path) -> None:
    """The page, and the plot beside it in ``images/``."""
    picture = file.parent / "images" / f"{file.stem}.png"
    drawn = plot(reports, picture)
    parts = ["# Benchmarks, as last measured", "Written by `make bench` (`fleetcast bench all`); do not edit."]
    if reports:
        parts.append(f"Machine: {machine.one_line(reports[0].machine)}.")
    if any(report.quick for report in reports):
        parts.append("**Quick runs: these figures say nothing.**")
    if drawn:
        parts.append(f"![ratios](images/{picture.name})")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join([*parts, *(report.as_markdown() for report in reports)]), encoding="utf-8")
