"""A Kafka broker and a schema registry on this machine, without Docker. Imports nothing of ours."""

from devstack.errors import StackError
from devstack.jars import fetch_jars
from devstack.stack import Stack, start_stack

__all__ = ["Stack", "StackError", "fetch_jars", "start_stack"]
