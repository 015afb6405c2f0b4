"""``python -m tests.chaos``: exit code 0 where nothing is lost, doubled or different, 1 where something is."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import structlog

from devstack import start_stack
from tests.chaos.members import MemberFailedError
from tests.chaos.run import Plan, run
from tests.chaos.schedule import Counts

_FLAGS = {"kill": "kills", "churn": "churn", "broker": "broker", "stop": "stops", "registry": "registry"}


def main() -> int:
    """Run on a stack of its own."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    options = _parser().parse_args()
    counts = Counts(**{name: getattr(options, flag) for name, flag in _FLAGS.items()})
    members = tuple(part for item in options.properties for part in ("-X", item))
    plan = Plan(options.events, options.servers, options.seed, counts, options.guarantee, members)
    with ExitStack() as parts:
        folder = options.keep or Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        stack = parts.enter_context(
            start_stack(broker="apache", registry="apicurio", folder=folder / "stack", broker_may_be_killed=True)
        )
        try:
            report = run(plan, stack, folder)
        except MemberFailedError as error:
            print(f"a member failed: {error}")
            return 1
    print(report)
    return 0 if report.clean else 1


def _parser() -> argparse.ArgumentParser:
    plan, counts = Plan(), Counts()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=plan.events)
    parser.add_argument("--servers", type=int, default=plan.servers)
    parser.add_argument("--seed", type=int, default=plan.seed, help="of the events and of the disturbances")
    for field in fields(Counts):
        parser.add_argument(f"--{_FLAGS[field.name]}", type=int, default=getattr(counts, field.name), metavar="N")
    parser.add_argument("--guarantee", choices=["exactly_once", "at_least_once"], default=plan.guarantee)
    parser.add_argument("-X", dest="properties", action="append", default=[], metavar="KEY=VALUE", help="for members")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for files and logs, which stay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
