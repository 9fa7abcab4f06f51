"""One session with the broker: from the login until the connection ends.

Rules (numbers as in ARCHITECTURE.md):
  1. A message is acknowledged only after the commit of its result; a refused one before it is answered, so that an
     answer that the broker does not allow cannot bring the same message back for ever.
 12. Bounded: what is taken and not acknowledged (`mqtt_client`), what waits to go out (`mqtt_postings`). Answers that
     the broker takes slowly hold back what would cause more of them.
  * Handing in never waits for a confirmation of the broker: that can be behind what is to be handed in.
  * What arrives is taken from the first moment: a resumed session sends before anybody subscribes.
  * What has arrived when the connection ends is still handed in. Its acknowledgement is lost with the connection,
    and what the broker sends again is a redelivery.
  * At a stop, what is being committed is committed and acknowledged, what there is to tell is told, within a bound.
  * Subscribed at every connection, even if the session is there: some brokers lose a shared subscription.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from ssm_status_reporter.domain.limits import (
    MQTT_FAREWELL_SECONDS_MAX,
)
from ssm_status_reporter.domain.result import Refusal, Result
from ssm_status_reporter.ports import Clock, Intake
from ssm_status_reporter.sources.mqtt_client import BrokerClient
from ssm_status_reporter.sources.mqtt_postings import Postings
from ssm_status_reporter.sources.mqtt_topics import (
    Backlog,
    Message,
    Posting,
    Repeated,
    Stray,
    Topics,
    judged,
    offline,
    online,
    rejection,
)
from ssm_status_reporter.sources.mqtt_trouble import BrokerError, Trouble
from ssm_status_reporter.sources.quoting import shortened

log = structlog.get_logger()


class Said:
    """What is worth saying once in the life of the daemon, not once a connection."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def once(self, event: str, **fields: object) -> None:
        """Log it as a warning, unless it was."""
        if event not in self._said:
            self._said.add(event)
            log.warning(event, **fields)


class Session:
    """Serves one connected client until its connection ends."""

    def __init__(
        self,
        client: BrokerClient,
        topics: Topics,
        clock: Clock,
        intake: Intake,
        postings: Postings,
        said: Said,
        stopping: asyncio.Event,
    ) -> None:
        self._client = client
        self._topics = topics
        self._clock = clock
        self._intake = intake
        self._postings = postings
        self._said = said
        self._stopping = stopping
        self._backlog = Backlog(clock.now().steady_ms if client.session_present else None)
        # Tasks of their own: what is being committed, or told, when the daemon stops is finished (`_leave`).
        self._dealing: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    async def serve(self, subscribed: Callable[[], None]) -> Trouble:
        """Hand in and publish. Returns why the connection ended; calls ``subscribed`` once results can arrive."""
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(self._speak(subscribed))
            await self._hand_in()
            speaking.cancel()
        await asyncio.gather(
            *self._unfinished(), return_exceptions=True
        )  # the connection has ended, and so do they
        if self._client.is_given_up:
            self._postings.give_up()
        else:
            self._postings.interrupt()
        return self._client.ended.result()

    async def say_farewell(self) -> None:
        """For when `serve` was cancelled: finish, say ``offline`` and leave, within a bound.

        If the broker does not take it, its last will says the same.
        """
        # Not asyncio.timeout: in a task that was cancelled before, it raises CancelledError up to Python 3.11.2.
        leaving = asyncio.ensure_future(self._leave())
        try:
            await asyncio.wait({leaving}, timeout=MQTT_FAREWELL_SECONDS_MAX)
        finally:
            leaving.cancel()
            (error,) = await asyncio.gather(leaving, return_exceptions=True)
        if isinstance(error, asyncio.CancelledError):
            error = BrokerError(Trouble("too slow"))
        if isinstance(error, BrokerError):
            log.info("the broker was not told of the stop: it finds out by itself", reason=error.trouble.reason)
        elif error is not None:
            raise error

    async def _leave(self) -> None:
        await asyncio.gather(*self._unfinished())
        while self._postings.at_hand():
            await self._tell()
        await self._post((self._offline(),))
        await self._client.disconnect()

    async def _speak(self, subscribed: Callable[[], None]) -> None:
        """Subscribe, then publish whatever there is to tell."""
        client, topics = self._client, self._topics
        try:
            if not await client.take(topics.subscription, topics.outgrown):
                self._said.once(
                    "the broker grants QoS 0 only: a result can get lost on its way",
                    topic=topics.subscription,
                    hint="let the broker grant QoS 1",
                )
            self._backlog.busy(self._clock.now())
            await self._post((online(topics, self._clock.now().wall_ms),))
            subscribed()
            while True:
                await self._postings.next()
                self._telling = asyncio.create_task(self._tell())
                await asyncio.shield(self._telling)
        except BrokerError as error:
            client.abort(error.trouble)

    async def _tell(self) -> None:
        await self._post(self._postings.at_hand())
        self._postings.confirm()

    def _unfinished(self) -> "list[asyncio.Task[None]]":
        return [task for task in (self._dealing, self._telling) if task is not None]

    async def _hand_in(self) -> None:
        """Take what arrives until the connection has ended and everything of it is handed in."""
        while messages := await self._client.arrivals():
            if self._stopping.is_set():
                continue  # not acknowledged: the broker sends it again
            self._dealing = asyncio.create_task(self._deal_with(messages))
            await asyncio.shield(self._dealing)
            if self._postings.is_crowded:
                await self._client.while_it_reads(self._postings.thinned())

    async def _deal_with(self, messages: list[Message]) -> None:
        """Commit, acknowledge, then answer what is refused."""
        results: list[Result] = []
        refused: list[tuple[Message, Refusal]] = []
        for message in messages:
            match judged(message, self._topics, redelivered=self._backlog.holds(message)):
                case Result() as result:
                    results.append(result)
                case Refusal() as refusal:
                    refused.append((message, refusal))
                case Stray():
                    self._say_stray(message)
                case Repeated():
                    self._say_repeated(message)
        if results:
            await self._intake.observe(results)
        self._client.settle(messages)
        self._backlog.busy(self._clock.now())
        if refused:
            self._refuse(refused)

    def _refuse(self, refused: list[tuple[Message, Refusal]]) -> None:
        self._intake.count_refused(len(refused))
        for message, refusal in refused:
            log.warning(
                "result refused", topic=shortened(message.topic), field=refusal.field, reason=refusal.reason
            )
            answer = rejection(self._topics, message, refusal)
            if answer is not None:
                self._postings.add(answer)

    async def _post(self, postings: Sequence[Posting]) -> None:
        try:
            await self._client.post(postings)
        finally:  # some brokers refuse it and end the connection at once
            if self._client.denied is not None:
                self._said.once(
                    "a publication was refused",
                    reason=self._client.denied.reason,
                    hint=f"let this client write {self._topics.of('+', 'outcomes')}, "
                    f"{self._topics.of('+', 'rejected')} and {self._topics.reporter}",
                )

    def _offline(self) -> Posting:
        return offline(self._topics, self._clock.now().wall_ms)

    def _say_stray(self, message: Message) -> None:
        self._intake.count_refused(1)
        self._said.once(
            "a message arrived that is for no topic of this configuration: such ones are dropped",
            topic=shortened(message.topic),
            hint=f"an earlier configuration subscribed to it; publish to {self._topics.subscription}",
        )

    def _say_repeated(self, message: Message) -> None:
        self._said.once(
            "retained results are old ones, and are not taken",
            topic=shortened(message.topic),
            hint="publish results without the retain flag",
        )
