"""Logs go to stderr: for people on a terminal, JSON elsewhere."""

import logging
import sys

import structlog

from fleetcast.masking import mask_event


def configure(level: str = "info") -> None:
    """Set structlog up for this process."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            mask_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # what it is now, whoever replaced it
    )
    librdkafka = logging.getLogger("librdkafka")
    librdkafka.handlers, librdkafka.propagate = [_Forward()], False
    librdkafka.setLevel(logging.WARNING)


class _Forward(logging.Handler):
    """What libraries log through the standard library, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on."""
        structlog.get_logger(record.name).log(record.levelno, record.getMessage())
