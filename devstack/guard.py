"""Runs a server and ends with its owner: ``python guard.py FOLDER COMMAND...``.

Standard input is a pipe whose other end only the owner holds. A byte on it asks for an orderly stop. When it closes
without one, the owner has gone, by whatever way, SIGKILL included: the server is stopped and the folder removed.
Portable, unlike PR_SET_PDEATHSIG.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

_GRACE_S = 10


def main() -> int:
    """Run the command until it ends or the pipe closes."""
    folder, command = sys.argv[1], sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the pipe decides
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_default_signals)  # noqa: PLW1509
    abandoned = threading.Event()
    threading.Thread(target=_watch, args=(server, abandoned), daemon=True).start()
    code = server.wait()
    if abandoned.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # a child inherits what is ignored


def _watch(server: "subprocess.Popen[bytes]", abandoned: threading.Event) -> None:
    if not os.read(0, 1):
        abandoned.set()
    server.terminate()
    try:
        server.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
