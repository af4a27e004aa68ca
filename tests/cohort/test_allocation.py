import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cohort.allocation import allocate
from tests.cohort.samples import RELAXED

seeds = st.integers(0, 2**32 - 1)


def patients(generator, number, classes=2, most=4, prevalence=0.3):
    """Counts of images by class; a tenth of the patients have images of several classes."""
    shares = np.array([1 - prevalence, *[prevalence / (classes - 1)] * (classes - 1)])
    size = generator.integers(1, most + 1, number)
    counts = np.zeros((number, classes), dtype=np.int64)
    for patient in range(number):
        if generator.random() < 0.1:
            counts[patient] = generator.multinomial(size[patient], shares)
        else:
            counts[patient, generator.choice(classes, p=shares)] = size[patient]
    return counts


def held(counts, parts, number):
    return np.stack([counts[parts == part].sum(axis=0) for part in range(number)])


def imbalance(counts, parts, number):
    """Largest deviation from equal shares as a fraction: of the images of a class, of the patients with a class."""

    def deviation(values):
        return np.abs(held(values, parts, number) / values.sum(axis=0) * number - 1).max()

    return deviation(counts), deviation((counts > 0).astype(np.int64))


@RELAXED
@given(seed=seeds, number=st.integers(60, 150), parts=st.integers(2, 8))
def test_equal_parts_are_balanced_to_about_one_patient(seed, number, parts):
    counts = patients(np.random.default_rng(seed), number)
    found = allocate(counts, [1 / parts] * parts, np.random.default_rng(seed))
    assert np.abs(held(counts, found, parts) - counts.sum(axis=0) / parts).max() <= counts.sum(axis=1).max()
    for column in range(counts.shape[1]):
        holders = np.bincount(found[counts[:, column] > 0], minlength=parts)
        assert holders.max() - holders.min() <= 3


@RELAXED
@given(seed=seeds, share=st.floats(0.1, 0.5))
def test_unequal_parts_get_their_shares(seed, share):
    counts = patients(np.random.default_rng(seed), 100)
    found = allocate(counts, (share, 1 - share), np.random.default_rng(seed))
    assert np.abs(held(counts, found, 2)[0] - share * counts.sum(axis=0)).max() <= counts.sum(axis=1).max()
    assert abs((found == 0).sum() - share * len(counts)) <= 4


def test_large_and_small_patients_are_spread():
    counts = np.array([[20, 0], [20, 0], [0, 20], [0, 20], *[[1, 0]] * 20, *[[0, 1]] * 20])
    found = allocate(counts, (0.5, 0.5), np.random.default_rng(0))
    assert held(counts, found, 2).tolist() == [[30, 30], [30, 30]]
    assert np.bincount(found[4:]).tolist() == [20, 20]


def test_patients_of_each_class_are_balanced_better_than_by_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    ours, theirs = [], []
    for seed in range(10):
        counts = patients(np.random.default_rng(seed), 60, most=6)
        groups = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
        labels = np.concatenate([np.repeat([0, 1], row) for row in counts])
        ours.append(imbalance(counts, allocate(counts, [0.2] * 5, np.random.default_rng(seed)), 5))
        parts = np.zeros(len(counts), dtype=np.int64)
        split = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, groups)
        for part, (_, tested) in enumerate(split):
            parts[groups[tested]] = part
        theirs.append(imbalance(counts, parts, 5))
    (images, people), (other_images, other_people) = np.mean(ours, axis=0), np.mean(theirs, axis=0)
    assert people < 0.75 * other_people
    assert images < 1.5 * other_images  # what it costs


def test_seeds_decide_between_equals():
    counts = np.ones((30, 1), dtype=np.int64)
    first, again, other = (allocate(counts, (0.5, 0.5), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
