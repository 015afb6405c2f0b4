"""``bench``: the product beside what a user would pick instead, in the same run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetcast.options import JSON

if TYPE_CHECKING:
    from bench.tables import Report

QUICK = click.option("--quick", is_flag=True, help="A small run that shows that it works; its figures say nothing.")
LOG_LEVEL = click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True,
    help="Of stderr.",
)  # fmt: skip
SUBJECTS = {
    "inference": "Forecasts a second, beside predict() and the library's plain forward.",
    "codec": "Avro to columns and back, beside fastavro loops.",
    "stream": "Files to Kafka, Kafka to forecasts, Kafka to windows, beside predict() and Quix Streams.",
    "latency": "From the event that closes a step to its forecasts at a subscriber.",
    "restore": "From a restart to the first forecast, with 10,000 windows to bring back.",
    "memory": "Resident memory and starts.",
    "scaling": "What events and forecasts cost in fleets of 100 to 100,000 servers.",
}


@click.group()
def bench() -> None:
    """Measure this machine: the product beside what one would pick instead."""


def _add(name: str, text: str) -> None:
    @bench.command(name, help=text)
    @QUICK
    @JSON
    @LOG_LEVEL
    def command(*, quick: bool, as_json: bool, log_level: str) -> None:
        from bench import everything

        _logs(log_level)
        report = everything.run(name, quick=quick)
        click.echo(json.dumps(report.as_json(), indent=2) if as_json else report.as_text())


for subject, described in SUBJECTS.items():
    _add(subject, described)


@bench.command("all")
@QUICK
@JSON
@click.option("--output", type=click.Path(path_type=Path), help="Write a Markdown page there, and its plot in images/.")
@LOG_LEVEL
def run_all(*, quick: bool, as_json: bool, output: Path | None, log_level: str) -> None:
    """All of them, one after the other."""
    from bench import everything

    _logs(log_level)
    reports: list[Report] = []
    for report in everything.run_all(quick=quick):
        reports.append(report)
        if not as_json:
            click.echo(report.as_text() + "\n")
        if output is not None:
            everything.write(reports, output)  # what was measured stays, whatever comes
    if as_json:
        click.echo(json.dumps([report.as_json() for report in reports], indent=2))


def _logs(level: str) -> None:
    from fleetcast.logs import configure

    configure(level)
