"""``bench memory``: resident memory before any server and for each server, and how long starts take."""

import gc
import subprocess
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import workload
from bench.measure import seconds
from bench.scene import Scene, scene
from bench.tables import Report
from models.partition import Partition
from schemas.contract import Contract

FEW, MANY, FULL = 1_000, 20_000, 16_384  # rooms double: at FULL all of them are taken
_MB = 1e6


def run(*, quick: bool) -> Report:
    """Measure."""
    folder, model = workload.latest()
    contract, rounds = model.contract, 1 if quick else 3
    many, full = (4_000, 4_096) if quick else (MANY, FULL)
    report = Report("memory", f"{model.version}, full windows of all servers; {rounds} rounds", quick)
    helps = tuple(_help() for _ in range(2 if quick else 10))
    with scene(contract, quick=quick) as at:
        starts = [_start(at, folder, turn) for turn in range(rounds)]
    report.goal(
        "`consume` before any server, resident", "MB", tuple(bytes_ / _MB for _, bytes_ in starts), 600, at_most=True
    )
    ours = tuple(_a_server(contract.schema, FEW, many, "ours") for _ in range(rounds))
    at_full = tuple(_a_server(contract.schema, FEW + 24, full, "ours") for _ in range(rounds))
    plain = tuple(_a_server(contract.schema, 100, 1_000, "deques") for _ in range(rounds))
    what = f"a server beyond the first {FEW:,}, at {many:,}"
    report.goal(what, "KB", ours, 16, 8, at_most=True)
    report.figure(f"the same at {full:,}, where no room is spare", "KB", at_full)
    report.figure("a server whose window is a deque of tuples", "KB", plain)
    report.goal("`fleetcast --help`", "s", helps, 0.3, at_most=True)
    report.goal("start of `consume` until ready, empty topic", "s", tuple(s for s, _ in starts), 8, at_most=True)
    return report


def _help() -> float:
    command = [sys.executable, "-m", "fleetcast", "--help"]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def _start(at: Scene, folder: Path, turn: int) -> tuple[float, int]:
    """Seconds until ready, and resident bytes then."""
    with at.consume(at.topics(f"empty{turn}", 6), folder) as (process, port):
        took = process.wait_ready(port)
        return took, process.resident_bytes()


def _a_server(schema: dict[str, object], few: int, many: int, kind: str) -> float:
    """KB that each server between ``few`` and ``many`` adds, each count in a fresh process."""
    found = []
    for servers in (few, many):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found.append(pool.submit(_grown, schema, servers, kind).result())
    return (found[1] - found[0]) / (many - few) / 1000


def _grown(schema: dict[str, object], servers: int, kind: str) -> int:
    """Bytes by which this process grows with the windows of ``servers``."""
    contract = Contract(schema)
    names = workload.server_names(servers)
    warm = Partition(contract)  # what is loaded with the first use is no server's
    _feed(warm, contract, workload.server_names(1))
    gc.collect()
    before = resident()
    held = _ours(contract, names) if kind == "ours" else _deques(contract, names)
    gc.collect()
    grown = resident() - before
    assert held is not None and warm is not None  # noqa: S101, PT018  they live until here
    return grown


def _ours(contract: Contract, names: NDArray[np.object_]) -> Partition:
    partition = Partition(contract)
    _feed(partition, contract, names)
    return partition


def _feed(partition: Partition, contract: Contract, names: NDArray[np.object_]) -> None:
    """Two steps of each server; a window's room is taken whole with the first."""
    first = workload.START_MS // contract.step_ms
    for step in range(first, first + 2):
        batch = workload.events(contract, names, step, 1, 1)
        for start in range(0, len(batch), 2_000):
            part = batch.take(slice(start, start + 2_000))
            closing, _ = partition.advance(part, np.arange(len(part)) + start)
            for _, due in closing:
                for _ in due:
                    pass


def _deques(contract: Contract, names: NDArray[np.object_]) -> dict[str, deque[tuple[float, ...]]]:
    """What one writes first: by server a deque of rows."""
    rng, steps = np.random.default_rng(0), contract.settings.encoder_steps
    columns = len(contract.inputs) + len(contract.categories)
    return {name: deque(map(tuple, rng.uniform(0, 100, (steps, columns)).tolist()), maxlen=steps) for name in names}


def resident() -> int:
    """Resident bytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024
