"""The rules of event time and windows as plainly as they can be said: one event at a time, one dict a server."""

import math
from collections import defaultdict
from typing import Any

import numpy as np

from schemas.batch import EventBatch
from schemas.contract import Contract


class ReferencePartition:
    """The same function of the log as ``models.partition.Partition``, written without a thought for speed."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.s = contract.settings
        self.inputs = len(contract.inputs)
        self.latest = -math.inf
        self.open: dict[tuple[str, int], list[tuple[int, int, Any]]] = defaultdict(list)
        self.windows: dict[str, list[dict[str, Any]]] = {}
        self.steps: list[dict[str, Any]] = []
        self.forecasts: list[dict[str, Any]] = []
        self.late: list[int] = []

    def event(self, batch: EventBatch, row: int, offset: int, record_time: int) -> None:
        time, key = int(batch.time[row]), batch.keys[row]
        step = time // self.contract.step_ms
        if self._closed(step):
            self.late.append(offset)
            return
        self.open[key, step].append((time, offset, batch.take([row])))
        self.latest = max(self.latest, min(time, record_time))
        for name, index in sorted((k for k in self.open if self._closed(k[1])), key=lambda k: k[1]):
            self._close(name, index, self.open.pop((name, index)), offset)

    def _closed(self, step: int) -> bool:
        return (step + 1) * self.contract.step_ms <= self.latest - self.s.allowed_lateness_seconds * 1000

    def _close(self, key: str, step: int, events: list[tuple[int, int, Any]], closer: int) -> None:
        window = self.windows.get(key, [])
        if window and step - window[-1]["step"] - 1 > self.s.max_gap_steps:
            window = []
        while window and window[-1]["step"] < step - 1:
            last = window[-1]
            held = dict(last, step=last["step"] + 1, count=0, held=True, closer=closer)
            held["held_inputs"] = [not math.isnan(v) for v in last["reals"][: self.inputs]]
            window.append(held)
            self.steps.append(dict(held, key=key))
        latest = max(events, key=lambda e: (e[0], e[1]))[2]
        reals, carried = [], []
        for column in range(len(self.contract.reals)):
            values = [e[2].reals[0, column] for e in events if not math.isnan(e[2].reals[0, column])]
            total = 0.0
            for value in values:
                total += value
            reals.append(total / len(values) if values else math.nan)
        for column in range(self.inputs):
            hold = math.isnan(reals[column]) and bool(window) and not math.isnan(window[-1]["reals"][column])
            if hold:
                reals[column] = window[-1]["reals"][column]
            carried.append(hold)
        row = {
            "step": step, "count": len(events), "held": False, "held_inputs": carried, "closer": closer,
            "reals": reals, "enums": latest.enums[0].tolist(), "labels": latest.labels[0].tolist(),
        }  # fmt: skip
        window.append(row)
        self.windows[key] = window
        self.steps.append(dict(row, key=key))
        complete = [w for w in window if not any(math.isnan(v) for v in w["reals"][: self.inputs])]
        if len(complete) >= self.s.min_encoder_steps and (step + 1) % self.s.forecast_every_steps == 0:
            self.forecasts.append(self._forecast(key, step, complete))

    def _forecast(self, key: str, step: int, complete: list[dict[str, Any]]) -> dict[str, Any]:
        seen = complete[-self.s.encoder_steps :]
        categories, statics = len(self.contract.categories), len(self.contract.statics)
        at = {w["step"]: w["reals"] for w in complete}
        wanted = range(step - len(seen) + 1, step + self.s.horizon_steps + 1) if "season_lag" in self.s.known else []
        targets, last = len(self.contract.targets), complete[-1]["reals"]
        lag = [at.get(w - self.s.season_steps, last)[:targets] for w in wanted]
        return {
            "key": key, "step": step, "length": len(seen), "held": sum(w["held"] for w in seen),
            "reals": np.array([w["reals"][: self.inputs] for w in seen], np.float32),
            "categories": np.array([w["enums"][:categories] for w in seen]).reshape(len(seen), categories),
            "statics": seen[-1]["enums"][categories : categories + statics],
            "lag": np.array(lag, np.float32),
        }  # fmt: skip
