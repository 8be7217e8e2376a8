"""`penstock stream …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.console import say
from penstock.errors import PenstockError

__all__ = ["stream"]

stream = typer.Typer(
    no_args_is_help=True,
    help="The real-time path: devices → gateway → log → indexer → store, as conf/stream/NAME.yaml declares it.",
)
keys = typer.Typer(no_args_is_help=True, help="Keys of devices.")
dead = typer.Typer(no_args_is_help=True, help="Dead letters: what could not be stored, and why.")
stream.add_typer(keys, name="keys")
stream.add_typer(dead, name="dead")
kibana = typer.Typer(
    no_args_is_help=True, help="Kibana: data views, dashboard and alert rules of deploy/kibana/."
)
stream.add_typer(kibana, name="kibana")

Name = Annotated[str, typer.Argument(help="Of conf/stream/NAME.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Hydra overrides, such as gateway.port=9000.", show_default=False)
]
KeyFile = Annotated[Path, typer.Option("--file", help="What gateway.keys names.")]
DEVICES = Path("conf/devices.yaml")


@stream.command()
def up(name: Name = "embedded", overrides: Overrides = None) -> None:
    """Run gateway, indexer and live page on this machine until Ctrl-C; what dies is started again."""
    from penstock.stream.declared import declared
    from penstock.supervision import Part, python, supervise

    given = overrides or []
    view = declared(name, given)  # told of here, before anything is started
    say(f"penstock stream {name}: Ctrl-C ends it; readings to try it with: penstock stream replay")
    if view.gateway.keys is None:
        say("devices need no key, as only this machine can reach the gateway")
    parts = [
        Part("gateway", python("stream", "gateway", name, *given)),
        Part("indexer", python("stream", "indexer", name, *given)),
        Part("page", python("stream", "page", name, *given)),
    ]
    sys.exit(supervise(parts))


@stream.command()
def gateway(name: Name = "embedded", overrides: Overrides = None) -> None:
    """The gateway alone."""
    from penstock.stream.declared import declared
    from penstock.stream.gateway_serving import serve

    sys.exit(serve(declared(name, overrides or [])))


@stream.command()
def indexer(
    name: Name = "embedded",
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="readings, windows or lake; may be given more than once.", show_default="all three"
        ),
    ] = None,
) -> None:
    """An indexer alone; several share the work."""
    from penstock.stream.declared import declared
    from penstock.stream.indexer_serving import PARTS, serve

    sys.exit(serve(declared(name, overrides or []), only or PARTS))


@stream.command()
def page(name: Name = "embedded", overrides: Overrides = None) -> None:
    """The live page alone: devices, rates, lag, charts, activities, dead letters."""
    from penstock.stream.declared import declared
    from penstock.stream.page_serving import serve

    sys.exit(serve(declared(name, overrides or [])))


@stream.command()
def status(
    name: Name = "embedded",
    overrides: Overrides = None,
    lag: Annotated[float, typer.Option(min=0, help="Messages that may wait to be stored.")] = 10_000,
    behind: Annotated[
        float,
        typer.Option(min=0, help="Seconds that the newest stored reading may be old while readings come."),
    ] = 60,
) -> None:
    """How it is doing; exit code 1 if a part is away or behind."""
    import time

    from penstock.stream.declared import declared
    from penstock.stream.status import asked, lines, problems

    found = asked(declared(name, overrides or []))
    now = time.time()
    for label, words in lines(found, now):
        print(f"{label:<16}{words}")
    wrong = problems(found, lag=lag, behind=behind, now=now)
    for words in wrong:
        say(f"not well: {words}")
    sys.exit(1 if wrong else 0)


@stream.command()
def compact(name: Name = "embedded", overrides: Overrides = None) -> None:
    """Put small files of the lake together. The indexer that writes it is to be stopped meanwhile."""
    from penstock.stream.declared import declared
    from penstock.stream.lake import compact as together

    view = declared(name, overrides or [])
    if view.lake is None:
        raise PenstockError(f"conf/stream/{name}.yaml: there is no lake", hint="declare one: lake: {path: …}")
    for table, fewer in together(view.lake).items():
        say(f"{table}: {fewer} files fewer")


@stream.command()
def create(name: Name = "embedded", overrides: Overrides = None) -> None:
    """Make topics, templates and tables as declared, or bring those that are there in line."""
    from penstock.stream.declared import declared
    from penstock.stream.log import open_log
    from penstock.stream.store import open_store

    view = declared(name, overrides or [])

    async def made() -> list[str]:
        async with open_log(view.log) as log:
            done = await log.create()
        async with open_store(view.store) as store:
            return done + await store.create()

    for line in asyncio.run(made()):
        say(line)


@stream.command()
def replay(
    devices: Annotated[int, typer.Option(min=1, max=999, help="How many phones.")] = 3,
    speed: Annotated[float, typer.Option(min=0.0, help="Times real speed; 0: as fast as it is taken.")] = 1.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of recorded time, for each phone.")] = 60.0,
    batch: Annotated[float, typer.Option(min=0.02, help="Seconds of recorded time in a message.")] = 1.0,
    disorder: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of messages that come late.")
    ] = 0.05,
    duplicates: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that come twice.")] = 0.02,
    gaps: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that never come.")] = 0.01,
    seed: Annotated[int, typer.Option(help="The same seed, the same messages.")] = 7,
    url: Annotated[str, typer.Option(help="Of the gateway.")] = "http://127.0.0.1:8400",
    key_file: Annotated[
        Path | None, typer.Option("--keys", help="A line `device key` for each of watch-000, watch-001, ….")
    ] = None,
) -> None:
    """Push real recordings of a smartwatch as so many phones would: out of order, twice, with gaps."""
    from penstock.config import RecordingsSource
    from penstock.sources.recordings import recordings
    from penstock.stream.replay import Plan, Sent
    from penstock.stream.replay import replay as push

    plan = Plan(devices, speed, seconds, batch, disorder, duplicates, gaps, seed)
    found = None
    if key_file is not None:
        lines = [line.split() for line in key_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any(len(line) != 2 for line in lines):
            raise PenstockError(
                f"{key_file}: expected a line `device key` each", hint="as `keys add` prints them"
            )
        found = {line[0]: line[1] for line in lines}
    source = RecordingsSource.model_validate(_recordings_source())
    whole = round(seconds / batch) * devices

    def told(sent: Sent) -> None:
        if sys.stderr.isatty():
            refused = f", refused {sent.refused}" if sent.refused else ""
            print(f"\r{len(sent.acknowledged)} of about {whole} messages{refused} ", end="", file=sys.stderr)

    sent = asyncio.run(push(url, recordings(source), plan, keys=found, told=told))
    took = sorted(sent.seconds) or [0.0]
    say(
        f"{len(sent.acknowledged)} messages of {sent.readings} readings acknowledged, {sent.bytes / 1e6:.1f} MB; "
        f"p50 {took[len(took) // 2] * 1000:.1f} ms, p99 {took[int(len(took) * 0.99)] * 1000:.1f} ms"
    )
    if sent.refused or sent.lost:
        say(f"refused, by status: {sent.refused}; without an answer: {sent.lost}")
    if sent.lost:
        sys.exit(1)


def _recordings_source() -> dict[str, object]:
    import yaml

    path = Path("conf/source/recordings.yaml")
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run it in the repository")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@keys.command("add")
def add_key(device: Annotated[str, typer.Argument(help="deviceId.")], file: KeyFile = DEVICES) -> None:
    """A new key for a device, printed once on standard output."""
    from penstock.stream.keys import add

    print(f"{device} {add(file, device)}")
    say(f"kept as a hash in {file}; whoever has the key sends as {device}")


@keys.command("list")
def list_keys(file: KeyFile = DEVICES) -> None:
    """Devices, and how many keys each has."""
    from penstock.stream.keys import known

    for device, hashes in sorted(known(file).items()):
        print(f"{device}\t{len(hashes)}")


@keys.command("revoke")
def revoke_key(device: Annotated[str, typer.Argument(help="deviceId.")], file: KeyFile = DEVICES) -> None:
    """Take all keys from a device; running gateways see it at once."""
    from penstock.stream.keys import revoke

    say(f"{device}: {revoke(file, device)} keys revoked")


@dead.command("list")
def list_dead(
    name: Name = "embedded",
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="At most.")] = 20,
) -> None:
    """The newest dead letters, with reason and origin."""
    from penstock.stream.deadletters import listed
    from penstock.stream.declared import declared
    from penstock.stream.log import open_log

    view = declared(name, overrides or [])

    async def found() -> None:
        async with open_log(view.log) as log:
            for entry in await listed(view, log, count):
                device = entry.key.decode("utf-8", "replace")
                print(
                    f"{entry.place[1]}\t{entry.kind}\t{device}\t{entry.origin[0]}:{entry.origin[1]}\t{entry.reason}"
                )

    asyncio.run(found())


@dead.command("replay")
def replay_dead(name: Name = "embedded", overrides: Overrides = None) -> None:
    """Try all dead letters again: messages go to the log, documents to the store."""
    from penstock.stream.deadletters import replayed
    from penstock.stream.declared import declared
    from penstock.stream.log import open_log
    from penstock.stream.store import open_store

    view = declared(name, overrides or [])

    async def done() -> tuple[int, int]:
        async with open_log(view.log) as log, open_store(view.store) as store:
            return await replayed(view, log, store)

    taken, refused = asyncio.run(done())
    say(f"{taken} taken, {refused} refused once more")


@kibana.command("import")
def import_kibana(
    name: Name = "cluster",
    overrides: Overrides = None,
    url: Annotated[str, typer.Option(help="Of Kibana.")] = "http://127.0.0.1:5601",
    space: Annotated[str | None, typer.Option(help="Of Kibana.", show_default="the default space")] = None,
    ca: Annotated[Path | None, typer.Option(help="A file of certificates.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that it may take to come up.")] = 60.0,
) -> None:
    """Bring them there, in the place of what is there. Credentials: KIBANA_API_KEY, or KIBANA_USER and KIBANA_PASSWORD."""
    from penstock.stream.declared import declared
    from penstock.stream.kibana import Kibana, bring

    there = Kibana(url, space=space, ca=ca, wait=wait)
    for line in bring(declared(name, overrides or []), there):
        say(line)
    say(f"look at it: {there.dashboards}")
