"""The router: takes what a predictor takes, has the right version answer it, and counts what comes of it.

A plain ASGI application; nothing here waits for the state, the log, or a version that is not the one that answers. Whatever
a version other than the champion does (hang, crash, answer what is no answer), the champion answers in its place, and it counts
as that version's error.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock.config.rollout import Bandit, Rollout, Shadow
from penstock.console import say
from penstock.http_direct import Headers
from penstock.keys import Keys, Purpose
from penstock.requests import REQUEST_ID, new_request_id
from penstock.rollout.answers import HEAD, InvalidError, outputs, rows_asked
from penstock.rollout.decision import Decision, RefusedError, decide
from penstock.rollout.flags import KILL, Flags
from penstock.rollout.fleet import Fleet, Replica
from penstock.rollout.outcomes import Outcomes
from penstock.rollout.records import Records
from penstock.rollout.settings import Settings
from penstock.rollout.shared import Shared
from penstock.rollout.state import Attribution, Exposure
from penstock.rollout.upstream import CONNECT, Answer, BrokenError, Outcome, predictor_key

__all__ = ["CLIENTS", "Refusal", "Reply", "Router", "defect"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENTS = Purpose("client", b"penstock-client", "penstock rollout keys add CLIENT --file …")
LONGEST_USER = 512
TEND = 1.0
MOST = 1e12  # of a number that is decided by
FORWARDED = (HEAD, b"traceparent", b"content-encoding")
CARRIED = (b"x-model-version", b"inference-header-content-length", b"retry-after")
AGAIN = 0.01  # seconds until a champion none of whose replicas could be reached is asked again
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
JSON = b"application/json"


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """Why a request gets no prediction.

    Attributes:
        status: Of HTTP.
        reason: For the metrics.
    """

    def __init__(self, status: int, reason: str, words: str) -> None:
        super().__init__(words)
        self.status, self.reason = status, reason


def _logged(error: BaseException) -> None:
    say("router: a defect:\n" + "".join(traceback.format_exception(error)))


def defect(error: BaseException) -> Refusal:
    """What nobody has thought of is told in the log, and not to whoever has asked."""
    _logged(error)
    return Refusal(500, "defect", "this request cannot be answered; the log says why")


class Metrics:
    """What the router counts for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.answers = Counter(
            "penstock_router_answers", "Answers, by arm and status.", ["arm", "status"], registry=registry
        )
        self.errors = Counter(
            "penstock_router_arm_errors",
            "What an arm other than the champion failed in; the champion answered in its place.",
            ["arm", "reason"],
            registry=registry,
        )
        self.mirrored = Counter(
            "penstock_router_mirrored", "Requests that shadows saw.", ["arm", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "penstock_router_seconds",
            "From the whole request to the answer.",
            ["arm"],
            buckets=SECONDS,
            registry=registry,
        )
        self.version = Gauge(
            "penstock_router_settings_version",
            "Version of the settings in force here.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.down = Gauge(
            "penstock_router_state_down",
            "1 while the state does not answer, and what was last known is in force.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.lost = Gauge(
            "penstock_router_lost",
            "Attributions and log records that were left out since it began, for want of room.",
            registry=registry,
            multiprocess_mode="livesum",
        )


@dataclass(slots=True)
class Call:
    """One request on its way.

    Attributes:
        path: As it came.
        is_plain: With ``rows``; else of the Open Inference Protocol.
        body: Whole.
        request: Its id.
        user: Whose it is, hashed; None if it does not say.
        user_in_clear: The same as it came; the request log hashes it by its own key.
        began: On the monotonic clock, when it had come whole.
        head: What predictors are sent before the body.
        head_bytes: Of the body, how many are JSON, if tensors follow in binary.
        told: The body out of JSON, once somebody has wanted it.
    """

    path: str
    is_plain: bool
    body: bytes
    request: str
    user: str | None
    user_in_clear: str | None
    began: float
    head: bytes
    head_bytes: int | None = None
    told: Any = None
    is_read: bool = False

    def read(self) -> Any:
        """The body out of JSON; None if it is none, which the predictor will say."""
        if not self.is_read:
            self.is_read = True
            with contextlib.suppress(orjson.JSONDecodeError):
                self.told = orjson.loads(self.body)
        return self.told

    @property
    def rows(self) -> int | None:
        """How many it has, if that can be told."""
        if self.head_bytes is not None:
            with contextlib.suppress(orjson.JSONDecodeError):
                return rows_asked(orjson.loads(self.body[: self.head_bytes]), is_plain=self.is_plain)
        return rows_asked(self.read(), is_plain=self.is_plain)


@dataclass(slots=True)
class Reply:
    """What a client is told.

    Attributes:
        status: Of HTTP.
        headers: All of them.
        body: Whole.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


Done = Callable[[Reply], None]


@dataclass(slots=True)
class Exchange:
    """A request that is being answered.

    Attributes:
        call: It.
        settings: In force when it came.
        decision: Who is to answer.
        must: Nobody else may.
        done: Takes the answer, once.
        arm: Who is being asked.
        began: On the monotonic clock, when that arm was asked.
        said: What it says of each row, once that has been looked at.
        failed: What was wrong with the arm that was to answer; the champion stands in for it.
    """

    call: Call
    settings: Settings
    decision: Decision
    must: bool
    done: Done
    arm: str = "none"
    began: float = 0.0
    said: list[Any] | None = None
    failed: str | None = None

    @property
    def counts(self) -> bool:
        """It is the arm's own request."""
        return self.failed is None


@dataclass
class Mirror:
    """What waits to be shown to a challenger."""

    queue: asyncio.Queue[tuple[Call, Decision]]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Router:
    """The ASGI application.

    Args:
        view: What is declared.
        shared: The state, followed.
        back: What answers everything that is no prediction: console, operators, metrics.
        records: Where exchanges are logged; None for nowhere.
        flags: Feature flags; None for none.
        registry: Of the metrics.
    """

    def __init__(
        self,
        view: Rollout,
        shared: Shared,
        *,
        back: App | None = None,
        records: Records | None = None,
        flags: Flags | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.view, self.shared, self.records, self.flags = view, shared, records, flags
        self.limits = view.router
        self.metrics = Metrics(registry or CollectorRegistry())
        self.fleet = Fleet(view.router, view.ports, predictor_key(view.router))
        self.outcomes = Outcomes(view, shared, records)
        self.back: App = back or _nowhere
        self.keys = None if view.router.keys is None else Keys(Path(view.router.keys), CLIENTS)
        self.mirrors: dict[str, Mirror] = {}
        self.versions: dict[str, str] = {}  # of arms, as their predictors say
        self._plain = f"/v1/models/{view.model}/predict"
        self._infer = f"/v2/models/{view.model}/infer"
        self._of_model = f"/v2/models/{view.model}"
        self._answer_within = view.router.timeouts.answer.total_seconds()
        self._arm_within = view.router.timeouts.arm.total_seconds()
        self._hash_key = hashlib.blake2b(view.salt.encode(), digest_size=32).digest()
        self._children: dict[str, Any] = {}
        self.draining = False  # it is told to stop
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        shared.changed = self.apply
        self.apply(shared.settings)

    def apply(self, settings: Settings) -> None:
        """Bring what is here in line with settings."""
        self.fleet.apply(settings)
        self.metrics.version.set(settings.version)
        strategy = settings.plan.strategy
        wanted = (
            {arm for arm in strategy.challengers if arm not in settings.off}
            if isinstance(strategy, Shadow)
            else set()
        )
        for arm in set(self.mirrors) - wanted:
            for task in self.mirrors.pop(arm).tasks:
                task.cancel()
        for arm in wanted - set(self.mirrors):
            assert isinstance(strategy, Shadow)
            mirror = Mirror(asyncio.Queue(strategy.queue))
            mirror.tasks = [asyncio.create_task(self._show(arm, mirror)) for _ in range(strategy.concurrency)]
            self.mirrors[arm] = mirror

    async def tend(self) -> None:
        """Every second until cancelled: flags, which version each arm has, gauges. What goes wrong in one is told, and hinders no other."""
        while True:
            for part in (self._look_at_flags, self._ask_versions, self._gauge):
                try:
                    await part()
                except Exception as error:
                    _logged(error)
            await asyncio.sleep(TEND)

    async def _look_at_flags(self) -> None:
        if self.flags is not None:
            await asyncio.to_thread(self.flags.provider.look)

    async def _gauge(self) -> None:
        self.metrics.down.set(self.shared.is_down)
        self.metrics.lost.set(self.shared.tally.lost + (self.records.dropped if self.records else 0))

    async def _ask_versions(self) -> None:
        head = b"GET /v2/models/%b HTTP/1.1\r\naccept: application/json\r\n" % self.view.model.encode()
        found = {}
        for arm in list(self.fleet.arms):
            if arm not in self.fleet.arms:
                continue  # it has been taken out meanwhile
            with contextlib.suppress(BrokenError, TimeoutError, orjson.JSONDecodeError):
                answer = await self.fleet.next(arm).pool.ask(head, b"", TEND)
                told = orjson.loads(answer.body)
                versions = told.get("versions") if isinstance(told, dict) else None
                if isinstance(versions, list) and versions:
                    found[arm] = str(versions[0])
        self.versions = found

    async def close(self) -> None:
        """End what runs beside requests."""
        tasks = [task for mirror in self.mirrors.values() for task in mirror.tasks]
        tasks += self._tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.fleet.close()

    def predicts(self, path: str) -> bool:
        """Whether predictions are posted there."""
        return path in (self._plain, self._infer)

    # --- requests -------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if path.startswith(("/v1/", "/v2/models")):
            try:
                self.require_key(scope["headers"])
            except Refusal as refusal:
                await self._refused(send, refusal)
                return
        if method == "POST" and self.predicts(path):
            await self._predict(scope, receive, send, None)
        elif path.startswith("/v1/") and path != "/v1/outcomes":
            await self._refused(
                send, Refusal(404, "path", f"there is no {path}; the model here is {self.view.model}")
            )
        elif path == "/v1/outcomes":
            await self._outcomes(scope, receive, send)
        elif path.startswith("/v2"):
            await self._protocol(scope, receive, send)
        else:
            await self.back(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send, pinned: str | None) -> None:
        try:
            body = await self._whole(receive)
        except Refusal as refusal:
            await self._refused(send, refusal)
            return
        path = scope["path"]
        call = self.call(path, scope.get("raw_path") or path.encode(), scope["headers"], body)
        told: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.take(call, lambda reply: None if told.done() else told.set_result(reply), pinned)
        await _sent(send, await told)

    def call(self, path: str, target: bytes, headers: Headers, body: bytes) -> Call:
        """A request that has come whole.

        Args:
            path: Of its address, decoded.
            target: The same as it came; what follows a question mark is left out.
            headers: Names in lower case.
            body: Whole.
        """
        request = user = length = None
        content = b"application/json"
        extra = b""
        for name, value in headers:
            if name == b"x-request-id":
                request = value
            elif name == b"x-user-id":
                user = value
            elif name == b"content-type":
                content = value
            elif name in FORWARDED:
                extra += b"%b: %b\r\n" % (name, value)
                length = value if name == HEAD else length
        if request is None or not REQUEST_ID.fullmatch(request.decode("latin-1")):
            request = new_request_id().encode()
        head = (
            b"POST %b HTTP/1.1\r\ncontent-type: %b\r\nx-request-id: %b\r\naccept: application/json\r\n%b"
            % (target.partition(b"?")[0], content, request, extra)
        )
        hashed = clear = None
        if user is not None and 0 < len(user) <= LONGEST_USER:
            hashed = hashlib.blake2b(user, digest_size=16, key=self._hash_key).hexdigest()
            clear = user.decode("utf-8", "surrogateescape")
        told = request.decode("latin-1")
        size = int(length) if length is not None and length.isdigit() and len(length) <= 12 else None
        return Call(path, path == self._plain, body, told, hashed, clear, time.monotonic(), head, size)

    async def _whole(self, receive: Receive, most: int | None = None) -> bytes:
        most = most or self.limits.body_bytes
        try:
            async with asyncio.timeout(self.limits.timeouts.body.total_seconds()):
                message = await receive()
                body: bytes = message.get("body", b"")
                if message.get("more_body"):
                    chunks, size = [body], len(body)
                    while message.get("more_body"):
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise Refusal(400, "gone", "the request did not come whole")
                        chunks.append(message.get("body", b""))
                        size += len(chunks[-1])
                        if size > most:
                            break
                    body = b"".join(chunks)
        except TimeoutError:
            raise Refusal(408, "slow", "the request did not come whole in time") from None
        if len(body) > most:
            raise Refusal(413, "large", f"the request has more than {most} bytes")
        return body

    def take(self, call: Call, done: Done, pinned: str | None = None) -> None:
        """Have a request answered, now or later; whatever happens, ``done`` is called once, on the event loop.

        Args:
            call: The request.
            done: Takes the answer.
            pinned: The arm that is to answer, whatever the strategy says.
        """
        settings = self.shared.settings
        try:
            decision = self._decided(settings, call, pinned)
        except Refusal as refusal:
            done(self.refusal(refusal))
            return
        except Exception as error:
            done(self.refusal(defect(error)))
            return
        exchange = Exchange(call, settings, decision, pinned is not None, done)
        try:
            if decision.arm == settings.champion:
                self._ask_champion(exchange)
            else:
                self._ask_other(exchange)
        except Exception as error:
            self._defect(exchange, error)

    def refusal(self, refusal: Refusal, arm: str = "none") -> Reply:
        """As an answer, counted."""
        self._child(self.metrics.answers, arm, str(refusal.status)).inc()
        return _reply(refusal.status, {"error": str(refusal)})

    def _finished(self, exchange: Exchange, answer: Answer) -> None:
        took = time.monotonic() - exchange.call.began
        exchange.done(_passed_on(answer, exchange.call.request, exchange.arm))
        # The answer is on its way before anything is counted: uvloop writes at the end of this turn.
        self._loop.call_soon(self._after, exchange, answer, took)

    def _after(self, exchange: Exchange, answer: Answer, took: float) -> None:
        self._counted(exchange.arm, answer.status, took)
        for mirror in exchange.decision.mirrors:
            self._shown(mirror, exchange.call, exchange.decision)
        self._kept(exchange, answer, took)

    def _aside(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """What has to wait, beside the loop's other work."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._defect(exchange, error)

        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def _guarded(
        self,
        first: Callable[[Exchange, Replica, Outcome], None],
        exchange: Exchange,
        replica: Replica,
        outcome: Outcome,
    ) -> None:
        try:
            first(exchange, replica, outcome)
        except Exception as error:
            self._defect(exchange, error)

    def _defect(self, exchange: Exchange, error: BaseException) -> None:
        exchange.done(self.refusal(defect(error), exchange.arm))

    def _decided(self, settings: Settings, call: Call, pinned: str | None) -> Decision:
        if pinned is not None:
            return Decision(pinned, None, None, (), f"{settings.stage}-pinned")
        if self.flags is not None:
            key = call.user_in_clear or call.request
            attributes = self._attributes(call) if self.flags.targets else {}
            if not self.flags.is_on(KILL, key, default=True, attributes=attributes):
                raise Refusal(
                    503, "switched off", f"predictions of {self.view.model} are switched off by a flag"
                )
            chosen = self.flags.route(key, attributes)
            if chosen is not None and chosen in settings.plan.arms and chosen not in settings.off:
                # Chosen, not drawn: it tells nothing of what the arms are worth to others.
                return Decision(chosen, None, None, (), f"{settings.stage}-flagged")
        try:
            decision = decide(
                settings,
                self.view.salt,
                call.request,
                call.user,
                self.shared.policy,
                self._context(settings, call),
            )
        except RefusedError:
            raise Refusal(400, "user", "say whose request it is: the header X-User-Id is missing") from None
        return decision

    @staticmethod
    def _attributes(call: Call) -> dict[str, Any]:
        """What targeting may ask for: the columns of the first row."""
        told = call.read()
        try:
            row = told["rows"][0] if call.is_plain else {i["name"]: i["data"][0] for i in told["inputs"]}
            return {str(name): value for name, value in row.items() if value is not None}
        except (KeyError, IndexError, TypeError, AttributeError):
            return {}

    @staticmethod
    def _context(settings: Settings, call: Call) -> Sequence[float] | None:
        strategy = settings.plan.strategy
        if not isinstance(strategy, Bandit) or not strategy.context:
            return None
        told = call.read()
        try:
            row = told["rows"][0] if call.is_plain else {i["name"]: i["data"][0] for i in told["inputs"]}
        except (KeyError, IndexError, TypeError):
            return None
        if not isinstance(row, dict):
            return None
        found = [1.0]
        for name, feature in strategy.context.items():
            value = row.get(name)
            if isinstance(value, int | float) and abs(value) < MOST:  # not of not-a-number
                found.append((float(value) - feature.centre) / feature.scale)
            else:
                found.append(0.0)
        return found

    # --- arms -----------------------------------------------------------------------------------------

    def _ask_other(self, exchange: Exchange) -> None:
        """Ask an arm that is not the champion."""
        arm, stage = exchange.decision.arm, exchange.decision.stage
        self.shared.tally.add(stage, arm, "requests")
        if not exchange.must and not self.fleet.breakers[arm].lets():
            self._erred(arm, stage, "diverted")
            self._stand_in(exchange, "diverted")
            return
        exchange.arm, exchange.began = arm, time.monotonic()
        call, replica = exchange.call, self.fleet.next(arm)
        told = partial(self._guarded, self._other_first, exchange, replica)
        if not replica.pool.start(call.head, call.body, self._arm_within, told):
            self._aside(exchange, self._other(exchange))

    def _other_first(self, exchange: Exchange, replica: Replica, outcome: Outcome) -> None:
        if isinstance(outcome, BrokenError) and not outcome.heard:
            self._aside(exchange, self._other(exchange))  # it was closed while it was idle
        else:
            self._other_said(exchange, *self._judged(exchange.call, replica, outcome))

    async def _other(self, exchange: Exchange) -> None:
        left = exchange.began + self._arm_within - time.monotonic()
        self._other_said(exchange, *await self._tried(exchange.arm, exchange.call, left))

    def _other_said(
        self, exchange: Exchange, answer: Answer | None, said: list[Any] | None, failed: str | None
    ) -> None:
        arm, stage = exchange.arm, exchange.decision.stage
        if (breaker := self.fleet.breakers.get(arm)) is not None:
            breaker.told(well=failed is None or failed.startswith("status 4"))
        if failed is None and answer is not None:
            self.shared.tally.took(stage, arm, time.monotonic() - exchange.began)
            exchange.said = said
            self._finished(exchange, answer)
        elif exchange.must and answer is not None:
            self._finished(exchange, answer)  # whoever asks for a version gets what that says
        else:
            assert failed is not None
            if not failed.startswith("status 4"):  # whether that was the arm's fault, the champion will tell
                self._erred(arm, stage, failed)
            if exchange.must:
                words = f"{arm} does not answer: {failed}"
                exchange.done(self.refusal(Refusal(503, "version", words), arm))
            else:
                self._stand_in(exchange, failed)

    def _stand_in(self, exchange: Exchange, failed: str) -> None:
        exchange.failed = failed
        self._ask_champion(exchange)

    def _erred(self, arm: str, stage: str, failed: str) -> None:
        reason = failed.split(":", 1)[0]
        self.shared.tally.add(stage, arm, "errors")
        self.shared.tally.add(stage, arm, f"error {reason}")
        self._child(self.metrics.errors, arm, reason).inc()

    async def _tried(
        self, arm: str, call: Call, within: float
    ) -> tuple[Answer | None, list[Any] | None, str | None]:
        if arm not in self.fleet.arms:
            return None, None, "gone"
        replica = self.fleet.next(arm)
        outcome: Outcome
        try:
            outcome = await replica.pool.ask(call.head, call.body, within)
        except (TimeoutError, BrokenError) as error:
            outcome = error
        return self._judged(call, replica, outcome)

    def _judged(
        self, call: Call, replica: Replica, outcome: Outcome
    ) -> tuple[Answer | None, list[Any] | None, str | None]:
        """Of an arm that is not the champion: its answer, what it says of each row, and what is wrong with it."""
        if isinstance(outcome, TimeoutError):
            return None, None, "timeout"
        if isinstance(outcome, BrokenError):
            self.fleet.unreachable(replica)
            return None, None, f"connection: {outcome}"
        if outcome.status != 200:
            return outcome, None, f"status {outcome.status}"
        try:
            return outcome, outputs(outcome, call.rows, is_plain=call.is_plain), None
        except InvalidError as error:
            return None, None, f"invalid: {error}"

    def _ask_champion(self, exchange: Exchange) -> None:
        """Ask the champion, who stands in if another arm has failed."""
        champion = exchange.settings.champion
        if champion not in self.fleet.arms:
            champion = self.shared.settings.champion  # it has been replaced while the other was asked
        exchange.arm, exchange.began = champion, time.monotonic()
        counted = "requests" if exchange.counts else "stood_in"
        self.shared.tally.add(exchange.decision.stage, champion, counted)
        call, replica = exchange.call, self.fleet.next(champion)
        told = partial(self._guarded, self._champion_first, exchange, replica)
        left = call.began + self._answer_within - exchange.began
        if not replica.pool.start(call.head, call.body, left, told):
            self._aside(exchange, self._champion(exchange, None))

    def _champion_first(self, exchange: Exchange, replica: Replica, outcome: Outcome) -> None:
        if isinstance(outcome, Answer):
            self._champion_said(exchange, outcome)
            return
        if isinstance(outcome, BrokenError) and outcome.heard:
            self.fleet.unreachable(replica)
        self._aside(exchange, self._champion(exchange, outcome))

    async def _champion(self, exchange: Exchange, first: Outcome | None) -> None:
        """The champion's answer, whichever replica gives it, as long as there is time.

        Args:
            exchange: The request.
            first: What came of it when it was asked at once; None if it was not.
        """
        call, arm = exchange.call, exchange.arm
        deadline = call.began + self._answer_within
        is_late, is_away = isinstance(first, TimeoutError), False
        while not is_late and (left := deadline - time.monotonic()) > 0:
            if arm not in self.fleet.arms:
                arm = exchange.arm = self.shared.settings.champion  # it has been replaced meanwhile
            replica = self.fleet.next(arm)
            try:
                answer = await replica.pool.ask(call.head, call.body, left)
            except TimeoutError:
                if is_away and left < CONNECT:
                    break  # too little was left to tell one that is away from one that is slow
                is_late = True
            except BrokenError:
                is_away = True
                # It was killed, or is not there yet: another may be, and it will be again.
                self.fleet.unreachable(replica)
                await asyncio.sleep(AGAIN if len(self.fleet.arms.get(arm, ())) == 1 else 0)
                if all(one.until > time.monotonic() for one in self.fleet.arms.get(arm, ())):
                    await asyncio.sleep(AGAIN)
            else:
                self._champion_said(exchange, answer)
                return
        words, status = "no replica can be reached", 503
        if is_late:
            words, status = f"no answer within {self._answer_within:g} s", 504
        self._champion_erred(exchange, "timeout" if is_late else "connection")
        exchange.done(self.refusal(Refusal(status, "champion", f"{self.view.model}: {words}"), arm))

    def _champion_said(self, exchange: Exchange, answer: Answer) -> None:
        if answer.status >= 500:
            self._champion_erred(exchange, f"status {answer.status}")
        elif exchange.counts:
            took = time.monotonic() - exchange.began
            self.shared.tally.took(exchange.decision.stage, exchange.arm, took)
        self._finished(exchange, answer)

    def _champion_erred(self, exchange: Exchange, reason: str) -> None:
        if exchange.counts:
            self.shared.tally.add(exchange.decision.stage, exchange.arm, "errors")
            self.shared.tally.add(exchange.decision.stage, exchange.arm, f"error {reason}")

    # --- what follows an answer -----------------------------------------------------------------------

    def _kept(self, exchange: Exchange, answer: Answer, took: float) -> None:
        """Whose answer it was, for the outcome that may come; users; the log."""
        settings, call, decision = exchange.settings, exchange.call, exchange.decision
        arm, said, failed = exchange.arm, exchange.said, exchange.failed
        tally, kpi = self.shared.tally, settings.plan.kpi
        if failed is not None and failed.startswith("status 4") and answer.status < 400:
            self._erred(decision.arm, decision.stage, failed)
        if self.records is not None:
            propensity = decision.propensity
            if failed is not None:
                self.records.put(
                    call, decision.arm, "answer", None, took, propensity=propensity, status=failed
                )
                propensity = None
            self.records.put(call, arm, "answer", answer, took, propensity=propensity)
        if answer.status != 200 or kpi is None:
            return
        is_bandit = isinstance(settings.plan.strategy, Bandit)
        if failed is not None and is_bandit:
            return  # what the champion's answer is worth was not drawn with a known chance
        context = self._context(settings, call) if is_bandit else None
        found = None
        if kpi.source != "reward":
            if said is None:
                with contextlib.suppress(InvalidError):
                    said = outputs(answer, None, is_plain=call.is_plain)
            found = said
        # As assigned, whoever answered: else an arm that fails would be rid of those whom it fails.
        tally.attribute(
            Attribution(call.request, decision.arm, "answer", decision.stage, decision.unit, found, context)
        )
        if decision.unit is not None:
            tally.expose(Exposure(decision.stage, decision.arm, decision.unit))
        elif self.shared.enters:
            tally.add(decision.stage, decision.arm, "kpi_n")

    def _counted(self, arm: str, status: int, took: float) -> None:
        self._child(self.metrics.answers, arm, str(status)).inc()
        self._child(self.metrics.seconds, arm, "").observe(took)

    def _child(self, metric: Any, arm: str, other: str) -> Any:
        """A metric's child; to look one up by its labels costs more than to count."""
        key = f"{id(metric)}{arm}{other}"
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(arm, other) if other else metric.labels(arm)
        return found

    # --- shadows --------------------------------------------------------------------------------------

    def _shown(self, arm: str, call: Call, decision: Decision) -> None:
        mirror = self.mirrors.get(arm)
        if mirror is None:
            return
        try:
            mirror.queue.put_nowait((call, decision))
        except asyncio.QueueFull:
            self.shared.tally.add(decision.stage, arm, "left_out")
            self._child(self.metrics.mirrored, arm, "left_out").inc()

    async def _show(self, arm: str, mirror: Mirror) -> None:
        """Show a challenger what waits, and keep what it says."""
        within = self.limits.timeouts.shadow.total_seconds()
        tally = self.shared.tally
        while True:
            call, decision = await mirror.queue.get()
            began = time.monotonic()
            answer, said, failed = await self._tried(arm, call, within)
            took = time.monotonic() - began
            if failed is not None and failed.startswith("status 4"):
                failed = None  # the champion has refused it, too, or this shows in the comparison
            tally.add(decision.stage, arm, "requests")
            if failed is None:
                tally.took(decision.stage, arm, took)
            else:
                self._erred(arm, decision.stage, failed)
            self._child(self.metrics.mirrored, arm, "ok" if failed is None else failed.split(":", 1)[0]).inc()
            kpi = self.shared.settings.plan.kpi
            if said is not None and kpi is not None:
                tally.attribute(Attribution(call.request, arm, "shadow", decision.stage, None, said))
            if self.records is not None:
                self.records.put(call, arm, "shadow", answer, took, status=failed or "ok")

    # --- the rest of the data plane -------------------------------------------------------------------

    async def _protocol(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the Open Inference Protocol has besides ``infer``."""
        path, method = scope["path"].rstrip("/"), scope["method"]
        # As it came: decoded, it could hold what ends a line.
        target = (scope.get("raw_path") or path.encode()).partition(b"?")[0]
        inside = path.removeprefix(f"{self._of_model}/versions/").split("/")
        if path.startswith(f"{self._of_model}/versions/"):
            arm = self.shared_version(inside[0])
            if arm is None:
                await self._refused(
                    send, Refusal(404, "version", f"no arm has version {inside[0]} of {self.view.model}")
                )
            elif inside[1:] == ["infer"] and method == "POST":
                await self._predict(scope, receive, send, arm)
            else:
                await self._asked(send, arm, target)
        elif path == "/v2/health/live":
            await _sent(send, _reply(200, {"live": True}))
        elif path == "/v2/health/ready" or (
            method == "GET" and (path in {"/v2", self._of_model} or path.startswith(f"{self._of_model}/"))
        ):
            await self._asked(send, self.shared.settings.champion, target)
        else:
            await self._refused(
                send, Refusal(404, "path", f"there is no {path}; the model here is {self.view.model}")
            )

    def shared_version(self, version: str) -> str | None:
        """The arm that has a version, if one has that answers or may be asked besides."""
        settings = self.shared.settings
        known = self.versions.items()
        return next((arm for arm, found in known if found == version and arm not in settings.off), None)

    async def _asked(self, send: Send, arm: str, target: bytes) -> None:
        """What an arm's predictor says of itself."""
        head = b"GET %b HTTP/1.1\r\naccept: application/json\r\n" % target
        try:
            answer = await self.fleet.next(arm).pool.ask(head, b"", self._answer_within)
        except (BrokenError, TimeoutError):
            await self._refused(send, Refusal(503, "champion", f"{arm} does not answer"))
            return
        await _sent(send, _passed_on(answer, None, arm))

    async def _outcomes(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._refused(send, Refusal(405, "method", "outcomes are posted"))
            return
        try:
            status, told = await self.outcomes.take(await self._whole(receive))
        except Refusal as refusal:
            await self._refused(send, refusal)
            return
        await _sent(send, _reply(status, told))

    async def _refused(self, send: Send, refusal: Refusal) -> None:
        await _sent(send, self.refusal(refusal))

    def require_key(self, headers: Headers) -> None:
        """Let in whoever has a key, or everyone where none is asked for.

        Raises:
            Refusal: There is none, or it is nobody's.
        """
        if self.keys is not None and self.keys.whose(headers) is None:
            raise Refusal(401, "key", "a key is missing, or is none that is known here")


# --- bytes ------------------------------------------------------------------------------------------


def _passed_on(answer: Answer, request: str | None, arm: str) -> Reply:
    headers = [
        (b"content-type", answer.headers.get(b"content-type", JSON)),
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-arm", arm.encode()),
    ]
    if request is not None:
        headers.append((b"x-request-id", request.encode("latin-1")))
    headers += [(name, answer.headers[name]) for name in CARRIED if name in answer.headers]
    return Reply(answer.status, headers, answer.body)


def _reply(status: int, told: Any) -> Reply:
    body = orjson.dumps(told)
    headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return Reply(status, headers, body)


async def _sent(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _nowhere(scope: Scope, _: Receive, send: Send) -> None:
    await _sent(send, _reply(404, {"error": f"there is no {scope['path']}"}))
