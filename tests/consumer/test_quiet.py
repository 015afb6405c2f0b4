import logging

from consumer.quiet import Seldom


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("librdkafka", logging.ERROR, "", 0, text, (), None)


def test_a_line_of_each_kind_in_ten_seconds() -> None:
    """Repeated lines are left out and counted; other kinds are not affected."""
    now = 0.0
    seldom = Seldom(lambda: now)

    assert seldom.filter(line("FAIL [thrd:a]: refused"))
    assert not any(seldom.filter(line(f"FAIL [thrd:b]: {i}")) for i in range(20))
    assert seldom.filter(line("TXNERR [thrd:a]: aborted"))
    now = 10.0
    again = line("FAIL [thrd:a]: refused")

    assert seldom.filter(again)
    assert again.getMessage() == "FAIL [thrd:a]: refused (and 20 lines like it)"
