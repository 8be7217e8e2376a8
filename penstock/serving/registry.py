"""Which models there are, in which versions, and how a changed artefact takes the place of an earlier one.

A version that is loaded is complete and warm before anybody sees it. The place is then taken in one step of the event loop:
a request is answered by what it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from penstock.artifact.manifest import MANIFEST
from penstock.artifact.signature import SIGNATURE, verify
from penstock.config.serving import Serve, ServedModel
from penstock.console import say
from penstock.serving.artefacts import Artefact, Rules, open_artefact
from penstock.serving.batching import Batcher, Told
from penstock.serving.declared import served_models
from penstock.serving.metrics import Metrics
from penstock.serving.refusals import Refusal

__all__ = ["Lane", "Model", "Registry", "Reloaded"]

RETRIES = 5  # looks at an artefact that cannot be loaded and does not change; it may be half copied


@dataclass(frozen=True)
class Lane:
    """A version, and what runs it."""

    artefact: Artefact
    batcher: Batcher

    @property
    def version(self) -> str:
        return self.artefact.version


@dataclass
class Model:
    """A model and its versions.

    Attributes:
        name: In addresses.
        declared: Where it lies.
        active: Answers unless another version is asked for.
        beside: By their version: those that are declared beside it.
        earlier: By their version: those that it has taken the place of.
        stamp: Of the manifest when it was last looked at.
        tries: How often what lies there now could not be loaded.
    """

    name: str
    declared: ServedModel
    active: Lane
    beside: dict[str, Lane] = field(default_factory=dict)
    earlier: OrderedDict[str, Lane] = field(default_factory=OrderedDict)
    stamp: tuple[int, ...] | None = None
    tries: int = 0

    def lane(self, version: str | None) -> Lane:
        """What answers by a version.

        Raises:
            Refusal: There is no such version.
        """
        if version is None or version == self.active.version:
            return self.active
        found = self.beside.get(version) or self.earlier.get(version)
        if found is None:
            raise Refusal(
                404, "version", f"{self.name}: no version {version!r}; there are {', '.join(self.versions)}"
            )
        return found

    @property
    def versions(self) -> list[str]:
        """The active one first."""
        return list(dict.fromkeys([self.active.version, *self.beside, *self.earlier]))


@dataclass(frozen=True)
class Reloaded:
    """What became of a look at a model's folder.

    Attributes:
        model: Its name.
        outcome: Whether there is a new version, the same one, or one that cannot be loaded.
        version: That answers now.
        before: That has answered before.
        error: Why it cannot be loaded.
    """

    model: str
    outcome: Literal["changed", "same", "failed"]
    version: str
    before: str
    error: str | None = None


class Registry:
    """All models of one process. Made on its event loop.

    Args:
        view: What is declared.
        metrics: What is counted.
    """

    def __init__(self, view: Serve, metrics: Metrics) -> None:
        self.view, self.metrics = view, metrics
        self.models: dict[str, Model] = {}
        self._rules = Rules(view.limits, ignore_others=view.unknown_columns == "ignore")
        # Loading is kept off the loop, and one at a time: it takes memory for two.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="penstock-load")
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Load everything that is declared.

        Raises:
            PenstockError: An artefact cannot be loaded.
        """
        for name, declared in served_models(self.view).items():
            stamp = _stamp(Path(declared.path))
            active = await self._lane(name, Path(declared.path), declared)
            model = Model(name, declared, active, stamp=stamp)
            for folder in declared.also:
                lane = await self._lane(name, Path(folder), declared)
                model.beside[lane.version] = lane
            self.models[name] = model
            self.metrics.serving.labels(name, active.version).set(1)
            self.metrics.reloads.labels(name, "changed"), self.metrics.reloads.labels(name, "failed")

    async def _lane(self, name: str, folder: Path, declared: ServedModel) -> Lane:
        loop, batching = asyncio.get_running_loop(), self.view.batching
        most = batching.max_batch_size
        artefact = await loop.run_in_executor(self._pool, self._opened, folder, declared, most)
        return Lane(artefact, Batcher(artefact, batching, self.view.limits, self._told(name)))

    def _opened(self, folder: Path, declared: ServedModel, most: int) -> Artefact:
        signatures = self.view.signatures
        if signatures.required and signatures.key is not None:
            verify(folder, Path(signatures.key))
        return open_artefact(folder, declared, self._rules, most=most)

    def _told(self, name: str) -> Told:
        run_seconds = self.metrics.spread("run_seconds", name)
        batch_rows, queued = self.metrics.spread("batch_rows", name), self.metrics.queued.labels(name)
        last = 0

        def run(rows: int, seconds: float) -> None:
            run_seconds.observe(seconds)
            batch_rows.observe(rows)

        def waiting(rows: int) -> None:
            nonlocal last
            if rows != last:
                queued.set(rows)
                last = rows

        return Told(run, waiting)

    def model(self, name: str) -> Model:
        """A model by its name.

        Raises:
            Refusal: There is none.
        """
        found = self.models.get(name)
        if found is None:
            raise Refusal(404, "model", f"no model {name!r}; there are {', '.join(self.models)}")
        return found

    # --- changes ------------------------------------------------------------------------------------

    async def look(self) -> list[Reloaded]:
        """Load what has changed since the last look."""
        return [
            await self.reload(model.name)
            for model in list(self.models.values())
            if self._changed(model, _stamp(Path(model.declared.path)))
        ]

    def _changed(self, model: Model, stamp: tuple[int, ...] | None) -> bool:
        if stamp is None:
            return False  # taken away, or about to be replaced: what is loaded goes on
        if stamp != model.stamp:
            model.tries = 0
            return True
        return 0 < model.tries < RETRIES

    async def reload(self, name: str) -> Reloaded:
        """Look at one model's folder, and load what is there if it is another version. What cannot be loaded changes nothing."""
        async with self._lock:
            model = self.models[name]
            before, folder = model.active.version, Path(model.declared.path)
            model.stamp = _stamp(folder)
            try:
                lane = await self._lane(name, folder, model.declared)
            except Exception as error:  # whatever it is, what is loaded goes on
                model.tries += 1
                if model.tries in {1, RETRIES}:
                    say(f"serve: {name}: version {before} goes on, as the new one cannot be loaded: {error}")
                self.metrics.reloads.labels(name, "failed").inc()
                return Reloaded(name, "failed", before, before, str(getattr(error, "message", error)))
            model.tries = 0
            if lane.version == before:
                return Reloaded(name, "same", before, before)
            self._take_place(model, lane)
            say(f"serve: {name}: version {lane.version} answers; before, {before}")
            self.metrics.reloads.labels(name, "changed").inc()
            return Reloaded(name, "changed", lane.version, before)

    def _take_place(self, model: Model, lane: Lane) -> None:
        gone, model.active = model.active, lane
        model.earlier.pop(lane.version, None)
        model.earlier[gone.version] = gone
        while len(model.earlier) > self.view.reload.keep:
            model.earlier.popitem(last=False)  # what it has been given it still answers
        self.metrics.serving.labels(model.name, gone.version).set(0)
        self.metrics.serving.labels(model.name, lane.version).set(1)

    async def watch(self) -> None:
        """Look at the folders for ever, if that is declared."""
        poll = self.view.reload.poll
        while poll is not None:
            await asyncio.sleep(poll.total_seconds())
            with contextlib.suppress(OSError):
                await self.look()

    def close(self) -> None:
        """End the thread that loads."""
        self._pool.shutdown(wait=False)


def _stamp(folder: Path) -> tuple[int, ...] | None:
    """What changes when a manifest or a signature is replaced; None if there is no manifest."""
    found: list[int] = []
    for name in (MANIFEST, SIGNATURE):
        try:
            about = (folder / name).stat()
        except OSError:
            if name == MANIFEST:
                return None
        else:
            found += [about.st_mtime_ns, about.st_ino, about.st_size]
    return tuple(found)
