"""Scores and clusters: names and order of rows decide nothing."""

import numpy as np

from pipeline.evaluation.scores import collect_scores, find_clusters, strategies_of
from tests.evaluation.synthetic import BINARY, Plan, make_rows


def renamed(rows):
    """The same rows under the pseudonyms of another key, whose alphabetical order is the reverse."""

    def other(name):
        return f"Q{9999 - int(name[1:]):04d}"

    return [row.model_copy(update={"patient": other(row.patient), "group": other(row.group)}) for row in rows]


def test_clusters_are_groups_in_the_order_of_fold_and_class():
    rows = make_rows(Plan())
    clusters = find_clusters(rows, BINARY)
    assert set(clusters.index) == {row.group for row in rows}
    assert len(clusters.index) < len({row.patient for row in rows})  # two patients share a group
    places = list(zip(clusters.folds, clusters.classes, strict=True))
    assert places == sorted(places)


def test_pseudonyms_do_not_decide_the_order():
    rows = make_rows(Plan())
    own, other = find_clusters(rows, BINARY), find_clusters(renamed(rows), BINARY)
    assert [f"Q{9999 - int(name[1:]):04d}" for name in own.index] == list(other.index)


def test_a_further_strategy_does_not_change_the_clusters_of_the_first():
    rows = make_rows(Plan())
    alone = [row for row in rows if row.strategy == "full"]
    assert list(find_clusters(rows, BINARY).index) == list(find_clusters(alone, BINARY).index)


def test_a_positive_image_makes_its_cluster_positive():
    rows = make_rows(Plan(mixed=4))
    clusters = find_clusters(rows, BINARY)
    for name, position in clusters.index.items():
        has_positive = any(row.group == name and row.label == "yes" for row in rows)
        assert clusters.classes[position] == int(has_positive)


def test_arrays_hold_the_rows():
    rows = make_rows(Plan())
    assert strategies_of(rows) == ("full", "scratch")
    clusters = find_clusters(rows, BINARY)
    scores = collect_scores(rows, "scratch", "image", BINARY, clusters)
    chosen = [row for row in rows if (row.strategy, row.level) == ("scratch", "image")]
    assert scores.probabilities.tolist() == [list(row.probabilities) for row in chosen]
    assert [BINARY[label] for label in scores.labels] == [row.label for row in chosen]
    assert [BINARY[label] for label in scores.decisions] == [row.decision for row in chosen]
    assert np.unique(scores.patients).size == len({row.patient for row in chosen})
    part = scores.select(scores.folds == 1)
    assert part.labels.size == sum(row.fold == 1 for row in chosen)
    assert part.is_binary
