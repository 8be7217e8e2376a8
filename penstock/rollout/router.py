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
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock.config.rollout import Bandit, Rollout, Shadow
from penstock.keys import Keys, Purpose, presented
from penstock.requests import REQUEST_ID, new_request_id
from penstock.rollout.answers import HEAD, InvalidError, outputs, rows_asked
from penstock.rollout.decision import Decision, RefusedError, decide
from penstock.rollout.flags import KILL, Flags
from penstock.rollout.fleet import Fleet
from penstock.rollout.outcomes import Outcomes
from penstock.rollout.records import Records
from penstock.rollout.settings import Settings
from penstock.rollout.shared import Shared
from penstock.rollout.state import Attribution, Exposure
from penstock.rollout.upstream import Answer, BrokenError

__all__ = ["CLIENTS", "Router"]

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
JSON = (b"content-type", b"application/json")


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """Why a request gets no prediction.

    Attributes:
        status: Of HTTP.
        reason: For the metrics.
    """

    def __init__(self, status: int, reason: str, words: str) -> None:
        super().__init__(words)
        self.status, self.reason = status, reason


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
        self.fleet = Fleet(view.router, view.ports)
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
        self._children: dict[tuple[str, int], Any] = {}
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
        """Every second until cancelled: flags, which version each arm has, gauges."""
        while True:
            if self.flags is not None:
                await asyncio.to_thread(self.flags.provider.look)
            await self._ask_versions()
            self.metrics.down.set(self.shared.is_down)
            self.metrics.lost.set(self.shared.tally.lost + (self.records.dropped if self.records else 0))
            await asyncio.sleep(TEND)

    async def _ask_versions(self) -> None:
        head = b"GET /v2/models/%b HTTP/1.1\r\naccept: application/json\r\n" % self.view.model.encode()
        found = {}
        for arm in list(self.fleet.arms):
            with contextlib.suppress(BrokenError, TimeoutError, orjson.JSONDecodeError, AttributeError):
                answer = await self.fleet.next(arm).pool.ask(head, b"", TEND)
                versions = orjson.loads(answer.body).get("versions") or []
                if versions:
                    found[arm] = str(versions[0])
        self.versions = found

    async def close(self) -> None:
        """End what runs beside requests."""
        tasks = [task for mirror in self.mirrors.values() for task in mirror.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.fleet.close()

    # --- requests -------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if self.keys is not None and path.startswith(("/v1/", "/v2/models")):
            key = presented(scope["headers"])
            if key is None or self.keys.holder(key) is None:
                await self._refused(
                    send, Refusal(401, "key", "a key is missing, or is none that is known here")
                )
                return
        if method == "POST" and path in (self._plain, self._infer):
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
            call = await self._call(scope, receive)
            settings = self.shared.settings
            decision = self._decided(settings, call, pinned)
        except Refusal as refusal:
            await self._refused(send, refusal)
            return
        arm, failed, answer, said = decision.arm, None, None, None
        if arm != settings.champion:
            answer, said, failed = await self._other(arm, call, decision, must=pinned is not None)
            if answer is None and pinned is not None:
                await self._refused(send, Refusal(503, "version", f"{arm} does not answer: {failed}"), arm)
                return
            if answer is None:
                arm = settings.champion
        try:
            if answer is None:
                answer = await self._champion(arm, call, decision, counts=failed is None)
        except Refusal as refusal:
            await self._refused(send, refusal, arm)
            return
        took = time.monotonic() - call.began
        await _sent(send, answer, call.request, arm)
        self._counted(arm, answer.status, took)
        for mirror in decision.mirrors:
            self._shown(mirror, call, decision)
        self._kept(settings, call, decision, arm, answer, said, failed, took)

    async def _call(self, scope: Scope, receive: Receive) -> Call:
        request = user = length = None
        content = b"application/json"
        extra = b""
        for name, value in scope["headers"]:
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
        body = await self._whole(receive)
        path = scope["path"]
        target = (scope.get("raw_path") or path.encode()).split(b"?", 1)[0]
        head = (
            b"POST %b HTTP/1.1\r\ncontent-type: %b\r\nx-request-id: %b\r\naccept: application/json\r\n%b"
            % (target, content, request, extra)
        )
        hashed = clear = None
        if user is not None and 0 < len(user) <= LONGEST_USER:
            hashed = hashlib.blake2b(user, digest_size=16, key=self._hash_key).hexdigest()
            clear = user.decode("utf-8", "surrogateescape")
        told = request.decode("latin-1")
        size = int(length) if length is not None and length.isdigit() else None
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

    def _decided(self, settings: Settings, call: Call, pinned: str | None) -> Decision:
        if pinned is not None:
            return Decision(pinned, None, None, (), f"{settings.stage}-pinned")
        if self.flags is not None:
            key, attributes = call.user_in_clear or call.request, self._attributes(call)
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
        found = [1.0]
        for name, feature in strategy.context.items():
            value = row.get(name)
            if isinstance(value, int | float) and abs(value) < MOST:  # not of not-a-number
                found.append((float(value) - feature.centre) / feature.scale)
            else:
                found.append(0.0)
        return found

    # --- arms -----------------------------------------------------------------------------------------

    async def _other(
        self, arm: str, call: Call, decision: Decision, *, must: bool
    ) -> tuple[Answer | None, list[Any] | None, str | None]:
        """An arm that is not the champion: its answer and what it says, or None and what was wrong with it."""
        tally, stage = self.shared.tally, decision.stage
        tally.add(stage, arm, "requests")
        breaker = self.fleet.breakers[arm]
        if not must and not breaker.lets():
            self._erred(arm, stage, "diverted")
            return None, None, "diverted"
        began = time.monotonic()
        answer, said, failed = await self._tried(arm, call, self._arm_within)
        breaker.told(well=failed is None or failed.startswith("status 4"))
        if failed is None:
            tally.took(stage, arm, time.monotonic() - began)
            return answer, said, None
        if must and answer is not None:
            return answer, None, None  # whoever asks for a version gets what that says
        if not failed.startswith("status 4"):  # whether that was the arm's fault, the champion will tell
            self._erred(arm, stage, failed)
        return None, None, failed

    def _erred(self, arm: str, stage: str, failed: str) -> None:
        reason = failed.split(":", 1)[0]
        self.shared.tally.add(stage, arm, "errors")
        self.shared.tally.add(stage, arm, f"error {reason}")
        self._child(self.metrics.errors, arm, reason).inc()

    async def _tried(
        self, arm: str, call: Call, within: float
    ) -> tuple[Answer | None, list[Any] | None, str | None]:
        replica = self.fleet.next(arm)
        try:
            answer = await replica.pool.ask(call.head, call.body, within)
        except TimeoutError:
            return None, None, "timeout"
        except BrokenError as error:
            self.fleet.unreachable(replica)
            return None, None, f"connection: {error}"
        if answer.status != 200:
            return answer, None, f"status {answer.status}"
        try:
            return answer, outputs(answer, call.rows, is_plain=call.is_plain), None
        except InvalidError as error:
            return None, None, f"invalid: {error}"

    async def _champion(self, arm: str, call: Call, decision: Decision, *, counts: bool) -> Answer:
        """The champion's answer, whichever replica gives it, as long as there is time.

        Raises:
            Refusal: There is none.
        """
        tally, stage = self.shared.tally, decision.stage
        tally.add(stage, arm, "requests" if counts else "stood_in")
        began = time.monotonic()
        deadline = call.began + self._answer_within
        words, status = "no replica can be reached", 503
        while (left := deadline - time.monotonic()) > 0:
            replica = self.fleet.next(arm)
            try:
                answer = await replica.pool.ask(call.head, call.body, left)
            except TimeoutError:
                words, status = f"no answer within {self._answer_within:g} s", 504
                break
            except BrokenError:
                # It was killed, or is not there yet: another may be, and it will be again.
                self.fleet.unreachable(replica)
                await asyncio.sleep(AGAIN if len(self.fleet.arms[arm]) == 1 else 0)
                if all(one.until > time.monotonic() for one in self.fleet.arms[arm]):
                    await asyncio.sleep(AGAIN)
                continue
            if answer.status >= 500:
                self._champion_erred(arm, stage, f"status {answer.status}", counts)
            elif counts:
                tally.took(stage, arm, time.monotonic() - began)
            return answer
        self._champion_erred(arm, stage, "timeout" if status == 504 else "connection", counts)
        raise Refusal(status, "champion", f"{self.view.model}: {words}")

    def _champion_erred(self, arm: str, stage: str, reason: str, counts: bool) -> None:
        if counts:
            self.shared.tally.add(stage, arm, "errors")
            self.shared.tally.add(stage, arm, f"error {reason}")

    # --- what follows an answer -----------------------------------------------------------------------

    def _kept(
        self,
        settings: Settings,
        call: Call,
        decision: Decision,
        arm: str,
        answer: Answer,
        said: list[Any] | None,
        failed: str | None,
        took: float,
    ) -> None:
        """Whose answer it was, for the outcome that may come; users; the log."""
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
        key = (f"{id(metric)}{arm}{other}", 0)
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
                await self._asked(send, arm, path)
        elif path == "/v2/health/live":
            await _said(send, 200, {"live": True})
        elif path == "/v2/health/ready" or (
            method == "GET" and (path == "/v2" or path.startswith(self._of_model))
        ):
            await self._asked(send, self.shared.settings.champion, path)
        else:
            await self._refused(
                send, Refusal(404, "path", f"there is no {path}; the model here is {self.view.model}")
            )

    def shared_version(self, version: str) -> str | None:
        """The arm that has a version, if one has that answers or may be asked besides."""
        settings = self.shared.settings
        known = self.versions.items()
        return next((arm for arm, found in known if found == version and arm not in settings.off), None)

    async def _asked(self, send: Send, arm: str, path: str) -> None:
        """What an arm's predictor says of itself."""
        head = b"GET %b HTTP/1.1\r\naccept: application/json\r\n" % path.encode()
        try:
            answer = await self.fleet.next(arm).pool.ask(head, b"", self._answer_within)
        except (BrokenError, TimeoutError):
            await self._refused(send, Refusal(503, "champion", f"{arm} does not answer"))
            return
        await _sent(send, answer, None, arm)

    async def _outcomes(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._refused(send, Refusal(405, "method", "outcomes are posted"))
            return
        try:
            status, told = await self.outcomes.take(await self._whole(receive))
        except Refusal as refusal:
            await self._refused(send, refusal)
            return
        await _said(send, status, told)

    async def _refused(self, send: Send, refusal: Refusal, arm: str = "none") -> None:
        self._child(self.metrics.answers, arm, str(refusal.status)).inc()
        await _said(send, refusal.status, {"error": str(refusal)})


# --- bytes ------------------------------------------------------------------------------------------


async def _sent(send: Send, answer: Answer, request: str | None, arm: str) -> None:
    headers = [
        (b"content-type", answer.headers.get(b"content-type", b"application/json")),
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-arm", arm.encode()),
    ]
    if request is not None:
        headers.append((b"x-request-id", request.encode("latin-1")))
    headers += [(name, answer.headers[name]) for name in CARRIED if name in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _said(send: Send, status: int, told: Any) -> None:
    body = orjson.dumps(told)
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nowhere(scope: Scope, _: Receive, send: Send) -> None:
    await _said(send, 404, {"error": f"there is no {scope['path']}"})
