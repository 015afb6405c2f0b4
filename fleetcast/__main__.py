"""``fleetcast``: parse, wire, call."""

import io
import os
import sys

import click

from fleetcast import failures
from fleetcast.commands import bench, data, setup, stream, train, watch
from fleetcast.masking import mask

# OpenMP's threads spin while they wait; on a busy machine that made training 15 times slower (docs/benchmarks.md).
# Read when torch is loaded, which no command has done yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="fleetcast")
def cli() -> None:
    """Kafka in, calibrated forecasts out."""


for command in (
    data.generate, train.train, data.evaluate, data.forecast, data.model, setup.topics, setup.schemas,
    stream.simulate, stream.replay, stream.consume, watch.tail, watch.up,
    bench.bench,
):  # fmt: skip
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run, and turn our errors into one line on stderr and an exit code."""
    try:
        sys.exit(cli.main(arguments, prog_name="fleetcast", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(mask(shown.getvalue()), nl=False, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone; so is anyone who would read a complaint
        sys.exit(0)
    except Exception as error:
        told = failures.explain(error)
        if told is None:
            raise  # a bug: its traceback says where
        click.echo(f"error: {mask(told.reason)}", err=True)
        sys.exit(told.exit_code)


if __name__ == "__main__":
    main()
