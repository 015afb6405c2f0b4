"""The metrics that the simulator knows by name, as functions of server and time."""

import numpy as np
from numpy.typing import NDArray

from producer.incidents import DAY_MS, HOUR_MS, MONDAY_MS, WEEK_MS, Incidents, Schedule, Strain, strike
from producer.noise import Noise, sawtooth
from producer.profiles import PROFILES, WEEK_HOURS, profile_of, week_table
from schemas.batch import Codes, Floats, Ints

PERCENTAGES = ("cpu_percent", "memory_percent", "disk_percent")
TRAFFIC = ("disk_io_mb_s", "net_in_mb_s", "net_out_mb_s", "latency_ms", "error_rate", "gc_pause_ms")
NAMES = (*PERCENTAGES, "load_average", *TRAFFIC)
# fmt: off
STATUSES = ("critical_issue", "healthy", "heavy_load", "idle", "maintenance", "morning_spike", "offline", "recovery")
# fmt: on
CRITICAL, HEALTHY, HEAVY, IDLE, MAINTENANCE, MORNING, OFFLINE, RECOVERY = range(len(STATUSES))
HEAVY_CPU, MORNING_CPU, IDLE_CPU = 72.0, 45.0, 12.0
MORNING_HOURS = range(7, 10)
DEFAULT_THRESHOLD = 90.0
# What an agent reports: thousandths, of an error rate millionths. Rounded down, so that a threshold keeps its sides.
_PER_UNIT = dict.fromkeys(NAMES, 1_000.0) | {"error_rate": 1_000_000.0}
# Points of CPU and memory that a degrading server gains until it is redeployed.
_WEAR = {"healthy": 0.0, "mixed": 0.0, "degrading": 22.0, "critical": 8.0}
Mask = NDArray[np.bool_]


class Vitals:
    """Levels of each server, drawn once, and the law by which its metrics follow from them."""

    def __init__(self, seed: int, servers: int, scenario: str, thresholds: dict[str, float]) -> None:
        """``thresholds``: of those percentages that the contract has; incidents of others do not happen."""
        self._thresholds = thresholds
        self.schedule = Schedule(seed, servers, scenario, frozenset(thresholds))
        self.lives = self.schedule.lives
        self._wear = _WEAR[scenario]
        ids = np.arange(servers)
        self.profile = profile_of(ids)
        self.noise = Noise(seed, ids)
        self._week = week_table()
        self._week_phase = self.noise.between("week phase", -2.0, 2.0)
        self._day_bend = self.noise.between("day bend", 0.0, 0.7)
        self._day_spread = self.noise.between("day spread", 0.0, 0.2)
        self._draw_levels()

    def _draw_levels(self) -> None:
        """[S] each: the profile's level, somewhat different for each server."""
        profiles, between = list(PROFILES.values()), self.noise.between

        def level(values: list[float], stream: str, spread: float) -> Floats:
            return np.array(values)[self.profile] * between(stream, 1 - spread, 1 + spread)

        self._cpu_rest = level([p.cpu[0] for p in profiles], "cpu rest", 0.3)
        self._cpu_rise = np.array([p.cpu[1] for p in profiles])[self.profile] * between("cpu rise", 0.35, 1.25)
        self._cpu_noise = level([p.cpu_noise for p in profiles], "cpu noise", 0.4)
        self._memory_rest = level([p.memory[0] for p in profiles], "memory rest", 0.15)
        follows = self.noise.uniform("memory follows")  # most caches and heaps hardly follow the day
        self._memory_rise = np.array([p.memory[1] for p in profiles])[self.profile] * 1.3 * follows * follows
        self._memory_drift = between("memory drift", 2.0, 6.0)
        self._gc_size = level([p.gc[0] for p in profiles], "gc size", 0.9)
        self._gc_period_s = level([p.gc[1] * 60 for p in profiles], "gc period", 0.4)
        self._disk_clean = level([p.disk[0] for p in profiles], "disk clean", 0.2)
        self._disk_full = level([p.disk[1] for p in profiles], "disk full", 0.05)
        self._disk_period_s = level([p.disk[2] * 86_400 for p in profiles], "disk period", 0.4)
        self._io = [level([p.io[i] for p in profiles], f"io {i}", 0.5) for i in range(3)]
        self._latency = level([p.latency_ms for p in profiles], "latency", 0.4)
        restless = self.noise.uniform("restless")
        self._burst_chance = 0.02 + 0.2 * restless * restless
        self._burst_size = between("burst size", 0.5, 3.5)
        self._job_chance = between("job chance", 0.0, 0.5)
        self._job_size = between("job size", 1.0, 4.0)
        hourly, daily = self.noise.uniform("hourly size"), self.noise.uniform("daily size")
        self._cron = [(3_600.0, 0.05, 10.0 * hourly * hourly), (86_400.0, 0.02, 16.0 * daily * daily)]
        self._wait_chance = between("wait chance", 0.01, 0.15)
        self._deploy_s = between("deploy period", 4, 9) * 86_400
        choice = self.noise.uniform("cores")
        sizes = [p.cores for p in profiles]
        self.cores = np.array(
            [sizes[p][int(u * len(sizes[p]))] for p, u in zip(self.profile, choice, strict=True)], np.float64
        )

    def incidents(self, start_ms: int, end_ms: int) -> Incidents:
        """Those that touch [start, end)."""
        return self.schedule.between(start_ms, end_ms)

    def activity(self, time_ms: Ints) -> Floats:
        """[T, S] 0 to about 1, the rhythm of day and week: the profile's, but each server's and each day's own."""
        hour = ((time_ms - MONDAY_MS) % WEEK_MS / HOUR_MS)[:, None] + self._week_phase
        whole = np.floor(hour)
        part = hour - whole
        at = whole.astype(np.int64) % WEEK_HOURS
        usual = (1.0 - part) * self._week[self.profile, at] + part * self._week[self.profile, at + 1]
        # Some servers are busy at the height of the day only; no day is as busy as another.
        usual *= 1.0 - self._day_bend + self._day_bend * usual
        return usual * (1.0 + self._day_spread * self.noise.smooth("day", time_ms, 100_000))

    def at(self, time_ms: Ints) -> tuple[dict[str, Floats], Codes]:
        """All metrics [T, S] by name, and the status [T, S] as a position in ``STATUSES``; ``time_ms``: [T]."""
        busy = self.activity(time_ms)
        wear = self._wear * sawtooth(time_ms, self._deploy_s, self.noise.uniform("deploy phase"))
        # The collector comes when the heap is full, sooner or later, not by the clock.
        gc = sawtooth(time_ms, self._gc_period_s, 1.5 * self.noise.smooth("gc", time_ms, 7_200))
        bursts = self._burst_size * self.noise.bursts("bursts", time_ms, 1_500, self._burst_chance)
        metrics = {
            "cpu_percent": self._cpu(time_ms, busy, wear) + bursts,
            "memory_percent": self._memory(time_ms, busy, wear, gc),
            "disk_percent": self._disk(time_ms),
        }
        limits = {name: self._thresholds.get(name, DEFAULT_THRESHOLD) for name in PERCENTAGES}
        for name in ("cpu_percent", "memory_percent"):
            metrics[name][:, self.lives.members] += 4.0 * self.lives.machine(name, time_ms)
        for name, values in metrics.items():
            metrics[name] = _below(values, limits[name])
        resting, off = self.schedule.maintenance(time_ms)
        metrics["cpu_percent"][resting] *= 0.25
        found = self.incidents(int(time_ms[0]), int(time_ms[-1]) + 1) if len(time_ms) else self.incidents(0, 0)
        strain = strike(found, time_ms, metrics, limits)
        metrics["load_average"] = self._load(time_ms, metrics["cpu_percent"], bursts, strain)
        metrics.update(self._traffic(time_ms, metrics, strain, gc))
        _switch_off(metrics, off)
        for name, values in metrics.items():
            metrics[name] = np.floor(values * _PER_UNIT[name] + 1e-6) / _PER_UNIT[name]
        return metrics, status_of(time_ms, metrics, limits, (resting, off, strain.recovering))

    def _cpu(self, time_ms: Ints, busy: Floats, wear: Floats) -> Floats:
        noise = self.noise
        wandering = 0.5 * noise.wander("cpu", time_ms, (3_600, 14_400, 129_600))
        wandering += 0.3 * noise.smooth("cpu jitter", time_ms, 400)
        value = self._cpu_rest + self._cpu_rise * busy + self._cpu_noise * wandering + wear
        value += self._job_size * noise.bursts("cpu job", time_ms, 28_800, self._job_chance)
        for period_s, share, size in self._cron:
            since = sawtooth(time_ms, np.array(period_s), noise.uniform(f"cron {period_s:.0f}"))
            value += size * (since < share)
        return value + 0.2 * self._cpu_noise * noise.white("cpu sample", time_ms[:, None])

    def _memory(self, time_ms: Ints, busy: Floats, wear: Floats, gc: Floats) -> Floats:
        noise = self.noise
        drift = noise.wander("memory", time_ms, (43_200, 259_200, 1_209_600))
        drift += 0.6 * noise.levels("heap", time_ms, 100_000)
        aged = sawtooth(time_ms, self._deploy_s, noise.uniform("deploy phase"))  # what a restart gives back
        value = self._memory_rest + self._memory_rise * busy + self._gc_size * (gc - 0.5) + self._memory_drift * drift
        return value + 5.0 * aged + wear + 0.12 * noise.white("memory sample", time_ms[:, None])

    def _disk(self, time_ms: Ints) -> Floats:
        noise = self.noise
        filled = sawtooth(time_ms, self._disk_period_s, noise.uniform("disk phase"))
        logs = sawtooth(time_ms, np.array(86_400.0), noise.uniform("log phase"))  # rotated once a day
        value = self._disk_clean + (self._disk_full - self._disk_clean) * filled + 2.0 * logs
        return value + 0.4 * noise.smooth("disk", time_ms, 10_800)

    def _load(self, time_ms: Ints, cpu: Floats, bursts: Floats, strain: Strain) -> Floats:
        """Processes that run or wait: in a burst and above 80 % CPU they queue, and a noisy neighbour holds them up."""
        noise = self.noise
        spread = 1.0 + 0.07 * noise.smooth("load", time_ms, 400) + 0.08 * noise.smooth("load base", time_ms, 40_000)
        waiting = 0.02 * noise.bursts("load", time_ms, 1_200, self._wait_chance) + 0.006 * bursts  # disks, locks
        queued = np.maximum(cpu - 80.0, 0.0) / 20.0
        load: Floats = self.cores * (cpu / 100.0 * spread + waiting + 0.8 * queued * queued + 0.5 * strain.stolen)
        return np.maximum(load * (1.0 + 0.04 * noise.white("load sample", time_ms[:, None])), 0.0)

    def _traffic(self, time_ms: Ints, metrics: dict[str, Floats], strain: Strain, gc: Floats) -> dict[str, Floats]:
        tick = time_ms[:, None]

        def varied(name: str, spread: float) -> Floats:
            return np.maximum(1.0 + spread * self.noise.white(name, tick), 0.1)

        work, memory = metrics["cpu_percent"] / 100.0, metrics["memory_percent"] / 100.0
        crowded = work * work * work * work
        disk = 1.0 + 0.25 * self.noise.levels("disk io level", time_ms, 10_000)
        disk += self.noise.bursts("disk io", time_ms, 1_200, self._wait_chance)
        return {
            "disk_io_mb_s": self._io[0] * (0.05 + 0.4 * work + 0.06 * disk) * varied("disk io", 0.2),
            "net_in_mb_s": self._io[1] * (0.02 + 0.9 * work) * varied("net in", 0.15),
            "net_out_mb_s": self._io[2] * (0.02 + 0.9 * work) * varied("net out", 0.15),
            "latency_ms": self._latency * (1.0 + 2.0 * crowded + 2.5 * strain.stress) * varied("latency", 0.08),
            "error_rate": (0.001 + 0.004 * crowded + 0.05 * strain.stress * strain.stress) * varied("errors", 0.25),
            "gc_pause_ms": (4.0 + 120.0 * memory * memory * memory * memory) * (0.6 + 0.8 * gc) * varied("gc", 0.15),
        }


def _below(values: Floats, limit: float) -> Floats:
    """Values bent so that they stay between 0.5 and ``limit`` - 2: only incidents breach."""
    knee, room = limit - 18.0, 16.0
    over = np.maximum(values - knee, 0.0)
    return np.maximum(np.minimum(values, knee) + over * room / (over + room), 0.5)


def _switch_off(metrics: dict[str, Floats], off: Mask) -> None:
    """A server that restarts does nothing; what nobody could measure is missing."""
    for name in ("cpu_percent", "memory_percent", "load_average", "disk_io_mb_s", "net_in_mb_s", "net_out_mb_s"):
        metrics[name][off] = 0.0
    for name in ("latency_ms", "error_rate", "gc_pause_ms"):
        metrics[name][off] = np.nan


def status_of(
    time_ms: Ints, metrics: dict[str, Floats], limits: dict[str, float], masks: tuple[Mask, Mask, Mask]
) -> Codes:
    """[T, S] the status that follows from the numbers; a later rule wins over an earlier one.

    Args:
        time_ms: [T].
        metrics: [T, S] by name.
        limits: breach threshold of each percentage.
        masks: [T, S] in maintenance, off, recovering.
    """
    resting, off, recovering = masks
    cpu = metrics["cpu_percent"]
    hour, day = time_ms // HOUR_MS % 24, (time_ms - MONDAY_MS) // DAY_MS % 7
    morning = ((hour >= MORNING_HOURS.start) & (hour < MORNING_HOURS.stop) & (day < 5))[:, None]
    status = np.full(cpu.shape, HEALTHY, np.int16)
    status[cpu < IDLE_CPU] = IDLE
    status[morning & (cpu >= MORNING_CPU)] = MORNING
    status[cpu >= HEAVY_CPU] = HEAVY
    status[recovering] = RECOVERY
    status[resting] = MAINTENANCE
    for name, limit in limits.items():
        status[metrics[name] >= limit] = CRITICAL
    status[off] = OFFLINE
    return status
