from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.core.errors import ArtefactError, ReportError
from pipeline.core.records import CalibratedPrediction, FindingPrediction
from pipeline.core.states import read_states, write_states
from pipeline.evaluation.bootstrap import multiplicities
from pipeline.evaluation.estimates import Resampling, judge
from pipeline.evaluation.findings import as_binary, classes_of, recompute_findings
from pipeline.evaluation.macro import compare_means, estimate_means, joint_clusters, judge_means
from pipeline.evaluation.scores import find_clusters
from pipeline.evaluation.study import evaluate_study
from tests.evaluation.synthetic import BINARY, Plan, make_protocol, make_tables
from tests.evaluation.synthetic_findings import NAMES, make_finding_protocol, make_finding_tables, reordered

ONLY = ("Mass",)


def evaluated(tables, protocol):
    return evaluate_study("study", tables, protocol, created="2026-11-21T00:00:00Z", module="pipeline.core.states")


def assert_alike(one, two, rel):
    """Compare two records: texts are equal, numbers nearly."""
    one, two = one.model_dump(), two.model_dump()
    for key, value in one.items():
        assert value == (pytest.approx(two[key], rel=rel) if isinstance(value, float) else two[key]), key


@pytest.fixture(scope="module")
def study():
    return evaluated(make_finding_tables(), make_finding_protocol())


@pytest.fixture(scope="module")
def single():
    """A study of one finding, and the same study of two classes."""
    tables = make_finding_tables(ONLY, prevalences=(0.5,), unknown=0.0)
    return evaluated(tables, make_finding_protocol(ONLY)), evaluated(make_tables(Plan(patients=90)), make_protocol())


def test_a_single_finding_has_exactly_the_numbers_of_two_classes(single):
    (findings, rows), (binary, binary_rows) = single
    for one, two in zip(findings.strategies, binary.strategies, strict=True):
        own = [item for item in one.estimates if item.metric.endswith(":Mass")]
        expected = [item.model_copy(update={"metric": f"{item.metric}:Mass"}) for item in two.estimates]
        assert len(own) == len(expected)
        for item, wanted in zip(own, expected, strict=True):
            assert_alike(item, wanted, rel=1e-6)
        assert one.findings[0].operating_point.confusion == two.operating_point.confusion
        assert one.findings[0].operating_point.thresholds == pytest.approx(two.operating_point.thresholds, rel=1e-6)
        assert one.calibration[0].slope == pytest.approx(two.calibration[0].slope, rel=1e-6)
        assert one.roc[0].low == pytest.approx(two.roc[0].low, rel=1e-6)
    for row, wanted in zip(rows, binary_rows, strict=True):
        assert (row.unit_id, row.fold, row.level) == (wanted.unit_id, wanted.fold, wanted.level)
        assert row.probabilities == pytest.approx(wanted.probabilities, rel=1e-6)


def test_the_mean_over_one_finding_is_that_finding(single):
    (findings, _), (binary, _) = single
    for strategy in ("full", "scratch"):
        for level, metric, fold in [("patient", "auroc", None), ("patient", "auprc", None), ("image", "auroc", None),
                                    ("patient", "auroc", 1), ("patient", "auroc_across_folds", None)]:  # fmt: skip
            ours = findings.estimate(strategy, level, metric, fold)
            theirs = binary.estimate(strategy, level, metric, fold)
            got, wanted = ((item.value, item.low, item.high) for item in (ours, theirs))
            assert got == pytest.approx(wanted, rel=1e-6)
            assert (ours.patients, ours.images) == (theirs.patients, theirs.images)
    for ours in (item for item in findings.comparisons if ":" not in item.metric):
        theirs = next(item for item in binary.comparisons if (item.level, item.metric) == (ours.level, ours.metric))
        assert (ours.difference, ours.low, ours.high) == pytest.approx((theirs.difference, theirs.low, theirs.high))


def test_areas_are_scikit_learn_s_over_what_is_known(study):
    evaluation, rows = study
    for finding in NAMES:
        aurocs, precisions = [], []
        for fold in range(evaluation.folds):
            own = [r for r in rows if (r.strategy, r.level, r.finding, r.fold) == ("full", "image", finding, fold)]
            truth = [row.label == finding for row in own]
            scores = [row.probabilities[1] for row in own]
            aurocs.append(roc_auc_score(truth, scores))
            precisions.append(average_precision_score(truth, scores))
        assert evaluation.estimate("full", "image", f"auroc:{finding}").value == pytest.approx(np.mean(aurocs))
        assert evaluation.estimate("full", "image", f"auprc:{finding}").value == pytest.approx(np.mean(precisions))
    mean = np.mean([evaluation.estimate("full", "patient", f"auroc:{name}").value for name in NAMES])
    assert evaluation.estimate("full", "patient", "auroc").value == pytest.approx(mean)


def test_an_image_of_which_a_finding_is_unknown_decides_nothing_about_it():
    tables, protocol = make_finding_tables(), make_finding_protocol(replicates=100)
    wild = [
        row.model_copy(
            update={
                "logits": tuple(
                    40.0 if state == -1 else logit
                    for state, logit in zip(read_states(row.label, NAMES), row.logits, strict=True)
                )
            }
        )
        for row in tables.predictions
    ]
    plain, _ = evaluated(tables, protocol)
    other, _ = evaluated(replace(tables, predictions=wild), protocol)
    assert plain.strategies == other.strategies
    assert plain.warnings == other.warnings


def test_permuting_the_findings_permutes_the_results(study):
    evaluation, _ = study
    order = [2, 0, 1]
    names = tuple(NAMES[i] for i in order)
    other, _ = evaluated(reordered(make_finding_tables(), NAMES, order), make_finding_protocol(names))
    for one, two in zip(evaluation.strategies, other.strategies, strict=True):
        place = {(item.level, item.metric, item.fold): item for item in two.estimates}
        assert len(one.estimates) == len(place)
        for item in one.estimates:
            assert_alike(item, place[item.level, item.metric, item.fold], rel=1e-9)
        assert set(one.findings) == set(two.findings)
        assert [curve.class_name for curve in two.roc] == list(names)


def test_every_estimate_can_be_recomputed_from_the_predictions(study):
    evaluation, rows = study
    assert all(isinstance(row, FindingPrediction) for row in rows)
    again = recompute_findings(rows, NAMES)
    estimates = [item for result in evaluation.strategies for item in result.estimates]
    assert {(item.strategy, item.level, item.metric, item.fold) for item in estimates} == set(again)
    for item in estimates:
        value = again[item.strategy, item.level, item.metric, item.fold]
        assert item.value == pytest.approx(value, rel=1e-9)


def test_counts_of_known_and_unknown_add_up(study):
    evaluation, _ = study
    whole = next(row for row in evaluation.cohort if (row.fold, row.label) == (None, None))
    for item in evaluation.strategies[0].findings:
        assert item.patients_present + item.patients_absent + item.patients_unknown == whole.patients
        assert item.images_known + item.images_unknown == whole.images
        own = next(row for row in evaluation.cohort if (row.fold, row.label) == (None, item.name))
        assert own.patients == item.patients_present
    assert evaluation.strategies[0].findings[1].images_unknown > 0
    assert evaluation.strategies[0].operating_point is None
    assert evaluation.positive_class is None


def test_a_patient_has_a_finding_that_one_image_shows_and_others_do_not_know():
    tables = make_finding_tables()
    patient = tables.labels[0].patient
    changed = dict(zip([row.image_id for row in tables.labels if row.patient == patient],
                       [(0, 1, -1), (0, -1, -1)], strict=True))  # fmt: skip
    rows = [
        row.model_copy(update={"label": write_states(NAMES, changed[row.image_id])})
        for row in tables.predictions
        if row.image_id in changed
    ]
    parts = dict(as_binary(rows, NAMES))
    assert {row.label for row in parts["Effusion"]} == {"no Effusion"}
    assert {(row.image_id, row.label) for row in parts["Mass"]} == {(next(iter(changed)), "Mass")}
    assert parts["Hernia"] == []


def test_the_bootstrap_of_one_finding_is_that_of_two_classes(single):
    (_, rows), _ = single
    plain = [CalibratedPrediction(**{k: v for k, v in dict(row).items() if k != "finding"}) for row in rows]
    ours, theirs = joint_clusters({"Mass": plain}), find_clusters(plain, classes_of("Mass"))
    assert dict(ours.index) == dict(theirs.index)
    assert np.array_equal(multiplicities(ours, seed=1, chunk=0), multiplicities(theirs, seed=1, chunk=0))


def test_no_resample_loses_the_rarest_finding(study):
    _, rows = study
    rows_of = {name: [row for row in rows if row.finding == name] for name in NAMES}
    clusters = joint_clusters(rows_of)
    counts = {name: len({row.group for row in rows_of[name] if row.label == name}) for name in NAMES}
    rarest = min(NAMES, key=counts.get)
    weights = multiplicities(clusters, seed=1, chunk=0)
    for fold in range(3):
        groups = {row.group for row in rows_of[rarest] if (row.label, row.fold) == (rarest, fold)}
        drawn = weights[[clusters.index[group] for group in groups]].sum(axis=0)
        assert np.allclose(drawn, len(groups))


def test_names_of_patients_do_not_matter(study):
    evaluation, _ = study
    tables = make_finding_tables()
    swap = {row.patient: f"X{9999 - int(row.patient[1:])}" for row in tables.images}
    renamed = replace(
        tables,
        **{
            name: [
                row.model_copy(
                    update={"patient": swap[row.patient]}
                    | ({"group": swap[row.group]} if hasattr(row, "group") else {})
                )
                for row in getattr(tables, name)
            ]
            for name in ("images", "labels", "folds", "predictions")
        },
    )
    other, _ = evaluated(renamed, make_finding_protocol())
    assert other.strategies == evaluation.strategies


def test_caveats_name_the_findings(study):
    evaluation, _ = study
    told = "\n".join(evaluation.warnings)
    assert "Fewer than 100 patients with Hernia (" in told
    assert "too wide for a firm statement, for" in told
    assert "class “" not in told


def test_classes_and_findings_are_never_taken_for_each_other():
    tables = make_finding_tables()
    with pytest.raises(ReportError, match="other classes"):
        evaluated(tables, make_protocol(NAMES))
    with pytest.raises(ReportError, match="other classes"):
        evaluated(make_tables(), make_finding_protocol(BINARY))
    with pytest.raises(ArtefactError):
        dict(as_binary(make_tables().predictions, BINARY))
    with pytest.raises(KeyError):
        judge([], NAMES, make_protocol().resampling)["full", "patient"]


def test_a_finding_unknown_in_a_whole_test_part_stops_the_evaluation():
    tables = make_finding_tables()
    lost = {row.image_id for row in tables.folds if (row.fold, row.role) == (1, "test")}

    def hide(text, image):
        states = read_states(text, NAMES)
        return write_states(NAMES, (*states[:2], -1) if image in lost else states)

    changed = {
        name: [row.model_copy(update={"label": hide(row.label, row.image_id)}) for row in getattr(tables, name)]
        for name in ("labels", "folds", "predictions")
    }
    with pytest.raises(ReportError, match="`Hernia` is unknown in the whole test part of fold 2"):
        evaluated(replace(tables, **changed), make_finding_protocol())


# Means where findings are rare


def drawn_rows(draw, counts, *, distance=1.0, strategies=("full",), patients=90):
    """One image for each patient; `counts` tells in how many of each fold's patients a finding is present."""
    folds = np.arange(patients) % len(next(iter(counts.values())))
    rows_of = {}
    for name, of_fold in counts.items():
        has = np.zeros(patients, dtype=bool)
        for fold, number in enumerate(of_fold):
            has[draw.choice(np.flatnonzero(folds == fold), number, replace=False)] = True
        rows_of[name] = [
            CalibratedPrediction(
                strategy=strategy, fold=int(folds[patient]), level=level, unit_id=f"{patient}", patient=f"P{patient}",
                group=f"P{patient}", label=label, probabilities=(1 - probability, probability), decision=label,
            )
            for strategy in strategies
            for patient, probability in enumerate(norm.cdf(draw.normal(size=patients) + distance * has - 0.5).tolist())
            for label in [name if has[patient] else f"no {name}"]
            for level in ("image", "patient")
        ]  # fmt: skip
    return rows_of


def means_of(rows_of, seed=1, replicates=200):
    resampling = Resampling(seed, replicates, 0.95)
    means = judge_means(rows_of, resampling)
    found = {(e.level, e.metric, e.fold): e for e in estimate_means(means, means[0].strategy, resampling)}
    return found, compare_means(means, resampling)


def test_a_finding_of_a_single_patient_leaves_means_without_interval_and_is_named():
    counts = {"Mass": (10, 10, 10), "Hernia": (4, 4, 1)}
    found, comparisons = means_of(drawn_rows(np.random.default_rng(1), counts, strategies=("full", "scratch")))
    for key in [("patient", "auroc", None), ("image", "auroc", None), ("patient", "auprc", None),
                ("patient", "auroc", 2), ("patient", "auprc", 2)]:  # fmt: skip
        assert found[key].value is not None
        assert (found[key].low, found[key].high) == (None, None)
        assert "Hernia (fold 3)" in found[key].note
        assert "Mass" not in found[key].note
    assert found["patient", "auroc", 0].low is not None
    assert not found["patient", "auroc", 0].note
    assert found["patient", "auroc_across_folds", None].low is not None
    for item in comparisons:
        assert item.difference is not None
        if item.metric in {"auroc", "auprc"}:
            assert (item.low, item.high) == (None, None)
            assert "Hernia (fold 3)" in item.method


def test_a_single_patient_without_a_finding_counts_as_one_with_it():
    found, _ = means_of(drawn_rows(np.random.default_rng(1), {"Mass": (10, 10, 10), "Support": (20, 29, 20)}))
    assert found["patient", "auroc", None].low is None
    assert "Support (fold 2)" in found["patient", "auroc", None].note


def test_complete_separation_of_all_findings_has_the_exact_bound_of_the_rarest():
    counts = {"Mass": (10, 10, 10), "Hernia": (3, 4, 3)}
    found, _ = means_of(drawn_rows(np.random.default_rng(1), counts, distance=40.0))
    for key, pairs in [(("patient", "auroc", None), 10), (("patient", "auroc", 0), 3)]:
        assert (found[key].value, found[key].high) == (1.0, 1.0)
        assert found[key].low == pytest.approx(0.025 ** (1 / pairs))
        assert "exact bound" in found[key].method


def test_a_patient_alone_with_a_rarest_finding_is_drawn_with_others():
    """Of many findings in few patients, one patient of a fold may be the only one with its rarest finding."""
    counts = {"A": (7, 7, 7), "B": (5, 5, 5), "C": (5, 5, 5), "D": (4, 4, 4)}
    rows_of = drawn_rows(np.random.default_rng(1), counts, patients=36)
    clusters = joint_clusters(rows_of)
    for fold in range(3):
        sizes = np.bincount(clusters.classes[clusters.folds == fold])
        assert (sizes != 1).all()
    held = {row.group for rows in rows_of.values() for row in rows if not row.label.startswith("no ")}
    draws = multiplicities(clusters, seed=1, chunk=0)
    assert all(draws[clusters.index[group]].std() > 0 for group in held)


@pytest.mark.slow
@pytest.mark.parametrize("of_fold", [(10, 10, 10), (3, 3, 3), (10, 10, 1), (1, 1, 1)])
def test_intervals_of_means_hold_the_truth(of_fold):
    """Of 100 intervals that hold the truth 95 times in 100, at least 87 do in all but one of 1000 runs.

    Resampling a finding's only patient as if it never varied gave 0.77 for (10, 10, 1) and 0.48 for (1, 1, 1).
    """
    draw, truth, ends = np.random.default_rng(7), norm.cdf(1 / np.sqrt(2)), []
    for seed in range(100):
        found, _ = means_of(drawn_rows(draw, dict.fromkeys("ABC", of_fold)), seed=seed, replicates=100)
        mean = found["image", "auroc", None]
        ends.append((mean.low, mean.high))
    if 1 in of_fold:
        exact = [low for low, high in ends if low is not None]
        assert all(high in {None, 1.0} for _, high in ends)
        assert len(exact) <= 5
        return
    assert sum(low <= truth <= high for low, high in ends) >= 87
