"""The source task: an endless, repeatable stream that shares nothing with the built-in study but its kind."""

import hashlib
from typing import get_args

import numpy as np
import pytest

from pipeline.core import seeding
from pipeline.imaging.steps import PlanarImage, ScalePercentiles, apply, standard_steps
from pipeline.phantom import source_radiograph, studies, textures
from pipeline.phantom.anatomy import Plane, single
from pipeline.phantom.headers import Occasion
from pipeline.phantom.lesion import Finding, Lesion
from pipeline.phantom.plan import plan_cohort
from pipeline.phantom.scanners import SCANNERS as TARGET_SCANNERS
from pipeline.phantom.source_anatomy import ANATOMIES
from pipeline.phantom.source_findings import FINDINGS, add_finding
from pipeline.phantom.source_radiograph import ANY, GROUNDS, LABELS, SCANNERS, SourceStream
from pipeline.phantom.textures import LARGEST_SIDE, TEXTURES, NoiseBank
from pipeline.pretrain import SEED as SHIPPED_SEED

SEED = 1  # that of the built-in cohort, on purpose: a seed given to both must not make them meet
SIDE = 48


def _stream(size: int = SIDE) -> SourceStream:
    return SourceStream(SEED, size)


def _target(patients: int = 16) -> list[np.ndarray]:
    people = plan_cohort(patients=patients, prevalence=0.4, seed=SEED, has_second_studies=True)
    occasions = [Occasion(SEED, person, study) for person in people for study in person.studies]
    return [studies.drawn_radiograph(occasion, 96, "main").pixels for occasion in occasions]


def test_the_same_picture_comes_whatever_was_drawn_before() -> None:
    first, second = _stream(), _stream()
    forwards = [first.picture(index, variant) for index in range(6) for variant in (0, 7)]
    backwards = [second.picture(index, variant) for index in reversed(range(6)) for variant in (7, 0)]
    assert all(np.array_equal(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))
    assert [first.labels(index).tolist() for index in range(9)] == [second.labels(index).tolist() for index in range(9)]


def test_seeds_indices_and_variants_give_other_pictures() -> None:
    pictures = [
        SourceStream(seed, SIDE).picture(index, variant) for seed in (1, 2) for index in (0, 1) for variant in (0, 1)
    ]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    assert all(picture.shape == (SIDE, SIDE) and picture.dtype == np.uint8 for picture in pictures)
    assert all(np.ptp(picture) > 100 for picture in pictures)


def test_labels_name_one_ground_and_say_whether_anything_is_there() -> None:
    stream = _stream()
    found = np.stack([stream.labels(index) for index in range(2000)])
    named = dict(zip(LABELS, found.T, strict=True))
    assert (sum(named[name] for name in GROUNDS) == 1).all()
    counts = sum(named[name] for name in FINDINGS)
    assert np.array_equal(counts > 0, named[ANY] == 1)
    assert counts.max() == 3
    assert 0.35 < np.mean(counts == 0) < 0.45
    assert all(named[name].mean() > 0.04 for name in FINDINGS)
    assert {name for name in GROUNDS if named[name].any()} == set(GROUNDS)


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_changes_the_picture_where_it_lies_and_nowhere_else(name: str) -> None:
    before = np.full((64, 64), 0.5, np.float32)
    after = before.copy()
    add_finding(after, name, np.random.default_rng(3), (0.3, -0.2), 0.7, 0.6, NoiseBank(5))
    rows, columns = np.nonzero(np.abs(after - before) > 1e-6)
    assert len(rows) > 10
    reach = 1.25 * 0.35 * 32 + 1
    assert np.abs(columns + 0.5 - (1 + 0.3) * 32).max() <= reach
    assert np.abs(rows + 0.5 - (1 - 0.2) * 32).max() <= reach
    assert 0.1 < np.abs(after - before).max() < 2


def test_a_finding_at_the_border_or_too_small_does_no_harm() -> None:
    total = np.zeros((32, 32), np.float32)
    for centre, diameter in (((1.0, 1.0), 0.4), ((-1.3, 0.0), 0.2), ((0.0, 0.0), 0.01)):
        add_finding(total, "ring", np.random.default_rng(1), centre, diameter, 0.5, NoiseBank(5))
    assert np.isfinite(total).all()


def test_a_picture_shows_the_findings_of_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def noting(total: np.ndarray, name: str, *more: object) -> None:
        before = total.copy()
        add_finding(total, name, *more)  # type: ignore[arg-type]
        assert not np.array_equal(before, total)
        drawn.append(name)

    monkeypatch.setattr(source_radiograph, "add_finding", noting)
    stream, seen = _stream(), set()
    for index in range(60):
        drawn.clear()
        stream.picture(index, index % 3)
        labelled = dict(zip(LABELS, stream.labels(index), strict=True))
        assert drawn == [name for name in FINDINGS if labelled[name]]
        seen.update(drawn)
    assert seen == set(FINDINGS)


def test_pictures_are_taken_with_all_scanners(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    class Noting(tuple[source_radiograph.SourceScanner, ...]):
        __slots__ = ()

        def __getitem__(self, at):  # type: ignore[no-untyped-def,override]
            taken.append(super().__getitem__(at).name)
            return super().__getitem__(at)

    monkeypatch.setattr(source_radiograph, "SCANNERS", Noting(SCANNERS))
    stream = _stream()
    for index in range(60):
        stream.picture(index, 0)
    assert len(taken) == 60
    assert all(taken.count(scanner.name) >= 4 for scanner in SCANNERS)


def test_streams_of_other_seeds_have_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    one, again, other = (NoiseBank(seed).piece(np.random.default_rng(0), SIDE, 1) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5
    seeds: list[int] = []
    monkeypatch.setattr(source_radiograph, "NoiseBank", seeds.append)
    for seed in (1, 2):
        SourceStream(seed, SIDE)
    assert seeds == [1, 2]


def test_the_largest_side_is_drawn_and_no_larger_one() -> None:
    bank = NoiseBank(5)
    assert bank.piece(np.random.default_rng(0), LARGEST_SIDE).shape == (LARGEST_SIDE, LARGEST_SIDE)
    with pytest.raises(ValueError, match="high <= 0"):
        bank.piece(np.random.default_rng(0), LARGEST_SIDE + 1)


# --- nothing in common with the target


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note every seed that a generator is made from, directly or as a word of a list."""
    seeds: list[int] = []
    real, generator = seeding.derive_seed, np.random.default_rng

    def noting(*words: int | str) -> int:
        found = real(*words)  # type: ignore[arg-type]
        seeds.append(found)
        return found

    def made(seed: int | list[int]) -> np.random.Generator:
        seeds.append(hash(tuple(seed)) if isinstance(seed, list) else seed)
        return generator(seed)

    for module in (source_radiograph, textures, studies):
        monkeypatch.setattr(module, "derive_seed", noting)
    monkeypatch.setattr("pipeline.phantom.plan.derive_seed", noting)
    monkeypatch.setattr(np.random, "default_rng", made)
    return seeds


def test_source_and_target_share_no_generator_seed(used: list[int]) -> None:
    _target()
    target = set(used)
    used.clear()
    stream = _stream()
    for index in range(200):
        stream.picture(index, 0)
        stream.picture(index, 1)
    assert len(target) > 60
    assert len(set(used)) > 600
    assert not target & set(used)


def test_source_and_target_share_no_kind_of_finding_anatomy_or_scanner() -> None:
    targets = {*get_args(Finding), "lesion", "normal"}
    assert not targets & set(LABELS)
    assert 10 <= len(FINDINGS) <= 16
    assert "chest" not in ANATOMIES
    assert not {scanner.model for scanner in TARGET_SCANNERS} & {scanner.name for scanner in SCANNERS}
    assert len(LABELS) == 1 + len(FINDINGS) + len(ANATOMIES) + len(TEXTURES) == len(set(LABELS))


def test_no_finding_of_the_source_has_the_shape_of_the_target_lesion() -> None:
    rng, bank, side = np.random.default_rng(0), NoiseBank(5), 48
    line = single((np.arange(side) + 0.5) / side * 2 - 1)
    plane = Plane(*np.meshgrid(line, line), 0.0)
    lesions = _standardised([_lesion(rng).attenuation(plane) for _ in range(100)])
    among_themselves = np.median((lesions @ lesions.T - 2 * np.eye(100)).max(axis=1))
    for name in FINDINGS:
        drawn = []
        for _ in range(40):
            field = np.zeros((side, side), np.float32)
            add_finding(field, name, rng, (0.0, 0.0), rng.uniform(0.5, 1.2), 1.0, bank)
            drawn.append(field)
        likeness = _standardised(drawn) @ lesions.T
        assert np.median(likeness.max(axis=1)) < 0.96, name
        # Only the cyst, a lucent hole, has the shape with the opposite sign.
        assert (np.median((-likeness).max(axis=1)) < 0.96) == (name != "cyst"), name
    assert among_themselves > 0.985


def _lesion(rng: np.random.Generator) -> Lesion:
    return Lesion(
        x=0.0,
        y=0.0,
        diameter=rng.uniform(0.5, 1.0),
        elongation=rng.uniform(1.0, 1.35),
        angle_rad=rng.uniform(0, np.pi),
        lobes=int(rng.integers(2, 6)),
        lobe_depth=rng.uniform(0.02, 0.12),
        contrast=1.0,
    )


@pytest.fixture(scope="module")
def pictures() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures of the source (with the target's seed and with that of the shipped file) and of the target."""
    streams = (_stream(96), SourceStream(SHIPPED_SEED, 96))
    return [stream.picture(index, 0) for stream in streams for index in range(75)], _target()


def test_source_and_target_share_no_digest(pictures: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    source, target = pictures
    digests = {_digest(picture) for picture in target}
    assert len(digests) == len(target)
    assert not digests & {_digest(picture) for picture in source}
    # A picture of the source that was stored among the study's, in twelve bits, would be found.
    assert _digest(source[3].astype(np.uint16) * 16) == _digest(source[3])


def test_source_and_target_share_no_picture(pictures: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    source, target = pictures
    small_source, small_target = (_standardised([_small(one) for one in many]) for many in (source, target))
    # The nearest picture of another patient of the target is far nearer than any of the source.
    between = float((small_source @ small_target.T).max())
    within = float(np.median((small_target @ small_target.T - 2 * np.eye(len(target))).max(axis=1)))
    assert between < 0.8
    assert within > 0.88


def _digest(picture: np.ndarray) -> bytes:
    """Give the digest of what a study would store of a picture."""
    image = PlanarImage(picture.astype(np.float32), is_monochrome1=False, value_range=(0.0, float(picture.max())))
    steps = standard_steps(scaling=ScalePercentiles(low=0.5, high=99.5), size=48, dtype="uint8")
    return hashlib.sha256(apply(steps, image).values.tobytes()).digest()


def _small(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64).reshape(16, 6, 16, 6).mean(axis=(1, 3))


def _standardised(many: list[np.ndarray]) -> np.ndarray:
    flat = np.stack([one.ravel() for one in many]).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)
