"""The machine a figure was measured on, so that it can be judged."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import confluent_kafka

_PACKAGES = (
    "fleetcast", "torch", "pytorch-forecasting", "llvmlite", "numpy", "fastavro", "confluent-kafka", "quixstreams",
)  # fmt: skip
_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


def describe() -> dict[str, Any]:
    """CPU, cores, vector instructions, memory, load and versions; None for a package that is not installed."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "vectors": [name for flag, name in _FLAGS.items() if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def one_line(machine: dict[str, Any]) -> str:
    """The same for people."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if number)
    vectors = ", ".join(machine["vectors"]) or "no AVX2"
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({vectors}), {machine['memory_gib']} GiB, "
        f"load {machine['load_average'][0]} at the start; Python {machine['python']}, {packages}, "
        f"librdkafka {machine['librdkafka']}"
    )


def _cpu_info() -> dict[str, str]:
    """/proc/cpuinfo of the first core; empty where there is none."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
