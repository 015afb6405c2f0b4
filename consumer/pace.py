"""Whether a batch is written while it is made: its forecasts are out sooner, and its transaction is open for longer."""

_MANY_FORECASTS = 100  # are worth a round of their own
_LONGEST_SECONDS = 3.0  # of a round; a transaction may take fifteen
_SECONDS_A_FORECAST = 0.003  # until it is known: eager PyTorch
_WEIGHT = 0.5  # of the last batch


class Pace:
    """How long forecasts take here."""

    def __init__(self) -> None:
        """As if they took long."""
        self._seconds = _SECONDS_A_FORECAST

    def note(self, forecasts: int, seconds: float) -> None:
        """A batch was made, with so many of them: only of many does its time speak, and steps alone say nothing."""
        if forecasts >= _MANY_FORECASTS:
            self._seconds += _WEIGHT * (seconds / forecasts - self._seconds)

    def is_worth_a_round(self, forecasts: int, *, due: bool) -> bool:
        """Whether to write a batch of at most so many ``forecasts`` while it is made; ``due``: a commit is."""
        return (due or forecasts >= _MANY_FORECASTS) and 0 < forecasts * self._seconds <= _LONGEST_SECONDS
