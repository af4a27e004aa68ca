"""A second run, which reads new and changed files only, gives what a first run would give."""

import os
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.acceptance.convert import ingested, oblique_ct, save
from tests.dicom.multiframe import enhanced, mosaic
from tests.dicom.samples import write

ROUNDS = 6


def pool() -> list[Dataset]:
    """Slices, and objects with several, of two patients."""
    found: list[Dataset] = []
    for number in range(3):
        patient = {"StudyInstanceUID": f"1.2.{number % 2}", "PatientID": f"P{number % 2}"}
        slices = oblique_ct(4, seed=number, series=f"1.2.3.{number}", shape=(16, 16), **patient)
        sheet = mosaic(slices)
        sheet.SeriesInstanceUID += ".5"
        found += [*slices, enhanced(slices), sheet]
    return found


class Archive:
    """A folder in which files come, go, move and change."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.pool = pool()

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())

    def place(self) -> Path:
        path = self.root / self.chance.choice(["a", "b", "c/d"]) / f"f{self.chance.randrange(30)}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self) -> None:
        dataset = deepcopy(self.chance.choice(self.pool))
        for keyword, value in ({"PatientID": "Q"}, {"Rows": 0}, {"Modality": "MR"}, {"PatientSex": "M"})[
            self.chance.randrange(4)
        ].items():
            if self.chance.random() < 0.3:
                setattr(dataset, keyword, value)
        path = write(self.place(), dataset)
        if self.chance.random() < 0.1:
            path.write_bytes(path.read_bytes()[: self.chance.randrange(10, 2000)])

    def remove(self) -> None:
        self.chance.choice(self.files()).unlink()

    def move(self) -> None:
        self.chance.choice(self.files()).replace(self.place())

    def copy(self) -> None:
        source, target = self.chance.choice(self.files()), self.place()
        if not target.exists():
            shutil.copy2(source, target)

    def change_unseen(self) -> None:
        """Change a byte, and put the time of the change back."""
        path = self.chance.choice(self.files())
        facts = path.stat()
        content = bytearray(path.read_bytes())
        if content:
            content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def swap(self) -> None:
        first, second = self.chance.choices(self.files(), k=2)
        if first != second:
            third = self.root / "third"
            first.replace(third)
            second.replace(first)
            third.replace(second)

    def step(self) -> None:
        ways: list[Callable[[], None]] = [
            *(self.put, self.put, self.remove, self.move, self.copy, self.change_unseen, self.swap)
        ]
        self.chance.choice(ways)()


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_whatever_happened_in_between(seed, tmp_path):
    archive = Archive(tmp_path / "raw", seed)
    for _ in range(20):
        archive.put()
    for number in range(ROUNDS):
        for _ in range(archive.chance.randrange(1, 6)):
            archive.step()
        settings = {"modalities": archive.chance.choice([("CT", "MR"), ("CT", "MR"), ("CT",)])}
        again = ingested(archive.root, tmp_path / "results", **settings)
        assert again == ingested(archive.root, tmp_path / f"fresh {number}", **settings), number


def test_a_conflict_that_is_gone_gives_the_series_back(tmp_path):
    save(tmp_path / "raw", oblique_ct(4))
    whole = ingested(tmp_path / "raw", tmp_path / "results")
    (path,) = save(tmp_path / "raw" / "other", oblique_ct(4, seed=2)[:1])
    assert ingested(tmp_path / "raw", tmp_path / "results")[0] == []
    path.unlink()
    assert ingested(tmp_path / "raw", tmp_path / "results") == whole
