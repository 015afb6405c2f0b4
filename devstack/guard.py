"""Runs a command that must not outlive its owner: ``python guard.py COMMAND...``.

Standard input is a pipe whose other end only the owner holds. When it closes, by the owner's wish or because the owner
has gone (SIGKILL included), the command is ended. Portable, unlike PR_SET_PDEATHSIG.
"""

import os
import select
import signal
import subprocess
import sys
import threading

_GRACE_S = 10
_LOOK_S = 1
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the command until it ends or the pipe closes; its exit code."""
    owner = os.getppid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)  # only the pipe decides
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_default_signals)  # noqa: PLW1509  one thread so far
    threading.Thread(target=_end_with_owner, args=(command, owner), daemon=True).start()
    return command.wait()


def _default_signals() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)  # a child inherits what is ignored


def _end_with_owner(command: "subprocess.Popen[bytes]", owner: int) -> None:
    """A child that the owner forked may hold the pipe open after its end; then our parent is another."""
    while not select.select([0], [], [], _LOOK_S)[0] and os.getppid() == owner:
        pass
    command.terminate()
    try:
        command.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        command.kill()


if __name__ == "__main__":
    sys.exit(main())
