"""Numbers on the command line that are numbers: click's range lets NaN pass."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A range without NaN and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)
