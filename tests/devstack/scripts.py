"""Small executables that stand where Java or Maven would: real processes, with a known answer."""

import shlex
import sys
from pathlib import Path


def executable(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def java(home: Path, version: str, otherwise: str = "exit 1") -> Path:
    """A Java home whose ``java`` reports a version, and does ``otherwise`` when it is asked anything else."""
    executable(
        home / "bin" / "java",
        f'#!/bin/sh\ncase "$*" in *-version*) echo \'openjdk version "{version}" 2025-01-01\' >&2; exit 0;; esac\n'
        f"{otherwise}\n",
    )
    return home


def maven(folder: Path, calls: Path, *, fails: bool = False) -> Path:
    """An ``mvn`` that writes one file into the output directory and counts its calls; the folder to put on PATH."""
    script = (
        "import pathlib, sys\n"
        f"pathlib.Path({str(calls)!r}).open('a').write('x')\n"
        f"if {fails}: sys.exit('[INFO] starting\\n[ERROR] no route to the repository')\n"
        "out = next(a.partition('=')[2] for a in sys.argv if a.startswith('-DoutputDirectory='))\n"
        "pathlib.Path(out, 'some.jar').write_bytes(b'jar' * 1000)\n"
    )
    code = executable(folder.with_name("mvn.py"), script)
    executable(folder / "mvn", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(code))} "$@"\n')
    return folder
