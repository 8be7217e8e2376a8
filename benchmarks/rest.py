"""What reading an API costs beyond the API's own time: pages, JSON, flattening, against a bare loop of http.client.

Both ask the same local server for the same pages in one run; the server's share is in both.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from penstock.config.loading import RestSource
from penstock.examples.api import serving
from penstock.sources.chunks import Window
from penstock.sources.rest import read_rest

PAGE = 5000
RUNS = 5


def bare(address: str, token: str) -> int:
    """Fetch every page and parse its JSON; nothing is made of it."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    rows = 0
    while True:
        connection.request(
            "GET", f"{parts.path}?offset={rows}&limit={PAGE}", headers={"Authorization": f"Bearer {token}"}
        )
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            continue
        page = json.loads(content)
        rows += len(page["ratings"])
        if rows >= page["total"]:
            connection.close()
            return rows


def ours(address: str, token: str) -> int:
    """The same by the source of loads: typed, flat frames that know where they come from."""
    source = RestSource.model_validate(
        {
            "kind": "rest",
            "url": address,
            "select": "ratings",
            "pages": {"by": "offset", "limit": PAGE, "total": "total"},
            "auth": {"kind": "bearer", "token": token},
        }
    )
    return sum(chunk.frame.height for chunk in read_rest(source, Window()))


def main() -> None:
    """Measure both, by turns."""
    took: dict[str, list[float]] = {"bare": [], "ours": []}
    with serving() as (address, token):
        for _ in range(RUNS):
            for name, read in (("bare", bare), ("ours", ours)):
                began = time.perf_counter()
                assert read(address, token) == 100_004
                took[name].append(time.perf_counter() - began)
    one, other = statistics.median(took["ours"]), statistics.median(took["bare"])
    print(
        f"100,004 rows of an API: bare loop {other:.2f} s, penstock {one:.2f} s: {one / other:.2f} × the time"
    )


if __name__ == "__main__":
    main()
