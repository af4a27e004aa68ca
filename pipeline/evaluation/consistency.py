"""Consistency: the predictions are those of the folds, every image once; nothing is evaluated on trust."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from pipeline.core.errors import LeakageError, ReportError
from pipeline.core.records import EpochLog, FoldRole, Image, Label, Prediction, TrainingSummary
from pipeline.core.states import LabelKind, join_copies

_RERUN = "run the training of that fold again; if it happens again, please report it"
_RESPLIT = "run `split` and everything after it again; if it happens again, please report it"


def check_folds(
    folds: Sequence[FoldRole], images: Sequence[Image], labels: Sequence[Label], kind: LabelKind = "classes"
) -> None:
    """Check that every image is tested once, and that folds, images and labels say the same.

    Of findings, an image has what is known of its pixels under any name (`pipeline.cohort.duplicates`).

    Raises
    ------
    LeakageError
        If an image is tested twice, or a patient or group has two roles in one fold or is tested in two.
    ReportError
        If an image is never tested, or patient or label differ between the tables.
    """
    tested = [row.image_id for row in folds if row.role == "test"]
    if len(set(tested)) != len(tested):
        what = f"{len(tested) - len(set(tested))} images are tested more than once"
        raise LeakageError(what, remedy=_RESPLIT)
    roles: dict[tuple[str, int, str], str] = {}
    homes: dict[tuple[str, str], int] = {}
    for row in folds:
        for unit, name in (("patient", row.patient), ("group", row.group)):
            if roles.setdefault((unit, row.fold, name), row.role) != row.role:
                raise LeakageError(f"a {unit} has two roles in fold {row.fold}", remedy=_RESPLIT)
            if row.role == "test" and homes.setdefault((unit, name), row.fold) != row.fold:
                raise LeakageError(f"a {unit} is tested in two folds", remedy=_RESPLIT)
    known_patients = {image.image_id: image.patient for image in images}
    known_labels = _labels_of(images, labels, kind)
    for row in folds:
        if known_patients.get(row.image_id) != row.patient or known_labels.get(row.image_id) != row.label:
            what = f"an image of fold {row.fold} has another patient or label there than in the tables before"
            raise ReportError(what, remedy=_RESPLIT)
    listed = {(row.fold, row.image_id) for row in folds}
    whole = set(tested)
    numbers = {row.fold for row in folds}
    if len(listed) != len(folds) or len(listed) != len(whole) * len(numbers):
        what = "the folds do not list every image once in each fold and once as test"
        raise ReportError(what, remedy=_RESPLIT)


def _labels_of(images: Sequence[Image], labels: Sequence[Label], kind: LabelKind) -> dict[str, str | None]:
    """Give the label that each image may have in the folds; None where those of its copies contradict each other."""
    known = {label.image_id: label.label for label in labels}
    copies: dict[str, list[str]] = {}
    for image in images:
        if image.image_id in known:
            copies.setdefault(image.pixel_sha256, []).append(known[image.image_id])
    joined = {digest: join_copies(found, kind) for digest, found in copies.items()}
    return {image.image_id: joined[image.pixel_sha256] for image in images if image.image_id in known}


def order_strategies(
    training: Sequence[TrainingSummary], classes: tuple[str, ...], folds: Iterable[int], kind: LabelKind = "classes"
) -> list[str]:
    """List the strategies, the study's own first, and check that each was trained once in every fold.

    Raises
    ------
    ReportError
        If a fold is missing or there twice, or was trained for other classes.
    """
    strategies = list(dict.fromkeys(row.strategy for row in training))
    done = sorted((row.strategy, row.fold) for row in training)
    if not strategies or done != sorted((name, fold) for name in strategies for fold in folds):
        raise ReportError("not every strategy was trained exactly once in every fold", remedy=_RERUN)
    for row in training:
        if (row.classes, row.kind) != (classes, kind):
            what = f"fold {row.fold} was trained for other classes, or in another order, than the study's"
            raise ReportError(what, remedy=_RERUN)
    return strategies


def check_history(history: Sequence[EpochLog], strategies: Sequence[str], folds: Iterable[int]) -> None:
    """Check that the training curves belong to the study's strategies and folds, epochs rising from 1.

    Raises
    ------
    ReportError
        Naming the fold.
    """
    known = {(strategy, fold) for strategy in strategies for fold in folds}
    epochs: dict[tuple[str, int], list[int]] = {}
    for row in history:
        epochs.setdefault((row.strategy, row.fold), []).append(row.epoch)
    for (strategy, fold), found in epochs.items():
        if (strategy, fold) not in known or any(after != before + 1 for before, after in pairwise([0, *found])):
            what = f"the training curve of {strategy} in fold {fold} is of no known strategy and fold, or has gaps"
            raise ReportError(what, remedy=_RERUN)


def arrange_predictions(
    predictions: Sequence[Prediction], folds: Sequence[FoldRole], strategies: Sequence[str], classes: Sequence[str]
) -> list[Prediction]:
    """Check predictions against the folds and put them into the order of the images.

    The order is that of `FoldRole.row`, which was made from the images' content: pseudonyms decide nothing.

    Raises
    ------
    LeakageError
        If a prediction claims another role than the fold gave to its image.
    ReportError
        If a prediction is there twice, is missing, or belongs to another patient, group, label or set of
        classes.
    """
    places = {(row.fold, row.image_id): row for row in folds}
    found: dict[tuple[str, int, str], Prediction] = {}
    for row in predictions:
        place = places.get((row.fold, row.image_id))
        where = f"predictions of {row.strategy} in fold {row.fold}"
        if place is None or row.strategy not in strategies:
            raise ReportError("an image or strategy that the study does not have", where=where, remedy=_RERUN)
        if row.role != place.role:
            what = f"an image is predicted as {row.role}, but its role in the fold is {place.role}"
            raise LeakageError(what, where=where, remedy=_RERUN)
        if (row.patient, row.group, row.label) != (place.patient, place.group, place.label):
            raise ReportError("an image with another patient, group or label", where=where, remedy=_RERUN)
        if len(row.logits) != len(classes):
            what = f"{len(row.logits)} logits for {len(classes)} classes"
            raise ReportError(what, where=where, remedy=_RERUN)
        key = (row.strategy, row.fold, row.image_id)
        if key in found:
            raise ReportError("an image is predicted twice", where=where, remedy=_RERUN)
        found[key] = row
    ordered = sorted((row for row in folds if row.role != "train"), key=lambda row: (row.fold, row.row, row.image_id))
    wanted = [(strategy, row.fold, row.image_id) for strategy in strategies for row in ordered]
    missing = len(wanted) - len(found)
    if missing:
        raise ReportError(f"{missing} of {len(wanted)} predictions are missing", remedy=_RERUN)
    return [found[key] for key in wanted]
