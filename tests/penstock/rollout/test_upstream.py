"""The raw client: what servers do to connections that stay open."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest

from penstock.rollout.answers import InvalidError, outputs
from penstock.rollout.upstream import Answer, BrokenError, Pool
from tests.penstock.rollout.routers import run, until

HEAD = b"POST /x HTTP/1.1\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def server(*turns):
    """Answers each request of a connection with the next bytes; None breaks it off, a number waits."""
    seen, handlers = [], []

    async def serve(reader, writer):
        handlers.append(asyncio.current_task())
        seen.append([])
        mine = list(turns)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while mine:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                seen[-1].append(await reader.readexactly(length))
                turn = mine.pop(0)
                if turn is None:
                    writer.transport.abort()
                    return
                if isinstance(turn, float):
                    await asyncio.sleep(turn)
                    turn = OK
                writer.write(turn)
                await writer.drain()
        writer.close()

    found = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = found.sockets[0].getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{port}", 2, 1000)
    try:
        yield pool, seen
    finally:
        pool.close()
        found.close()
        await found.wait_closed()
        await asyncio.wait_for(asyncio.gather(*handlers), 5)


def test_a_connection_is_used_again_and_bodies_may_come_in_chunks():
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-A: b\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
    )

    async def test():
        async with server(OK, chunked, OK) as (pool, seen):
            assert (await pool.ask(HEAD, b"1", 5)).body == b"ok"
            answer = await pool.ask(HEAD, b"2", 5)
            assert (answer.status, answer.body, answer.headers[b"x-a"]) == (200, b"abcde", b"b")
            assert (await pool.ask(HEAD, b"3", 5)).body == b"ok"
            assert seen == [[b"1", b"2", b"3"]]

    run(test)


def test_one_that_was_closed_while_idle_is_replaced_and_nobody_notices():
    async def test():
        async with server(OK, None) as (pool, seen):
            await pool.ask(HEAD, b"1", 5)
            # The second request of a connection breaks it: it goes to a new one.
            assert (await pool.ask(HEAD, b"2", 5)).body == b"ok"
            assert seen == [[b"1", b"2"], [b"2"]]

    run(test)


@pytest.mark.parametrize(
    "turn",
    [
        None,
        b"gopher\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\nno",
    ],
)
def test_what_is_no_answer_is_an_error_and_the_next_request_has_a_new_connection(turn):
    async def test():
        async with server(turn) as (pool, seen):
            for number in (b"1", b"2"):
                with pytest.raises(BrokenError):
                    await pool.ask(HEAD, number, 5)
            assert seen == [[b"1"], [b"2"]]
            assert pool.busy == 0

    run(test)


def test_an_answer_that_comes_too_late_is_nobody_elses():
    async def test():
        async with server(0.2) as (pool, _):
            with pytest.raises(TimeoutError):
                await pool.ask(HEAD, b"1", 0.05)
            assert pool.busy == 0
            assert (await pool.ask(HEAD, b"2", 5)).body == b"ok"

    run(test)


def test_connections_are_bounded_and_who_waits_may_give_up():
    async def test():
        async with server(0.1, 0.1, 0.1) as (pool, seen):
            tasks = [asyncio.create_task(pool.ask(HEAD, b"%d" % n, 5)) for n in range(6)]
            await until(lambda: pool.busy == 2)
            tasks[5].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(answer, Answer) for answer in answers] == [True] * 5 + [False]
            assert len(seen) == 2
            assert pool.busy == 0

    run(test)


def test_what_comes_before_an_answer_is_none():
    async def test():
        early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
        async with server(early + OK, OK) as (pool, seen):
            answer = await pool.ask(HEAD, b"1", 5)
            assert (answer.status, answer.body, answer.headers.get(b"link")) == (200, b"ok", None)
            assert (await pool.ask(HEAD, b"2", 5)).body == b"ok"
            assert seen == [[b"1", b"2"]]

    run(test)


def test_of_many_who_wait_too_long_each_is_told_so():
    """Those who wait longest give up while others leave."""

    async def test():
        async with server(*[0.02] * 200) as (pool, _):
            asked = [pool.ask(HEAD, b"%d" % n, 0.05 + n / 10_000) for n in range(200)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {Answer, TimeoutError}
            assert pool.busy == 0

    run(test)


def test_nobody_listens():
    async def test():
        pool = Pool("http://127.0.0.1:1", 2, 1000)
        with pytest.raises(BrokenError):
            await pool.ask(HEAD, b"", 5)

    run(test)


def test_a_second_answer_is_not_the_next_requests():
    async def test():
        wrong = OK.replace(b"ok", b"no")
        async with server(OK + wrong, OK) as (pool, seen):
            assert (await pool.ask(HEAD, b"1", 5)).body == b"ok"
            assert (await pool.ask(HEAD, b"2", 5)).body == b"ok"
            assert seen == [[b"1"], [b"2"]]

    run(test)


def test_who_asks_at_once_is_told_the_same_as_who_waits():
    async def test():
        loop = asyncio.get_running_loop()

        def started(pool, seconds=5.0):
            told = loop.create_future()
            assert pool.start(HEAD, b"2", seconds, told.set_result)
            assert pool.busy == 1
            return told

        async with server(OK, OK) as (pool, seen):
            assert not pool.start(HEAD, b"0", 5, print), "there is no connection yet"
            await pool.ask(HEAD, b"1", 5)
            assert (await started(pool)).body == b"ok"
            assert seen == [[b"1", b"2"]]
            assert pool.busy == 0
        for turn, heard in ((None, False), (b"HTTP/1.1 200 OK\r\ncontent-le", True)):
            async with server(OK, *([turn] if turn is None else [turn, None])) as (pool, _):
                await pool.ask(HEAD, b"1", 5)
                told = started(pool, 5.0 if turn is None else 0.2)
                outcome = await told
                if turn is None:
                    assert isinstance(outcome, BrokenError)
                    assert outcome.heard is heard
                else:
                    assert isinstance(outcome, TimeoutError)
                assert pool.busy == 0
        async with server(OK, 0.3) as (pool, _):
            await pool.ask(HEAD, b"1", 5)
            assert isinstance(await started(pool, 0.05), TimeoutError)
            assert pool.busy == 0
            assert (await pool.ask(HEAD, b"3", 5)).body == b"ok", "what comes too late is nobody's"

    run(test)


def test_tensors_in_binary_are_looked_at_like_all_others():
    def answer(*numbers):
        data = struct.pack(f"<{len(numbers)}f", *numbers)
        head = b'{"outputs": [{"name": "p", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": %d}}]}'
        head %= len(data)
        return Answer(200, {b"inference-header-content-length": b"%d" % len(head)}, head + data)

    assert outputs(answer(0.25, 0.5), 2, is_plain=False) == [{"p": 0.25}, {"p": 0.5}]
    for wrong in (answer(0.25, float("nan")), answer(0.25), answer(0.25, 0.5, 0.75)):
        with pytest.raises(InvalidError):
            outputs(wrong, 2, is_plain=False)
    with pytest.raises(InvalidError):
        outputs(answer(0.25, 0.5), 3, is_plain=False)
