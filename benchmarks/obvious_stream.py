"""What `benchmarks/stream.py` is measured against: the real-time path as one would write it in an afternoon.

FastAPI with a pydantic model of each reading, aiokafka's ``send_and_wait`` for each message, and a consumer that indexes each
reading as a document of its own. It promises less: what is read again after a crash is stored twice, and what Elasticsearch
refuses ends the consumer.

    python benchmarks/obvious_stream.py gateway BROKERS PORT
    python benchmarks/obvious_stream.py consumer BROKERS ELASTICSEARCH
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from elasticsearch import AsyncElasticsearch
from fastapi import FastAPI
from pydantic import BaseModel

TOPIC, INDEX = "readings", "obvious"


class Reading(BaseModel):
    name: str
    time: int
    values: dict[str, float]
    accuracy: float | None = None


class Message(BaseModel):
    messageId: int
    sessionId: str
    deviceId: str
    payload: list[Reading]


def gateway(brokers: str, port: int) -> None:
    producers: list[AIOKafkaProducer] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        producer = AIOKafkaProducer(bootstrap_servers=brokers, acks="all", max_request_size=4 << 20)
        await producer.start()
        producers.append(producer)
        yield
        await producer.stop()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/readings")
    async def push(message: Message) -> dict[str, bool]:
        await producers[0].send_and_wait(
            TOPIC, message.model_dump_json().encode(), key=message.deviceId.encode()
        )
        return {"ok": True}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


async def consumer(brokers: str, elasticsearch: str) -> None:
    reader = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=brokers, group_id="obvious", auto_offset_reset="earliest"
    )
    async with AsyncElasticsearch(elasticsearch) as store:
        await reader.start()
        try:
            async for record in reader:
                message = json.loads(record.value)
                for reading in message["payload"]:
                    document = {
                        "device": message["deviceId"],
                        "session": message["sessionId"],
                        "sensor": reading["name"],
                        "time": reading["time"],
                        "values": reading["values"],
                    }
                    await store.index(index=INDEX, document=document)
        finally:
            await reader.stop()


if __name__ == "__main__":
    if sys.argv[1] == "gateway":
        gateway(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(consumer(sys.argv[2], sys.argv[3]))
