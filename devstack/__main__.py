"""``python -m devstack fetch`` fills the cache; ``python -m devstack run`` keeps a stack up until it is stopped."""

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path

import structlog

from devstack.errors import StackError
from devstack.jars import fetch_jars
from devstack.stack import BROKERS, REGISTRIES, start_stack


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done or stopped, 2 wrong usage, 4 what was asked for cannot be had."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    options = _parser().parse_args(arguments)
    try:
        if options.command == "fetch":
            sys.stdout.writelines(f"{folder}\n" for folder in fetch_jars())
        else:
            _run(options)
    except StackError as error:
        sys.stderr.write(f"error: {error}\n")
        return 4
    return 0


def _run(options: argparse.Namespace) -> None:
    """Until Ctrl-C or SIGTERM, which are the way to end it and no failure."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        start_stack(broker=options.broker, registry=options.registry, folder=options.folder) as stack,
    ):
        sys.stdout.write(
            f"{stack.description}\nFLEETCAST_BOOTSTRAP_SERVERS={stack.bootstrap_servers}\n"
            f"FLEETCAST_REGISTRY_URL={stack.registry_url}\n"
        )
        sys.stdout.flush()
        while True:
            time.sleep(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="fetch and check the jars of Apache Kafka and Apicurio Registry")
    run = commands.add_parser("run", help="keep a broker and a registry up until Ctrl-C or SIGTERM")
    run.add_argument("--broker", choices=BROKERS, default="auto")
    run.add_argument("--registry", choices=REGISTRIES, default="auto")
    run.add_argument("--folder", type=Path, help="for data and logs; the logs stay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
