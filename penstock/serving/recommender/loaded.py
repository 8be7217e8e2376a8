"""The artefact that answers, and how another one takes its place while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from penstock.artifact.manifest import MANIFEST
from penstock.artifact.recommender_model import RecommenderModel, load
from penstock.config.serving.recommender import Recommend
from penstock.console import say
from penstock.errors import PenstockError
from penstock.serving.recommender.catalogue import Catalogue
from penstock.serving.recommender.rules import Policy

__all__ = ["Loaded", "Model", "open_loaded"]

VERSION_LENGTH = 12  # hex digits of the SHA-256: what a version is called
RETRIES = 5  # looks at what cannot be loaded: it may still be under way
WARM_RUNS = 3


@dataclass(frozen=True)
class Loaded:
    """One version, and what is derived from it.

    Attributes:
        model: To be asked.
        catalogue: What it knows of its items.
        policy: The declared rules on these.
        version: By the hash of its file.
    """

    model: RecommenderModel
    catalogue: Catalogue
    policy: Policy
    version: str


def open_loaded(view: Recommend) -> Loaded:
    """Load what lies in the folder, and run it a few times.

    Raises:
        PenstockError: A file is missing, its hash is not the manifest's, or it does not run.
    """
    folder = Path(view.model)
    model = load(folder)
    catalogue = Catalogue(model.items)
    k = min(view.limits.k, model.manifest.limits.k)
    try:
        for diversity in (0.0, 0.5):
            for _ in range(WARM_RUNS):
                model.recommend([catalogue.ids[:1].tolist()], k=k, diversity=diversity)
    except PenstockError:
        raise
    except Exception as error:  # of ONNX Runtime, which has no class for all of its own
        raise PenstockError(f"{folder}: does not run: {error}", hint="export it anew: `dvc repro`") from error
    return Loaded(model, catalogue, Policy(view.rules, catalogue), model.manifest.sha256[:VERSION_LENGTH])


class Model:
    """What answers now. Made on the event loop.

    Args:
        view: What is declared.
        counted: Told "changed" or "failed" of every look that found something new.
    """

    def __init__(self, view: Recommend, counted: Callable[[str], None]) -> None:
        self.view, self._counted = view, counted
        self._manifest = Path(view.model) / MANIFEST
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="penstock-load")
        self._now: Loaded | None = None
        self._stamp: tuple[int, ...] | None = None
        self._tries = 0
        self._lock = asyncio.Lock()

    @property
    def now(self) -> Loaded:
        """The version that answers. Whoever holds it can go on with it."""
        assert self._now is not None, "open() comes first"
        return self._now

    async def open(self) -> None:
        """Load it.

        Raises:
            PenstockError: It cannot be loaded.
        """
        self._stamp = self._looked()
        self._now = await self._load()
        unknown = self._now.policy.unknown()
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            say(
                f"recommend: warning: rules name what {self.view.model} does not know: {', '.join(unknown[:5])}{more}"
            )

    async def _load(self) -> Loaded:
        return await asyncio.get_running_loop().run_in_executor(self._pool, open_loaded, self.view)

    async def reload(self) -> None:
        """Load what lies there now if it is another version; what cannot be loaded changes nothing."""
        async with self._lock:
            self._stamp = self._looked()
            before = self.now.version
            try:
                found = await self._load()
            except PenstockError as error:
                self._tries += 1
                if self._tries in {1, RETRIES}:
                    say(f"recommend: version {before} goes on, as the new one cannot be loaded: {error}")
                self._counted("failed")
                return
            self._tries = 0
            same = (found.version, found.model.manifest.items_sha256) == (
                before,
                self.now.model.manifest.items_sha256,
            )
            if not same:
                self._now = found
                self._counted("changed")
                say(f"recommend: version {found.version} answers; before, {before}")

    async def watch(self) -> None:
        """Look at the manifest for ever, if that is declared."""
        while self.view.poll is not None:
            await asyncio.sleep(self.view.poll.total_seconds())
            stamp = self._looked()
            if stamp is not None and (stamp != self._stamp or 0 < self._tries < RETRIES):
                if stamp != self._stamp:
                    self._tries = 0
                with contextlib.suppress(OSError):
                    await self.reload()

    def _looked(self) -> tuple[int, ...] | None:
        """What changes when the manifest is replaced; None if there is none now."""
        try:
            about = self._manifest.stat()
        except OSError:
            return None
        return (about.st_mtime_ns, about.st_ino, about.st_size)

    def close(self) -> None:
        """End the thread that loads."""
        self._pool.shutdown(wait=False)
