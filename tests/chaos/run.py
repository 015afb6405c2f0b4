"""One run: load and disturbances together, then the undisturbed group over the same log, then both compared."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import structlog

from devstack import Stack
from tests.chaos.compare import compare
from tests.chaos.fleet import Fleet
from tests.chaos.load import Load, make_events
from tests.chaos.members import Member, complaints
from tests.chaos.outputs import count, read_outputs, wait_until_stable
from tests.chaos.report import Report
from tests.chaos.scene import PARTITIONS, Scene
from tests.chaos.schedule import Counts, Disturbance, schedule
from tests.chaos.silence import Subscriber, longest_silence

log = structlog.get_logger(__name__)
_DRAIN_SECONDS = 1_800  # 500,000 events on a busy machine
_IDLE_SECONDS = "3"
_MORE_STEPS, _WARM_UP_SECONDS, _FIRST_SECONDS = 4, 5.0, 90.0
_REST_SECONDS = 10  # for the load that is left when the last disturbance is over


@dataclass(frozen=True, slots=True)
class Plan:
    """How large, and how rough.

    Attributes:
        options: more arguments for each member, such as ``-X key=value``.
    """

    events: int = 500_000
    servers: int = 200
    seed: int = 0
    counts: Counts = field(default_factory=Counts)
    guarantee: str = "exactly_once"
    options: tuple[str, ...] = ()


def run(plan: Plan, stack: Stack, folder: Path, name: str = "chaos") -> Report:
    """Do all of it.

    Args:
        plan: what.
        stack: where.
        folder: for files and logs.
        name: of the input topic; new on this broker.

    Raises:
        MemberFailedError: a member ended by itself, or not in order when asked to.
    """
    scene = Scene(stack, name, folder, plan.guarantee, plan.options)
    load = Load(scene, make_events(scene.contract, plan.servers, plan.events, plan.seed))
    fleet, subscriber = Fleet(scene), Subscriber(scene.kafka, scene.disturbed.topics.forecasts)
    with _cleared(fleet, load, subscriber):
        fleet.start()
        load.warm_up(scene.contract.settings.min_encoder_steps + _MORE_STEPS, _WARM_UP_SECONDS)
        # Earlier there is no window to restore and no forecast to wait for.
        fleet.wait(lambda: len(subscriber.seen()) == PARTITIONS, _FIRST_SECONDS)
        _disturb(fleet, load, schedule(plan.counts, plan.seed))
        load.finish(_REST_SECONDS)
        ended = time.monotonic()
        fleet.stop()
        _drain(scene)
        hidden = wait_until_stable(scene.kafka, scene.disturbed.topics)
        return _report(plan, scene, fleet, subscriber, ended=ended, hidden=hidden)


@contextmanager
def _cleared(fleet: Fleet, load: Load, subscriber: Subscriber) -> Iterator[None]:
    """Whatever fails: nothing of it goes on."""
    try:
        yield
    finally:
        fleet.discard()
        load.abandon()
        subscriber.close()


def _disturb(fleet: Fleet, load: Load, disturbances: list[Disturbance]) -> None:
    """One after the other; the rest of the load is spread over the rest of them, as long as they really take."""
    planned_so_far, began = 0.0, time.monotonic()
    for number, disturbance in enumerate(disturbances):
        left = sum(d.planned_seconds for d in disturbances[number:])
        slower = max(1.0, (time.monotonic() - began) / planned_so_far) if planned_so_far else 1.0
        load.spread(left * slower)
        fleet.disturb(disturbance)
        planned_so_far += disturbance.planned_seconds
        log.info("load", sent=load.sent, disturbances=f"{number + 1} of {len(disturbances)}")


def _drain(scene: Scene) -> None:
    """What is left of the disturbed group's work, and all of the undisturbed group's, at the same time: two cores."""
    began = time.monotonic()
    members = [
        Member.start(scene, group, instance, "--until-idle", _IDLE_SECONDS)
        for group, instance in ((scene.calm, "calm"), (scene.disturbed, "drain"))
    ]
    try:
        for member in members:
            member.wait(_DRAIN_SECONDS)
            log.info("drained", member=member.instance, seconds=round(time.monotonic() - began, 1))
    finally:
        for member in members:
            member.discard()


def _report(plan: Plan, scene: Scene, fleet: Fleet, subscriber: Subscriber, *, ended: float, hidden: float) -> Report:
    seen = subscriber.close()
    calm, disturbed = (read_outputs(scene.kafka, g.topics, scene.contract) for g in (scene.calm, scene.disturbed))
    moments = [*(happened.at for happened in fleet.happened), ended]
    spans = zip(fleet.happened, pairwise(moments), strict=True)
    gaps = [(happened.kind, longest_silence(seen, *span)) for happened, span in spans]
    uncommitted, committed = (
        count(scene.kafka, scene.disturbed.topics, isolation) for isolation in ("read_uncommitted", "read_committed")
    )
    return Report(
        guarantee=plan.guarantee,
        events=plan.events,
        verdicts={
            name: compare(getattr(calm, name), getattr(disturbed, name)) for name in ("forecasts", "steps", "dlq")
        },
        gaps=gaps,
        killed_while=fleet.killed_while,
        refused=calm.dlq,
        aborted=uncommitted - committed,
        hidden_seconds=hidden,
        complaints=complaints(scene.folder),
    )
