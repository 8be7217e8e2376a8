"""Reading a topic into frames against taking its messages with the bare client, side by side.

    python benchmarks/kafka.py [MESSAGES]

A real broker of one node, three partitions, JSON objects of ten fields. Either way confluent-kafka fetches; we decode,
check that nothing is rounded or said twice, and make columns; the bare way only looks at each message's bytes.
Run from the root of the repository: the broker is that of the tests.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(Path(__file__).parents[1]))

from penstock.config.loading import KafkaSource
from penstock.sources.chunks import Window
from penstock.sources.kafka import read_kafka
from tests.servers.kafka import kafka

MESSAGES = 500_000
PARTITIONS = 3
RUNS = 5
TOPIC = "orders"


def message(number: int) -> bytes:
    return orjson.dumps(
        {
            "id": number,
            "customer": f"customer-{number % 9973}",
            "at": f"2024-01-{1 + number % 28:02d}T12:00:00Z",
            "price": number % 10_000 / 100,
            "count": number % 7,
            "paid": number % 3 == 0,
            "country": ("DE", "FR", "PL", "IE")[number % 4],
            "note": None if number % 5 else "gift",
            "weight": number % 977 * 0.125,
            "shop": "web",
        }
    )


def fill(brokers: str, messages: int) -> float:
    """Megabytes of values."""
    admin = AdminClient({"bootstrap.servers": brokers})  # kept: without it what it was asked for is given up
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result()
    producer = Producer(
        {"bootstrap.servers": brokers, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000}
    )
    size = 0
    for number in range(messages):
        value = message(number)
        size += len(value)
        producer.produce(TOPIC, value, partition=number % PARTITIONS)
    producer.flush()
    return size / 1e6


def ours(brokers: str) -> int:
    source = KafkaSource(kind="kafka", brokers=brokers, topic=TOPIC)
    return sum(chunk.frame.height for chunk in read_kafka(source, Window()))


def bare(brokers: str, *, parsed: bool = False) -> int:
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "bare",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 100,
        }
    )
    consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
    ended = count = 0
    while ended < PARTITIONS:
        for got in consumer.consume(5_000, 0.1):
            error = got.error()
            if error is None:
                value = got.value()
                if parsed:
                    orjson.loads(value)
                count += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                ended += 1
    consumer.close()
    return count


def seconds(work: Callable[[], int], messages: int) -> float:
    start = time.perf_counter()
    assert work() == messages
    return time.perf_counter() - start


def main() -> int:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    with kafka() as brokers:
        size = fill(brokers, messages)
        ways: dict[str, Callable[[], int]] = {
            "ours": lambda: ours(brokers),
            "bare": lambda: bare(brokers),
            "parsed": lambda: bare(brokers, parsed=True),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for run in range(RUNS + 1):
            for name in sorted(ways, reverse=bool(run % 2)):
                took = seconds(ways[name], messages)
                if run:  # the first is for the file cache and imports
                    times[name].append(took)
    middle = {name: statistics.median(found) for name, found in times.items()}
    print(f"{messages:,} messages, {size:.0f} MB of JSON, {PARTITIONS} partitions, median of {RUNS}")
    for name, label in (
        ("ours", "decoded, checked, in columns"),
        ("bare", "the bare client"),
        ("parsed", "the bare client, each message parsed"),
    ):
        print(f"{label:<40} {middle[name]:.3f} s   {messages / middle[name]:>10,.0f} messages/s")
    print(
        f"ours / bare = {middle['ours'] / middle['bare']:.2f}, ours / parsed = {middle['ours'] / middle['parsed']:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
