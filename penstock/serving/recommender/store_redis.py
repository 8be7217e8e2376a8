"""The store in Redis, for more than one machine. Every write is one script, so that nobody sees half of it.

Of each user there is a hash (an interaction is a field ``i:<item>:<time>`` or ``#<id>``) and a sorted set of what was shown to them, of
items a hash. Redis keeps what its ``appendonly`` and ``appendfsync`` have it keep.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import orjson

from penstock.config.serving.recommender import RedisStore
from penstock.console import say
from penstock.errors import PenstockError
from penstock.serving.recommender.store import (
    Added,
    Impression,
    Interaction,
    NewItem,
    Store,
    StoreDownError,
    now_ms,
)
from penstock.sources.secrets import revealed

__all__ = ["RedisState"]

T = TypeVar("T")

# One user. KEYS: interactions, items. ARGV: now, keep, prefix of impressions, then of each: identity, time, item, JSON, request.
# Fields: "i:…" and "#…" the interactions as "time|seq|item|JSON", "seq" and "last" the counters.
ADD = """
local h, items = KEYS[1], KEYS[2]
local stored = 0
for i = 4, #ARGV, 5 do
  local identity, time, item, rest, request = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if identity == '' or redis.call('HEXISTS', h, identity) == 0 then
    local seq = redis.call('HINCRBY', h, 'seq', 1)
    local last = tonumber(redis.call('HGET', h, 'last') or '0')
    if time == '' then time = string.format('%.0f', math.max(tonumber(ARGV[1]), last)) end
    if identity == '' then identity = 'n:' .. item .. ':' .. time .. ':' .. string.format('%.0f', seq) end
    redis.call('HSET', h, identity, time .. '|' .. string.format('%.0f', seq) .. '|' .. item .. '|' .. rest)
    if tonumber(time) > last then redis.call('HSET', h, 'last', time) end
    stored = stored + 1
    if request ~= '' then
      local shown = ARGV[3] .. request
      if redis.call('HGET', shown, item) == '0' then
        redis.call('HSET', shown, item, '1')
        if redis.call('HEXISTS', items, item) == 1 then redis.call('HINCRBY', items .. ':clicked', item, 1) end
      end
    end
  end
end
local over = redis.call('HLEN', h) - 2 - tonumber(ARGV[2])
if over > 0 then
  local all, flat = {}, redis.call('HGETALL', h)
  for i = 1, #flat, 2 do
    if flat[i] ~= 'seq' and flat[i] ~= 'last' then
      local time, seq = string.match(flat[i + 1], '^(%-?%d+)|(%d+)|')
      all[#all + 1] = {tonumber(time), tonumber(seq), flat[i]}
    end
  end
  table.sort(all, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for i = 1, over do redis.call('HDEL', h, all[i][3]) end
end
return stored
"""

# KEYS: interactions. ARGV: item, time or "".
REMOVE = """
local gone, flat = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  if flat[i] ~= 'seq' and flat[i] ~= 'last' then
    local time, item = string.match(flat[i + 1], '^(%-?%d+)|%d+|(%d+)|')
    if item == ARGV[1] and (ARGV[2] == '' or ARGV[2] == time) then gone = gone + redis.call('HDEL', KEYS[1], flat[i]) end
  end
end
return gone
"""

# KEYS: items. ARGV: most, then id and JSON of each.
REGISTER = """
local new, seen = 0, {}
for i = 2, #ARGV, 2 do
  if not seen[ARGV[i]] and redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then new = new + 1 end
  seen[ARGV[i]] = true
end
if redis.call('HLEN', KEYS[1]) + new > tonumber(ARGV[1]) then return 0 end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""

# KEYS: items, what was shown to the user. ARGV: prefix, keep, now, then request, item, time of each.
SHOW = """
local new = 0
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', tonumber(ARGV[3]) - tonumber(ARGV[2])))
for i = 4, #ARGV, 3 do
  local key = ARGV[1] .. ARGV[i]
  if redis.call('HSETNX', key, ARGV[i + 1], '0') == 1 then
    new = new + 1
    redis.call('PEXPIRE', key, ARGV[2])
    redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i + 1] .. ':' .. ARGV[i])
    if redis.call('HEXISTS', KEYS[1], ARGV[i + 1]) == 1 then redis.call('HINCRBY', KEYS[1] .. ':shown', ARGV[i + 1], 1) end
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return new
"""


class RedisState(Store):
    """See ``Store``."""

    def __init__(self, view: RedisStore) -> None:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        patience = view.patience.total_seconds()
        pool = BlockingConnectionPool.from_url(
            revealed(view.url),
            max_connections=view.connections,
            timeout=patience,
            socket_timeout=patience,
            socket_connect_timeout=patience,
            retry=Retry(
                NoBackoff(), 1
            ),  # once: a connection that was kept may be gone while the server is there
        )
        self._redis: Any = Redis.from_pool(pool)  # which it closes with itself
        self._prefix = view.prefix
        self._scripts = {
            name: self._redis.register_script(text)
            for name, text in (("add", ADD), ("remove", REMOVE), ("register", REGISTER), ("show", SHOW))
        }

    @classmethod
    async def opened(cls, view: RedisStore) -> RedisState:
        """With a word about what Redis keeps.

        Raises:
            PenstockError: It does not answer, or does not let us in.
        """
        try:
            from redis.exceptions import RedisError
        except ModuleNotFoundError as error:
            raise PenstockError(
                "store.kind: redis needs redis, which is not installed",
                hint="install it beside penstock, or keep the state in a file: store.kind=sqlite",
            ) from error

        try:
            state = cls(view)
            settings = await state._do(state._redis.config_get("append*"))
        except (StoreDownError, ValueError, RedisError) as error:
            raise PenstockError(
                f"store.url: {error}", hint="start it, or name another: store.url=redis://HOST:6379/0"
            ) from error
        kept = {_text(key): _text(value) for key, value in settings.items()}
        if kept.get("appendonly") != "yes":
            say("recommend: warning: this Redis forgets what it was told last if it ends: set appendonly yes")
        return state

    async def _do(self, command: Awaitable[T]) -> T:
        from redis.exceptions import RedisError

        try:
            return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreDownError(f"redis: {error}") from error

    def _user(self, user: str) -> str:
        return f"{self._prefix}user:{user}"

    def _to(self, user: str) -> str:
        return f"{self._prefix}shown-to:{user}"

    @property
    def _items(self) -> str:
        return f"{self._prefix}items"

    @property
    def _shown(self) -> str:
        return f"{self._prefix}shown:"

    async def add(self, interactions: Sequence[Interaction], keep: int) -> Added:
        by_user: dict[str, list[Any]] = {}
        for one in interactions:
            if one.id is not None:
                identity = f"#{one.id}"
            else:
                identity = "" if one.time is None else f"i:{one.item}:{one.time}"
            time, rest = "" if one.time is None else one.time, orjson.dumps((one.rating, one.event, one.id))
            shown = "" if one.request is None else f"{one.request} {one.user}"
            by_user.setdefault(one.user, []).extend((identity, time, one.item, rest, shown))
        head = (now_ms(), keep, self._shown)
        if len(by_user) == 1:
            [(user, values)] = by_user.items()
            counts = [
                await self._do(
                    self._scripts["add"](keys=[self._user(user), self._items], args=[*head, *values])
                )
            ]
        else:
            async with self._redis.pipeline(transaction=True) as pipe:
                for user, values in by_user.items():
                    await self._scripts["add"](
                        keys=[self._user(user), self._items], args=[*head, *values], client=pipe
                    )
                counts = await self._do(pipe.execute())
        stored = sum(int(count) for count in counts)
        return Added(stored, len(interactions) - stored)

    async def history(self, user: str) -> list[Interaction]:
        found = []
        for key, value in (await self._do(self._redis.hgetall(self._user(user)))).items():
            if key in {b"seq", b"last"}:
                continue
            time, seq, item, rest = value.split(b"|", 3)
            rating, event, id_ = orjson.loads(rest)
            found.append((int(time), int(seq), Interaction(user, int(item), int(time), rating, event, id_)))
        found.sort(key=lambda row: row[:2])
        return [row[2] for row in found]

    async def remove(self, user: str, item: int, time: int | None) -> int:
        args = [item, "" if time is None else time]
        return int(await self._do(self._scripts["remove"](keys=[self._user(user)], args=args)))

    async def forget(self, user: str) -> int:
        members = await self._do(self._redis.zrange(self._to(user), 0, -1))
        shown = {self._shown + member.split(b":", 1)[1].decode() for member in members}
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hkeys(self._user(user))
            pipe.delete(self._user(user), self._to(user), *shown)
            keys, _ = await self._do(pipe.execute())
        return len(set(keys) - {b"seq", b"last"})

    async def register(self, items: Sequence[NewItem], most: int) -> bool:
        args: list[Any] = [most]
        for item in items:
            args += [item.id, orjson.dumps((item.title, item.genres, item.year))]
        return bool(await self._do(self._scripts["register"](keys=[self._items], args=args)))

    async def items(self) -> list[NewItem]:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._items)
            pipe.hgetall(f"{self._items}:shown")
            pipe.hgetall(f"{self._items}:clicked")
            told, shown, clicked = await self._do(pipe.execute())
        found = []
        for key, value in told.items():
            title, genres, year = orjson.loads(value)
            counts = (int(shown.get(key, 0)), int(clicked.get(key, 0)))
            found.append(NewItem(int(key), title, tuple(genres), year, *counts))
        return sorted(found, key=lambda item: item.id)

    async def withdraw(self, item: int) -> bool:
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in (self._items, f"{self._items}:shown", f"{self._items}:clicked"):
                pipe.hdel(name, item)
            there, *_ = await self._do(pipe.execute())
        return bool(there)

    async def show(self, impressions: Sequence[Impression], keep_ms: int) -> int:
        by_user: dict[str, list[Any]] = {}
        for one in impressions:
            by_user.setdefault(one.user, []).extend((f"{one.request} {one.user}", one.item, one.time))
        new = 0
        for user, values in by_user.items():
            args = [self._shown, keep_ms, now_ms(), *values]
            new += int(await self._do(self._scripts["show"](keys=[self._items, self._to(user)], args=args)))
        return new

    async def shown(self, user: str, since: int) -> dict[int, int]:
        counts: dict[int, int] = {}
        for member in await self._do(self._redis.zrangebyscore(self._to(user), since, "+inf")):
            item = int(member.split(b":", 1)[0])
            counts[item] = counts.get(item, 0) + 1
        return counts

    async def close(self) -> None:
        await self._redis.aclose()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
