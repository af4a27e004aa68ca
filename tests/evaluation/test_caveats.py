"""Caveats: each is there when it should be, and only then."""

from dataclasses import replace

import pytest

from pipeline.core.records import Estimate
from pipeline.core.results import FindingCount, OperatingPoint
from pipeline.evaluation import caveats
from pipeline.evaluation.caveats import CAVEATS, Material, list_caveats
from pipeline.evaluation.estimates import judge
from pipeline.evaluation.flow import count_findings
from pipeline.evaluation.out_of_fold import calibrate
from pipeline.evaluation.results import collect_result
from pipeline.evaluation.thresholds import Rule, Threshold
from tests.evaluation.synthetic import BINARY, THREE, Plan, make_protocol, make_tables


def make_material(plan):
    tables, protocol = make_tables(plan), make_protocol(plan.classes)
    fits, rows = calibrate(
        tables.predictions, strategies=["full"], classes=plan.classes, rule=protocol.rule, aggregation="mean"
    )
    judged = judge(rows, plan.classes, protocol.resampling)
    own = collect_result(
        judged, fits, resampling=protocol.resampling, rule=protocol.rule, prevalences=(), history=tables.history,
        training=tables.training,
    )  # fmt: skip
    counts = count_findings(tables.findings)
    return Material(plan.classes, own, fits, protocol.rule, tables.flow, counts, tables.images, tables.folds)


@pytest.fixture(scope="module")
def material():
    return make_material(Plan(patients=60, signals=(1.5,)))


def said(caveat, material):
    return list(caveat(material))


def with_own(material, **values):
    return replace(material, own=material.own.model_copy(update=values))


def with_area(material, low, high, value=0.7):
    estimates = tuple(
        item.model_copy(update={"value": value, "low": low, "high": high})
        if (item.level, item.metric, item.fold) == ("patient", "auroc", None)
        else item
        for item in material.own.estimates
    )
    return with_own(material, estimates=estimates)


def with_training(material, **values):
    return with_own(material, training=tuple(row.model_copy(update=values) for row in material.own.training))


def test_random_weights(material):
    expected = "No transfer is measured: the network started from random weights."
    assert said(caveats.no_transfer, with_training(material, weights_source="random")) == [expected]
    assert said(caveats.no_transfer, material) == []
    assert list_caveats(with_training(material, weights_source="random"))[0] == expected


def test_a_start_from_a_run_on_the_same_images_is_named(material):
    assert said(caveats.known_before, material) == []
    assert "None of the test images" in said(caveats.known_before, with_training(material, weights_source="run"))[0]
    known = with_training(material, weights_source="run", tested_before=3)
    (sentence,) = said(caveats.known_before, known)
    assert "had learnt from" in sentence
    assert "the numbers here are too good" in sentence


def test_interval_of_the_area(material):
    assert "includes 0.5" in said(caveats.no_discrimination, with_area(material, 0.45, 0.62))[0]
    assert "wrong way round" in said(caveats.no_discrimination, with_area(material, 0.30, 0.45))[0]
    assert "0.25 wide" in said(caveats.no_discrimination, with_area(material, 0.65, 0.90))[0]
    assert "no interval" in said(caveats.no_discrimination, with_area(material, None, None))[0]
    assert said(caveats.no_discrimination, with_area(material, 0.80, 0.90)) == []


def test_few_events(material):
    sentences = said(caveats.few_events, material)
    assert len(sentences) == 2
    assert sentences[1].startswith("Only 31 patients of class “yes”")
    point = material.own.operating_point.model_copy(update={"confusion": ((150, 20), (30, 71))})
    sentences = said(caveats.few_events, with_own(material, operating_point=point))
    assert sentences == []


def test_class_and_scanner_go_together(material):
    labels = {row.image_id: row.label for row in material.folds}
    confounded = [image.model_copy(update={"scanner": f"of-{labels[image.image_id]}"}) for image in material.images]
    (sentence,) = said(caveats.other_explanations, replace(material, images=confounded))
    assert "Class and scanner go together" in sentence
    assert said(caveats.other_explanations, material) == []


def test_images_under_two_patients(material):
    assert said(caveats.shared_images, material)[0].startswith("1 remark about images that stand under two patients")
    assert said(caveats.shared_images, replace(material, findings=())) == []


def test_patients_with_several_classes(material):
    assert said(caveats.several_classes, material) == ["2 patients have images of both classes and count as “yes”."]
    assert said(caveats.several_classes, make_material(Plan(mixed=0, signals=(1.0,)))) == []
    several = make_material(Plan(classes=THREE, patients=90, mixed=3, signals=(1.0,)))
    assert "3 patients with images of several classes" in said(caveats.several_classes, several)[0]
    assert said(caveats.threshold_missed, several) == []


def test_operating_point_that_is_missed(material):
    asked = replace(material, rule=Rule("sensitivity", 0.99))
    assert (
        "a sensitivity of at least 0.99; on the patients tested it is 0.7" in said(caveats.threshold_missed, asked)[0]
    )
    enough = [replace(fit, validation_patients=(10, 10)) for fit in material.fits]
    assert said(caveats.threshold_missed, replace(material, rule=Rule("sensitivity", 0.2), fits=enough)) == []
    few = [*enough[1:], replace(enough[0], validation_patients=(12, 4))]
    assert "only 4 of a class" in said(caveats.threshold_missed, replace(material, rule=Rule("youden"), fits=few))[0]


def test_folds_that_could_not_be_fitted(material):
    assert said(caveats.fit_failures, material) == []
    lame = [replace(fit, threshold=Threshold(0.5, "threshold 0.5: one class")) for fit in material.fits[:1]]
    assert said(caveats.fit_failures, replace(material, fits=lame)) == ["Fold 1: threshold 0.5: one class."]


@pytest.mark.parametrize(
    ("values", "is_poor"),
    [
        ({"slope": 2.0, "slope_interval": (1.5, 2.5)}, True),
        ({"slope": 2.0, "slope_interval": (0.9, 3.1)}, False),
        ({"intercept": -1.0, "intercept_interval": (-1.4, -0.6)}, True),
        ({"intercept": -0.1, "intercept_interval": (-0.15, -0.05)}, False),
        ({"slope": None, "slope_interval": None}, False),
    ],
)
def test_probabilities_that_are_no_frequencies(material, values, is_poor):
    perfect = {"slope": 1.0, "slope_interval": (0.9, 1.1), "intercept": 0.0, "intercept_interval": (-0.1, 0.1)}
    item = material.own.calibration[0].model_copy(update=perfect | values)
    sentences = said(caveats.poor_calibration, with_own(material, calibration=(item,)))
    assert bool(sentences) == is_poor


def test_stages_that_leave_out_much(material):
    step = material.flow[2].model_copy(update={"entered": 100, "excluded": 23, "left": 77})
    assert "check_quality left out 23 %" in said(caveats.much_excluded, replace(material, flow=[step]))[0]
    assert said(caveats.much_excluded, material) == []


def test_one_site(material):
    alone = [image.model_copy(update={"site": "site-1"}) for image in material.images]
    silent = [image.model_copy(update={"site": ""}) for image in material.images]
    assert "come from one site" in said(caveats.one_site, replace(material, images=alone))[0]
    assert "do not say where" in said(caveats.one_site, replace(material, images=silent))[0]
    assert said(caveats.one_site, material) == []


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        ("CC BY-NC 4.0", "not be used commercially"),
        ("non-commercial research only", "not be used commercially"),
        ("not stated", "not stated"),
        ("BSD-3-Clause", None),
        ("Apache-2.0 (c) Ncorp", None),
    ],
)
def test_licences(material, licence, words):
    sentences = said(caveats.licence, with_training(material, weights_licence=licence))
    assert [words in sentence for sentence in sentences] == ([True] if words else [])


def test_training_that_ended_early(material):
    assert said(caveats.short_training, material) == []
    ended = with_training(material, best_epoch=3, epochs=3)
    assert "the last epoch was the best" in said(caveats.short_training, ended)[0]
    assert said(caveats.short_training, with_training(material, best_epoch=0, epochs=0)) == []


@pytest.mark.parametrize(("severity", "words"), [("excluded", "left out because"), ("noted", "labels and predictions")])
def test_images_whose_patient_is_not_certain(material, severity, words):
    def counted(*codes):
        return [
            FindingCount(stage="ingest", unit="file", code=code, severity=severity, count=3, meaning="m", remedy="r")
            for code in codes
        ]

    assert said(caveats.uncertain_identity, replace(material, findings=counted("NOT_DICOM"))) == []
    found = replace(material, findings=counted("SHARED_PATIENT_ID", "INCONSISTENT_IDENTITY"))
    (sentence,) = said(caveats.uncertain_identity, found)
    assert sentence.startswith("6 ")
    assert words in sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"software": None}, None),
        ({"device": "another"}, "the same device:"),
        ({"threads": 64, "software": (("torch", "0"),)}, "the same number of threads and software versions:"),
        (
            {"device": "another", "precision": "bfloat16", "threads": 64},
            "the same device, numerical precision and number of threads:",
        ),
    ],
)
def test_folds_of_unlike_machines(material, changes, words):
    first, *others = material.own.training
    if "software" in changes and changes["software"] is None:  # a library that computes nothing
        changes = {"software": (*first.software, ("typst", "0"))}
    mixed = with_own(material, training=(first.model_copy(update=changes), *others))
    assert [words in sentence for sentence in said(caveats.unlike_machines, mixed)] == ([True] if words else [])


def test_every_caveat_is_listed_once_and_ends_its_sentence(material):
    doubled = with_training(material, weights_source="random")
    sentences = list_caveats(doubled)
    assert len(set(sentences)) == len(sentences)
    assert all(sentence.endswith(".") for sentence in sentences)
    functions = {
        name for name in vars(caveats) if callable(getattr(caveats, name)) and name.islower() and name[0] != "_"
    }
    functions -= {"list_caveats", "is_off", "cramers_v", "dataclass", "numerical"}
    assert {caveat.__name__ for caveat in CAVEATS} == functions


def test_material_finds_the_estimate_over_all_folds(material):
    found = material.found("sensitivity")
    assert isinstance(found, Estimate)
    assert (found.level, found.fold) == ("patient", None)
    assert isinstance(material.own.operating_point, OperatingPoint)
    assert material.found("nothing") is None
    assert material.classes == BINARY
