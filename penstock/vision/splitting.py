"""Three parts of a set of pictures, by class; pictures that look the same are never in two of them.

Near duplicates are pairs whose difference hashes differ in few bits, and all that such pairs join. Of the 50,000
training pictures of CIFAR-10, three bits join 250, in 115 groups of which the largest has 12. Sixty of those
pairs were looked at: 53 show the same photograph, many of them in other colours or cut a little differently,
which a comparison of pixels would have let through; 7 are of strangers, which does no more to them than put
them on the same side. So there is no second test. Where pictures are alike by nature (documents, scans), the
largest group shows it, and fewer bits are the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import ImagePrepare
from penstock.console import progress
from penstock.errors import PenstockError

__all__ = ["PARTS", "SPLIT_SCHEMA", "Split", "near_duplicates", "split"]

PARTS = ("train", "validation", "holdout")
SPLIT_SCHEMA = pl.Schema(
    {"row": pl.UInt32(), "label": pl.String(), "group": pl.UInt32(), "part": pl.String()}
)

Groups = NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """Which part each picture belongs to.

    Attributes:
        frame: As ``SPLIT_SCHEMA``, one row for each picture, in order.
        counts: Pictures by part, then class.
        groups: Groups of two or more that look the same.
        grouped: Pictures in such groups.
        largest: Pictures in the largest group.
        across_classes: Groups whose pictures have several labels.
    """

    frame: pl.DataFrame
    counts: dict[str, dict[str, int]]
    groups: int
    grouped: int
    largest: int
    across_classes: int

    def summary(self) -> dict[str, Any]:
        """All but the frame, to be written as JSON."""
        totals = {part: sum(classes.values()) for part, classes in self.counts.items()}
        return {
            "pictures": totals,
            "classes": self.counts,
            "near_duplicates": {
                "groups": self.groups,
                "pictures": self.grouped,
                "largest": self.largest,
                "across_classes": self.across_classes,
            },
        }


def near_duplicates(hashes: NDArray[np.uint64], bits: int) -> Groups:
    """Number the groups of pictures that look the same, in the order of their first pictures.

    Every pair is compared, shifted array against array: a second for 50,000 pictures, four for 100,000. Bands
    of bits that must agree in one would be quicker for few bits, and slower for many or for hashes that cluster.

    Args:
        hashes: Of each picture, shape (n,).
        bits: In which two hashes may differ.

    Returns:
        The group of each picture, shape (n,).
    """
    # Equal hashes first: what is left to compare are distinct ones.
    distinct, inverse = np.unique(hashes, return_inverse=True)
    parent = list(range(len(distinct)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    steps = range(1, len(distinct) if bits else 1)
    with progress("comparing pictures", len(steps)) as advance:
        for step in steps:
            apart = np.bitwise_count(distinct[step:] ^ distinct[:-step])
            for at in np.flatnonzero(apart <= bits).tolist():
                parent[root(at)] = root(at + step)
            advance(1)
    roots = np.array([root(at) for at in range(len(distinct))], dtype=np.int64)[inverse]
    _, first, group = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group].astype(np.uint32)


def split(labels: pl.Series, hashes: NDArray[np.uint64], prepare: ImagePrepare, seed: int) -> Split:
    """Draw the hold-out of each class, and the validation part of the rest.

    A group belongs to the class of most of its pictures and goes to one part as a whole.

    Args:
        labels: Class of each picture, in their order.
        hashes: Their difference hashes, shape (n,).
        prepare: Shares of the parts, and when two pictures look the same.
        seed: For the draw.

    Raises:
        PenstockError: A class has too few pictures that differ to be in every part.
    """
    groups = near_duplicates(hashes, prepare.near_duplicate_bits)
    classes = sorted(labels.unique().to_list())
    codes = labels.replace_strict(classes, range(len(classes)), return_dtype=pl.Int64).to_numpy()
    table = np.zeros((int(groups.max()) + 1, len(classes)), dtype=np.int64)  # pictures by group and class
    np.add.at(table, (groups, codes), 1)
    sizes, home = table.sum(axis=1), table.argmax(axis=1)
    random = np.random.default_rng(seed)
    part_of = np.zeros(len(sizes), dtype=np.int64)  # an index into PARTS for each group
    for code, label in enumerate(classes):
        members = random.permutation(np.flatnonzero(home == code))
        if len(members) < len(PARTS):
            raise _too_few(label, int((codes == code).sum()), len(members), prepare)
        apart = _nearest(sizes[members], prepare.holdout, leave=2)
        rest = members[apart:]
        part_of[members[:apart]] = PARTS.index("holdout")
        part_of[rest[: _nearest(sizes[rest], prepare.validation, leave=1)]] = PARTS.index("validation")
    parts = part_of[groups]
    counts = {
        part: dict(
            zip(classes, np.bincount(codes[parts == at], minlength=len(classes)).tolist(), strict=True)
        )
        for at, part in enumerate(PARTS)
    }
    frame = pl.DataFrame(
        {"row": np.arange(len(groups)), "label": labels, "group": groups, "part": np.array(PARTS)[parts]},
        schema=SPLIT_SCHEMA,
    )
    many = sizes > 1
    return Split(
        frame,
        counts,
        groups=int(many.sum()),
        grouped=int(sizes[many].sum()),
        largest=int(sizes.max()),
        across_classes=int(((table > 0).sum(axis=1) > 1).sum()),
    )


def _nearest(sizes: NDArray[np.int64], share: float, *, leave: int) -> int:
    """How many of the groups, from the first on, come nearest to ``share`` of their pictures.

    At least one, and ``leave`` of them stay.
    """
    taken = np.cumsum(sizes)[: len(sizes) - leave]
    return int(np.argmin(np.abs(taken - share * sizes.sum()))) + 1


def _too_few(label: str, pictures: int, groups: int, prepare: ImagePrepare) -> PenstockError:
    return PenstockError(
        f"the class {label!r} has {pictures} pictures, of which {groups} differ by more than "
        f"{prepare.near_duplicate_bits} bits; training, validation and hold-out each need one",
        hint="gather more pictures of it, or lower prepare.near_duplicate_bits if they are not the same",
    )
