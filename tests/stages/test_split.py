from collections import Counter, defaultdict

import numpy as np
import pytest

from pipeline.config import SplitSettings
from pipeline.core.artefacts import read_table, write_table
from pipeline.core.errors import ArtefactError, CohortError, ReportError
from pipeline.core.reasons import REASONS
from pipeline.core.records import Finding, FlowStep, FoldRole, Image, Label
from pipeline.evaluation.consistency import check_folds
from pipeline.imaging.hashing import difference_hash
from pipeline.stages.split import split

SIZE = 64
PATIENTS = 24


def picture(number):
    """A smooth pattern that all share, so that hashes are alike, and noise of its own."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    own = np.random.default_rng(number).normal(0, 3, (SIZE, SIZE))
    return np.clip(120 + 60 * np.sin(3 * x) + 40 * np.cos(2 * y) + own, 1, 254).round().astype(np.uint8)


class Study:
    """Tables and pixels of a small cohort below a folder; pseudonyms depend on `secret`."""

    def __init__(self, folder, secret="a"):
        self.folder, self.secret = folder, secret
        self.pixels, self.rows, self.labels = [], [], {}

    def add(self, patient, pixels, label, *, digest=None, with_hash=True, **more):
        number = len(self.rows)
        image = Image(
            image_id=f"{self.secret}{(number * 7) % 101:03d}",
            row=number,
            patient=f"P{self.secret}{(patient * 5) % 31:02d}",
            study_uid="1",
            series_uid="1",
            modality="CR",
            source_rows=SIZE,
            source_columns=SIZE,
            intensity_low=0,
            intensity_high=1,
            pixel_sha256=digest or f"{(number * 37) % 997:064d}",
            perceptual_hash=difference_hash(pixels) if with_hash else "",
            **more,
        )
        self.rows.append(image)
        self.pixels.append(pixels)
        self.labels[image.image_id] = label
        return image

    def save(self, order=1):
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [row.model_copy(update={"row": number}) for number, row in enumerate(self.rows[::order])]
        write_table(self.folder / "images.tsv", Image, rows)
        np.save(self.folder / "pixels.npy", np.stack(self.pixels[::order]))
        labels = [
            Label(image_id=row.image_id, patient=row.patient, label=self.labels[row.image_id])
            for row in rows
            if row.image_id in self.labels
        ]
        write_table(self.folder / "labels.tsv", Label, labels)
        return self

    def paths(self):
        names = {"images": "images.tsv", "pixels": "pixels.npy", "labels": "labels.tsv", "folds": "folds.tsv"}
        more = {"duplicates": "duplicates.tsv", "flow": "flow.tsv"}
        return {name: self.folder / path for name, path in {**names, **more}.items()}

    def split(self, seed=1, kind="classes", **settings):
        split(settings=SplitSettings(**{"folds": 3, **settings}), seed=seed, **self.paths(), kind=kind)
        (step,) = read_table(self.folder / "flow.tsv", FlowStep)
        return (
            read_table(self.folder / "folds.tsv", FoldRole),
            read_table(self.folder / "duplicates.tsv", Finding),
            step,
        )


def build(folder, secret="a"):
    """Two images for each patient, and every kind of duplicate."""
    study = Study(folder, secret)
    for patient in range(PATIENTS):
        for number in range(2):
            study.add(patient, picture(2 * patient + number), "yes" if patient % 3 == 0 else "no")
    same = [study.rows[index].pixel_sha256 for index in (0, 4, 8)]
    study.add(0, study.pixels[0], "yes", digest=same[0])  # twice for one patient
    study.add(3, study.pixels[4], "no", digest=same[1])  # patient 2's picture under patient 3
    study.add(5, study.pixels[8], "yes", digest=same[2])  # patient 4's picture under patient 5, labelled otherwise
    noise = np.random.default_rng(0).normal(0, 0.8, (SIZE, SIZE))
    study.add(7, np.clip(study.pixels[12] + noise, 0, 255).astype(np.uint8), "no")  # almost patient 6's picture
    return study


@pytest.fixture
def study(tmp_path):
    return build(tmp_path).save()


def test_copies_enter_the_folds_with_what_all_of_them_know(tmp_path):
    study = build(tmp_path)
    states = {"yes": "lesion=1;mass=0", "no": "lesion=0;mass=1"}
    study.labels = {name: states[label] for name, label in study.labels.items()}
    of_picture: dict[str, list[str]] = {}
    for row in study.rows:
        of_picture.setdefault(row.pixel_sha256, []).append(row.image_id)
    one, other = of_picture[study.rows[0].pixel_sha256]
    study.labels |= {one: "lesion=1;mass=?", other: "lesion=?;mass=0"}
    roles, findings, _ = study.save().split(kind="findings")
    assert {row.label for row in roles if row.image_id in {one, other}} == {"lesion=1;mass=0"}
    assert Counter(finding.code for finding in findings)["SAME_IMAGE_DIFFERENT_LABELS"] == 2
    images, labels = read_table(tmp_path / "images.tsv", Image), read_table(tmp_path / "labels.tsv", Label)
    check_folds(roles, images, labels, "findings")
    told = [
        row.model_copy(update={"label": "lesion=1;mass=1"}) if row.image_id in {one, other} else row for row in roles
    ]
    with pytest.raises(ReportError, match="another patient or label"):
        check_folds(told, images, labels, "findings")


def test_folds_findings_and_flow_agree(study):
    roles, findings, step = study.split()
    assert Counter((finding.code, finding.severity) for finding in findings) == {
        ("SAME_IMAGE_TWICE", "excluded"): 1,
        ("SAME_IMAGE_TWO_PATIENTS", "excluded"): 1,
        ("SAME_IMAGE_DIFFERENT_LABELS", "excluded"): 2,
        ("SIMILAR_IMAGE_TWO_PATIENTS", "noted"): 2,
    }
    assert {finding.code for finding in findings} <= set(REASONS)
    assert (step.entered, step.excluded, step.left) == (52, 4, 48)
    assert len(roles) == 3 * 48
    assert Counter(row.image_id for row in roles if row.role == "test").most_common(1)[0][1] == 1
    left_out = {finding.unit_id for finding in findings if finding.severity == "excluded"}
    assert left_out.isdisjoint(row.image_id for row in roles)
    position = {row.image_id: row.row for row in read_table(study.folder / "images.tsv", Image)}
    assert all(row.row == position[row.image_id] for row in roles)


def test_patients_who_share_a_picture_share_a_group_and_others_do_not(study):
    roles, _, _ = study.split()
    members = defaultdict(set)
    for row in roles:
        members[row.group].add(row.patient)
    patient = [row.patient for row in study.rows]
    linked = {frozenset(patient[index] for index in pair) for pair in ((4, 49), (8, 50), (12, 51))}
    assert {frozenset(names) for names in members.values() if len(names) > 1} == linked


def test_hashes_alone_would_join_everybody(study):
    """The pictures are alike on purpose: without the close comparison the cohort would be one group."""
    from pipeline.cohort.duplicates import close_pairs

    hashes = [row.perceptual_hash for row in study.rows]
    assert len(list(close_pairs(hashes, SplitSettings().max_hash_distance))) > 100


def test_results_depend_neither_on_pseudonyms_nor_on_the_order_of_rows(study, tmp_path):
    other = build(tmp_path / "other", secret="zz").save(order=-1)
    roles, _, _ = study.split()
    digests = {row.image_id: row.pixel_sha256 for row in [*study.rows, *other.rows]}
    other_roles, _, _ = other.split()

    def content(rows):
        return [(row.fold, digests[row.image_id], row.group, row.label, row.role) for row in rows]

    assert content(roles) == content(other_roles)


def test_images_without_a_label_take_no_part(study):
    lost = study.rows[30].image_id
    del study.labels[lost]
    roles, _, step = study.save().split()
    assert step.entered == 51
    assert lost not in {row.image_id for row in roles}


def test_volumes_are_divided_without_pixels(tmp_path):
    study = Study(tmp_path)
    for patient in range(PATIENTS):
        label = "yes" if patient % 2 else "no"
        study.add(patient, picture(patient), label, with_hash=False, volume_file=f"{patient}.nii")
    study.save()
    (tmp_path / "pixels.npy").unlink()
    roles, findings, _ = study.split()
    assert len(roles) == 3 * PATIENTS
    assert not findings


def test_images_beside_volumes_are_refused(study):
    study.add(0, picture(99), "no", with_hash=False, volume_file="v.nii")
    study.save()
    with pytest.raises(CohortError, match="take one kind"):
        study.split()


def test_labels_of_unknown_images_are_refused(study):
    write_table(study.folder / "labels.tsv", Label, [Label(image_id="other", patient="P", label="yes")])
    with pytest.raises(ArtefactError, match="not at hand"):
        study.split()


def test_too_many_folds_stop_before_anything_is_written(study):
    with pytest.raises(CohortError, match=r"set split\.folds to at most"):
        study.split(folds=20)
    assert not (study.folder / "folds.tsv").exists()


def test_the_balance_is_shown(study, capsys):
    study.split()
    shown = capsys.readouterr().err
    assert "split: 48 of 52 images of 24 patients, 6 of them linked by a shared picture" in shown
    assert shown.count("split: fold ") == 3
