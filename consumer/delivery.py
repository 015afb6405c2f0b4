"""How records and input offsets reach the broker: in one transaction, or at least once.

Exactly once (KIP-98, KIP-447): the records of a round and the offsets they were made from are one transaction of a
producer that is fenced by its ``transactional.id``; the group's metadata are read anew for each, so that a member that
lost its partitions cannot commit. Errors come in three kinds (librdkafka, ``rd_kafka_error_t``) and each is acted on:
retriable ones are asked again, abortable ones end the transaction and the same records are written again later, after
fatal ones the producer is made anew and every partition is restored from what is committed: whether the last
transaction was committed need not be guessed.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumer.calls import Calls, StuckError
from consumer.messages import Outgoing
from consumer.options import AT_LEAST_ONCE, ServiceOptions
from consumer.outbox import GivenUpError, Outbox, cannot_publish, hopeless
from schemas.errors import FleetcastError

log = structlog.get_logger(__name__)
TRANSACTION_TIMEOUT_MS = 15_000
_LONGEST_TRANSACTION_MS = 120_000
_CALL_SECONDS = 1.0
_STUCK_SECONDS = 5.0  # beyond the transaction's time limit, which bounds every call
_MOST_FENCINGS = 4  # in a row: another process has the same instance id

Offsets = Callable[[dict[int, int]], list[TopicPartition]]  # from the end offsets of the steps, by partition


class AbortedError(Exception):
    """Nothing of the round is visible to who reads committed; write it again."""


class BrokenError(Exception):
    """The producer was made anew, and what became of the round is not known: restore from what is committed."""


class Committing(Protocol):
    """What delivery asks of the consumer (``consumer.inbox.Inbox``)."""

    def group_metadata(self) -> Any:
        """Of this moment."""

    def commit(self, offsets: list[TopicPartition]) -> bool:
        """Commit outside a transaction; False where it must be tried again."""


class Delivery(Protocol):
    """One round after another."""

    def start(self) -> None:
        """Be ready to write."""

    def write(self, records: Iterable[Outgoing], offsets: Offsets) -> None:
        """Deliver the records and commit the offsets.

        Raises:
            AbortedError, BrokenError: see there.
            FleetcastError: a record is refused for good, or the broker refuses us.
            GivenUpError: the time to wait is over.
        """

    def close(self) -> None:
        """Drop what is not delivered."""


class AtLeastOnce:
    """Records first, then the offsets: after an accident some records are there twice."""

    def __init__(
        self, config: dict[str, Any], steps_topic: str, inbox: Committing, while_waiting: Callable[[], None]
    ) -> None:
        """``config``: librdkafka properties. ``while_waiting``: see ``Outbox``."""
        # A broker that is away is waited for: records stay queued rather than fail (retries are endless by default).
        self._outbox = Outbox({"delivery.timeout.ms": 2_147_483_647, **config}, steps_topic, while_waiting)
        self._inbox = inbox

    def start(self) -> None:
        """Nothing to do."""

    def write(self, records: Iterable[Outgoing], offsets: Offsets) -> None:
        """See ``Delivery``."""
        self._outbox.begin()
        try:
            self._outbox.publish(records)
        except KafkaException as failure:
            raise cannot_publish(failure.args[0]) from None
        ends = self._outbox.flush()
        if self._outbox.failed:
            raise AbortedError(self._outbox.failed[0].str())
        if not self._inbox.commit(offsets(ends)):
            raise AbortedError("the offsets were not committed")

    def close(self) -> None:
        """See ``Delivery``."""
        self._outbox.close()


class ExactlyOnce:
    """Records and offsets in one transaction."""

    def __init__(
        self,
        config: dict[str, Any],
        steps_topic: str,
        inbox: Committing,
        while_waiting: Callable[[], None],
        *,
        transactional_id: str,
    ) -> None:
        """``config``: librdkafka properties. ``transactional_id``: the same for each life of this instance."""
        self._config = {
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            **config,
            "transactional.id": transactional_id,
        }
        self._steps_topic, self._inbox, self._while_waiting = steps_topic, inbox, while_waiting
        self._fencings = 0
        self._ready = False
        self._outbox: Outbox | None = None
        self._calls = Calls("transactions")

    def start(self) -> None:
        """Fence the former life of this instance; its open transaction, if any, is aborted.

        Raises:
            FleetcastError: the broker refuses us, or has no transactions.
        """
        outbox = Outbox(self._config, self._steps_topic, self._while_waiting)
        self._outbox = outbox
        self._ask(lambda: outbox.producer.init_transactions(_CALL_SECONDS * 5), self._while_waiting)
        self._ready = True

    def write(self, records: Iterable[Outgoing], offsets: Offsets) -> None:
        """See ``Delivery``."""
        try:
            if not self._ready:  # making it anew was given up last time
                self._rebuild()
            self._write(records, offsets)
        except BrokenError:
            self._ready = False
            with contextlib.suppress(AbortedError, GivenUpError):  # neither says what became of the round
                self._rebuild()
            raise
        except GivenUpError:  # the transaction is open still
            self._ready = False
            raise
        self._fencings = 0

    def close(self) -> None:
        """Abort what is open, if that is quick; else the next life does."""
        if self._outbox is not None:
            try:
                self._calls.make(lambda: self._abort(_CALL_SECONDS), _CALL_SECONDS + 1)
            except (KafkaException, StuckError) as failure:  # most often there is none
                log.debug("closing without an abort", reason=str(failure))
            self._drop()

    def _abort(self, seconds: float) -> None:
        if self._outbox is not None:
            self._outbox.producer.abort_transaction(seconds)

    def _drop(self) -> None:
        """Let the producer go, in the thread of its calls: one of them may never come back."""
        if self._outbox is not None:
            self._calls.close(self._outbox.close, _CALL_SECONDS)
            self._outbox = None

    def _write(self, records: Iterable[Outgoing], offsets: Offsets) -> None:
        assert self._outbox is not None  # noqa: S101  start() comes first
        outbox, producer = self._outbox, self._outbox.producer
        outbox.begin()
        self._ask(producer.begin_transaction, self._while_waiting)
        log.debug("transaction begins")
        try:
            self._publish(outbox, records)
            wanted = offsets(self._flush(outbox))
            self._send_offsets(outbox, wanted)
            log.debug("committing", partitions=len(wanted))
            self._ask(lambda: producer.commit_transaction(_CALL_SECONDS * 5), self._past_return)
            log.debug("transaction ended")
        except AbortedError as error:
            log.warning("transaction aborted; its records are written again", reason=str(error))
            self._ask(lambda: producer.abort_transaction(_CALL_SECONDS * 5), self._past_return)
            raise

    def _send_offsets(self, outbox: Outbox, wanted: list[TopicPartition]) -> None:
        group = self._inbox.group_metadata()
        self._ask(
            lambda: outbox.producer.send_offsets_to_transaction(wanted, group, _CALL_SECONDS * 5), self._while_waiting
        )

    def _past_return(self) -> None:
        """Wait on: the transaction is being committed or aborted already."""
        with contextlib.suppress(AbortedError):
            self._while_waiting()

    @staticmethod
    def _flush(outbox: Outbox) -> dict[int, int]:
        ends = outbox.flush()
        if outbox.failed:
            raise AbortedError(f"not delivered: {outbox.failed[0].str()}")
        return ends

    @staticmethod
    def _publish(outbox: Outbox, records: Iterable[Outgoing]) -> None:
        try:
            outbox.publish(records)
        except KafkaException as failure:
            _sort(failure)

    def _ask(self, call: Callable[[], Any], while_waiting: Callable[[], None]) -> None:
        """Make a call of the transactional interface until it is answered for good."""
        while True:
            try:
                self._calls.make(call, int(self._config["transaction.timeout.ms"]) / 1000 + _STUCK_SECONDS)
            except StuckError as stuck:
                log.warning("a call of the producer does not come back; the producer is made anew", reason=str(stuck))
                raise BrokenError(str(stuck)) from None
            except KafkaException as failure:
                _sort(failure, retriable=True)
                while_waiting()
            else:
                return

    def _rebuild(self) -> None:
        """A new producer under the same id; from the second time in a row on with more time for a transaction.

        Raises:
            FleetcastError: it was fenced again and again.
        """
        self._fencings += 1
        if self._fencings > _MOST_FENCINGS:
            raise FleetcastError(
                f"the producer {self._config['transactional.id']} was fenced {self._fencings} times in a row: "
                "another process runs with the same --instance-id"
            )
        if self._fencings > 1:
            timeout = min(2 * int(self._config["transaction.timeout.ms"]), _LONGEST_TRANSACTION_MS)
            self._config["transaction.timeout.ms"] = timeout
        self._drop()
        self._calls = Calls("transactions")
        self.start()


def delivery(
    options: ServiceOptions,
    kafka: dict[str, Any],
    steps_topic: str,
    inbox: Committing,
    while_waiting: Callable[[], None],
) -> Delivery:
    """Of the guarantee that the options name; not started."""
    if options.guarantee == AT_LEAST_ONCE:
        return AtLeastOnce(kafka, steps_topic, inbox, while_waiting)
    name = f"{options.group_id}.{options.instance_id}"
    return ExactlyOnce(kafka, steps_topic, inbox, while_waiting, transactional_id=name)


def _sort(failure: KafkaException, *, retriable: bool = False) -> None:
    """Raise what an error of the transactional interface means; return where it is to be asked again."""
    error = failure.args[0]
    if hopeless(error):
        raise cannot_publish(error) from None
    if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001  its public name in the bindings
        log.warning("the producer is of no more use and is made anew", reason=error.str())
        raise BrokenError(error.str()) from None
    if error.txn_requires_abort():
        raise AbortedError(error.str()) from None
    if not (retriable and error.retriable()):
        raise cannot_publish(error) from None


__all__ = ["AbortedError", "AtLeastOnce", "BrokenError", "Delivery", "ExactlyOnce", "GivenUpError", "delivery"]
