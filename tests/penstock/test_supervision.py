"""Processes that are started again, and nothing that they leave behind."""

from __future__ import annotations

import os
import signal
import sys

from penstock.supervision import Part, ended, tended
from tests.servers.programs import free_port, until

# As servers with workers are: the worker listens, and outlives whoever has forked it.
FORKS = """
import os, signal, socket, sys, time
sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(sys.argv[1]))); sock.listen()
child = os.fork()
open(sys.argv[2], "a").write(f"{os.getpid()} {child}\\n") if child else None
while True: time.sleep(1)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_server_whose_head_is_killed_gets_its_port_back(tmp_path):
    path = tmp_path / "pids"
    part = Part("server", [sys.executable, "-c", FORKS, str(free_port()), str(path)])
    part.start()

    def started(times: int) -> bool:
        tended(part)
        return path.exists() and len(path.read_text().splitlines()) == times

    until(lambda: started(1), "the server")
    head, worker = map(int, path.read_text().split())
    os.kill(head, signal.SIGKILL)
    until(lambda: started(2), "the server again")
    until(lambda: not alive(worker), "the end of the worker")
    assert part.starts == 2
    second = int(path.read_text().split()[3])
    os.killpg(part.group, signal.SIGKILL)
    ended(part)
    until(lambda: not alive(second), "the end of all of it")
