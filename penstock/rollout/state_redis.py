"""State in Redis (or Valkey), for routers on several machines. What must happen together happens in one script of the server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.config.rollout import RedisState, Rollout
from penstock.rollout.audit import Entry, Intent, chained
from penstock.rollout.settings import Settings
from penstock.rollout.state import (
    Attribution,
    ConflictError,
    Exposure,
    Reward,
    StateError,
    Versions,
    iso,
    linear,
    now,
    of_request,
)
from penstock.sources.secrets import hidden, revealed

__all__ = ["RedisStore"]

SECONDS = 2.0  # until an answer
TRIES = 20
# A user's number before and after a reward, and what that adds to the sums; as ``state.of_user`` has it.
SETTLE = """
if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) == false then return 0 end
for at = 2, #ARGV, 7 do
  local counters, user, value, mode, entered = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4]
  local arm, plain = ARGV[at + 5], cjson.decode(ARGV[at + 6])
  if user ~= '' then
    local n, total = tonumber(redis.call('HGET', user, 'n')), tonumber(redis.call('HGET', user, 'total'))
    if n == nil then
      plain['outcomes'] = 1
    else
      local function number(count, sum)
        if count <= 0 then return nil end
        if mode == 'any' then return math.min(1, math.max(0, sum)) end
        if mode == 'sum' then return sum end
        return sum / count
      end
      local before, after = number(n, total), number(n + 1, total + value)
      local old = before or 0
      plain['outcomes'] = 1
      plain['kpi_n'] = (before == nil and entered == '0') and 1 or 0
      plain['kpi_total'] = after - old
      plain['kpi_squares'] = after * after - old * old
      redis.call('HINCRBYFLOAT', user, 'n', 1)
      redis.call('HINCRBYFLOAT', user, 'total', string.format('%.17g', value))
    end
  end
  for name, added in pairs(plain) do
    redis.call('HINCRBYFLOAT', counters, arm .. '\\0' .. name, string.format('%.17g', added))
  end
end
return 1
"""
EXPOSE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if tonumber(redis.call('GET', KEYS[3]) or '0') >= tonumber(ARGV[2]) then
  redis.call('HINCRBYFLOAT', KEYS[2], ARGV[1] .. '\\0users_uncounted', 1)
  return 0
end
redis.call('INCR', KEYS[3])
redis.call('HSET', KEYS[1], 'n', 0, 'total', 0)
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('HINCRBYFLOAT', KEYS[2], ARGV[1] .. '\\0users', 1)
if ARGV[3] == '1' then redis.call('HINCRBYFLOAT', KEYS[2], ARGV[1] .. '\\0kpi_n', 1) end
return 1
"""
LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
KEEP = 90 * 86400  # seconds for which users of a stage are known
SCANNED = 1000  # keys that the server looks through at a time


class RedisStore:
    """The state of one model's rollout.

    Args:
        view: What is declared.

    Raises:
        StateError: The server cannot be reached.
    """

    def __init__(self, view: Rollout) -> None:
        assert isinstance(view.state, RedisState)
        self.view = view
        self.where = hidden(view.state.url)
        # In braces: all keys of a rollout lie on one node of a cluster.
        self.prefix = f"penstock:rollout:{{{view.model}}}"
        with self._guarded():
            self.client: Any = redis.Redis.from_url(
                revealed(view.state.url),
                decode_responses=True,
                socket_timeout=SECONDS,
                socket_connect_timeout=SECONDS,
                retry=Retry(NoBackoff(), 1),
            )
            self.client.ping()
            self._settle = self.client.register_script(SETTLE)
            self._expose = self.client.register_script(EXPOSE)
            self._lease = self.client.register_script(LEASE)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StateError(f"{self.where}: {error}") from error

    def _key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    # --- settings -------------------------------------------------------------------------------------

    def versions(self) -> Versions:
        with self._guarded():
            found = self.client.hmget(self._key("versions"), "settings", "policy")
        return Versions(int(found[0] or 0), int(found[1] or 0))

    def settings(self) -> Settings | None:
        with self._guarded():
            found = self.client.get(self._key("settings"))
        if found is None:
            return None
        try:
            return Settings.model_validate_json(found)
        except ValueError as error:
            raise StateError(f"{self.where}: settings of another version of this program: {error}") from error

    def change(self, before: Settings | None, after: Settings, intent: Intent) -> Entry:
        was = None if before is None else before.model_dump(mode="json")

        def put(pipe: Any) -> None:
            pipe.set(self._key("settings"), after.model_dump_json())
            pipe.hset(self._key("versions"), "settings", after.version)

        def check(pipe: Any) -> None:
            found = int(pipe.hget(self._key("versions"), "settings") or 0)
            if found != (0 if before is None else before.version):
                raise ConflictError

        return self._noted(intent, was, after.model_dump(mode="json"), check, put)

    def note(self, intent: Intent, before: Any, after: Any) -> Entry:
        return self._noted(intent, before, after, lambda _: None, lambda _: None)

    def _noted(self, intent: Intent, before: Any, after: Any, check: Any, put: Any) -> Entry:
        """A change and its entry, if nobody else has changed either meanwhile."""
        trail, versions = self._key("trail"), self._key("versions")
        with self._guarded(), self.client.pipeline() as pipe:
            for _ in range(TRIES):
                try:
                    pipe.watch(trail, versions)
                    check(pipe)
                    last = pipe.lindex(trail, -1)
                    entry = chained(
                        Entry(**json.loads(last)) if last else None, iso(now()), intent, before, after
                    )
                    pipe.multi()
                    put(pipe)
                    pipe.rpush(trail, json.dumps(entry.dump()))
                    pipe.execute()
                except redis.WatchError:
                    continue
                return entry
        raise StateError(f"{self.where}: others change it all the time")

    def history(self, newest: int | None = None) -> list[Entry]:
        with self._guarded():
            found = self.client.lrange(self._key("trail"), 0 if newest is None else -newest, -1)
        return [Entry(**json.loads(line)) for line in found]

    def policy(self) -> dict[str, Any] | None:
        with self._guarded():
            found = self.client.get(self._key("policy"))
        return None if found is None else json.loads(found)

    def put_policy(self, policy: dict[str, Any]) -> None:
        with self._guarded(), self.client.pipeline() as pipe:
            pipe.set(self._key("policy"), json.dumps(policy))
            pipe.hincrby(self._key("versions"), "policy", 1)
            pipe.execute()

    # --- counts ---------------------------------------------------------------------------------------

    def add(self, counts: Mapping[tuple[str, str, str], float]) -> None:
        with self._guarded(), self.client.pipeline() as pipe:
            for (stage, arm, name), value in counts.items():
                pipe.hincrbyfloat(self._key("counters", stage), f"{arm}\0{name}", value)
            pipe.execute()

    def counters(self, stage: str) -> dict[str, dict[str, float]]:
        with self._guarded():
            several = self.client.hgetall(self._key("counters", stage))
        found: dict[str, dict[str, float]] = {}
        for key, value in several.items():
            arm, name = key.split("\0")
            found.setdefault(arm, {})[name] = float(value)
        return found

    def attribute(self, several: Iterable[Attribution]) -> None:
        seconds = round(self.view.outcomes.total_seconds())
        with self._guarded(), self.client.pipeline() as pipe:
            for one in several:
                key = self._key("request", one.request)
                body = json.dumps([one.role, one.stage, one.unit, one.outputs, one.context])
                pipe.hset(key, one.arm, body)
                pipe.expire(key, seconds)
            pipe.execute()

    def attributed(self, request: str) -> list[Attribution]:
        with self._guarded():
            found = self.client.hgetall(self._key("request", request))
        return [Attribution(request, arm, *json.loads(body)) for arm, body in found.items()]

    def expose(self, several: Iterable[Exposure], *, enters: bool) -> None:
        with self._guarded(), self.client.pipeline(transaction=False) as pipe:
            for one in several:
                keys = [
                    self._key("user", one.stage, one.unit),
                    self._key("counters", one.stage),
                    self._key("users", one.stage),
                ]
                self._expose(keys, [one.arm, self.view.users, int(enters), KEEP], client=pipe)
            pipe.execute()

    def settle(self, request: str, row: int, rewards: Sequence[Reward]) -> bool:
        arguments: list[Any] = [round(self.view.outcomes.total_seconds())]
        for reward in rewards:
            plain = linear(reward)
            if reward.unit is None:
                plain |= of_request(reward)
            user = "" if reward.unit is None else self._key("user", reward.stage, reward.unit)
            counters = self._key("counters", reward.stage)
            entered = "1" if reward.entered else "0"
            # cjson reads an empty object as a table, too.
            arguments += [
                counters,
                user,
                repr(reward.value),
                reward.mode,
                entered,
                reward.arm,
                json.dumps(plain),
            ]
        with self._guarded():
            return bool(self._settle([self._key("settled", request, str(row))], arguments))

    # --- what is true for a while ---------------------------------------------------------------------

    def put_fact(self, key: str, value: Any, seconds: float) -> None:
        with self._guarded():
            if seconds <= 0:
                self.client.delete(self._key("fact", key))
                return
            self.client.set(self._key("fact", key), json.dumps(value), px=max(1, round(seconds * 1000)))
            self.client.sadd(self._key("facts"), key)

    def facts(self, prefix: str) -> dict[str, Any]:
        names = self._key("facts")  # to search all keys for them would take as long as there are requests
        with self._guarded():
            keys = [key for key in self.client.smembers(names) if key.startswith(prefix)]
            values = self.client.mget([self._key("fact", key) for key in keys]) if keys else []
            gone = [key for key, value in zip(keys, values, strict=True) if value is None]
            if gone:
                self.client.srem(names, *gone)
        return {
            key[len(prefix) :]: json.loads(value)
            for key, value in zip(keys, values, strict=True)
            if value is not None
        }

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        with self._guarded():
            return bool(self._lease([self._key("lease", name)], [holder, round(seconds * 1000)]))

    def forget(self, unit: str, requests: Iterable[str]) -> int:
        """Remove a user: attributions, rewards that came, their part in each stage. All keys are looked through.

        Args:
            unit: The user as routers hash them.
            requests: Ids of theirs that are known from elsewhere; those that are attributed to them are found here.

        Returns:
            How many keys are gone.
        """
        theirs = set(requests)
        with self._guarded():
            for key in self.client.scan_iter(self._key("request", "") + "*", count=SCANNED):
                if any(json.loads(body)[2] == unit for body in self.client.hvals(key)):
                    theirs.add(key.removeprefix(self._key("request", "")))
            gone = 0
            for kind in ("request", "settled"):
                for key in self.client.scan_iter(self._key(kind, "") + "*", count=SCANNED):
                    rest = key.removeprefix(self._key(kind, ""))
                    if (rest if kind == "request" else rest.rpartition(":")[0]) in theirs:
                        gone += self.client.delete(key)
            for key in self.client.scan_iter(self._key("user", "") + f"*:{unit}", count=SCANNED):
                gone += self.client.delete(key)
        return gone

    def tidy(self) -> None:
        """Nothing: what has expired, Redis forgets by itself."""

    def close(self) -> None:
        self.client.close()
