"""The one error of the dev stack."""


class StackError(Exception):
    """Something that the stack needs is missing or did not start; the text says what, and what to do."""
