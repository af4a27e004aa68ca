"""Rules for pixels: what a rule may say, and what it may not."""

import pytest
from pydantic import ValidationError

from pipeline.config import DeidentifySettings, check
from pipeline.core.errors import ConfigError
from pipeline.dicom.deidentification.pixel_rules import PixelRule, Rectangle, contradiction

RULE = {
    "name": "us-one",
    "modality": "US",
    "manufacturer": "Maker",
    "model": "One",
    "rows": 60,
    "columns": 80,
    "photometric": "RGB",
    "blank": [{"top": 0, "left": 0, "rows": 10, "columns": 80}],
}
CONFIG = {
    "study": "s",
    "ingest": {"source": "x"},
    "label": {"table": "t.csv", "key": "PatientID", "classes": ["a", "b"]},
}


def rule(**changed):
    return PixelRule.model_validate({**RULE, **changed})


def place(**changed):
    return {"blank": [{"top": 5, "left": 5, "rows": 5, "columns": 5, **changed}]}


def test_a_rule_is_taken_as_it_stands():
    found = rule()
    assert found.subject == ("US", "Maker", "One", 60, 80, "RGB")
    assert found.blank == (Rectangle(top=0, left=0, rows=10, columns=80),)
    assert not found.vouches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (place(top=-1), "greater than or equal to 0"),
        (place(left=-1), "greater than or equal to 0"),
        (place(rows=0), "greater than or equal to 1"),
        (place(columns=0), "greater than or equal to 1"),
        (place(columns=-4), "greater than or equal to 1"),
        (place(top=56), "rectangle 1 reaches beyond the 60 rows and 80 columns"),
        (place(left=76), "rectangle 1 reaches beyond the 60 rows and 80 columns"),
        (place(top=60), "rectangle 1 reaches beyond the 60 rows and 80 columns"),
        (place(rows=2**40), "less than or equal to 65535"),
        (place(rows="many"), "valid integer"),
        (place(colour="red"), "Extra inputs are not permitted"),
        ({"blank": [{"top": 0, "left": 0, "rows": 60, "columns": 80}]}, "the whole image"),
        ({"blank": []}, "must blank something"),
        ({"keep": "regions", "modality": "CR"}, "only ultrasound"),
        ({"keep": "nothing"}, "everything"),
        ({"name": "Mr Smith"}, "pattern"),
        ({"name": ""}, "pattern"),
        ({"modality": ""}, "pattern"),
        ({"modality": "*"}, "pattern"),
        ({"rows": 0}, "greater than or equal to 1"),
        ({"photometric": "CMYK"}, "MONOCHROME1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(changes, message):
    with pytest.raises(ValidationError, match=message):
        rule(**changes)


def test_regions_alone_are_enough():
    assert rule(keep="regions", blank=[]).blank == ()


def test_two_rules_for_the_same_images_are_refused():
    first, other = rule(), rule(name="us-two", vouches=True)
    assert contradiction([first, rule(name="us-two", rows=61)]) == ""
    assert contradiction([first, other]) == "the rules us-one and us-two are for the same images"
    assert contradiction([first, rule(rows=61)]) == "several rules are called us-one"
    with pytest.raises(ValidationError, match="for the same images"):
        DeidentifySettings(pixel_rules=(first, other))


def test_a_mistake_in_a_rule_is_told_with_its_line():
    lines = {("deidentify", "pixel_rules", 0, "rows"): 7, ("deidentify", "pixel_rules", 0): 4}
    for changes, expected in (
        ({"rows": -2}, "study.yaml:7: `deidentify.pixel_rules.0.rows`: input should be greater"),
        ({"colums": 2}, "study.yaml:4: unknown key `deidentify.pixel_rules.0.colums`; did you mean `columns`?"),
        ({"blank": []}, "study.yaml:4: `deidentify.pixel_rules.0`: a rule that keeps everything must blank something"),
    ):
        with pytest.raises(ConfigError) as caught:
            check({**CONFIG, "deidentify": {"pixel_rules": [{**RULE, **changes}]}}, lines, "study.yaml")
        assert expected in str(caught.value)


def test_rules_go_through_the_command_line_unchanged():
    settings = check({**CONFIG, "deidentify": {"pixel_rules": [RULE]}}, {}, "study.yaml")
    assert DeidentifySettings.model_validate_json(settings.section("deidentify")) == settings.deidentify
