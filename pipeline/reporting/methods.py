"""Methods in words: one function for each part of the configuration, from plain values to a paragraph.

The sentences describe what the stages do; whoever changes a stage changes its sentence here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.states import LabelKind
from pipeline.reporting import vocabulary
from pipeline.reporting.document import MethodParagraph
from pipeline.reporting.formatting import SPACE, count, counted, joined, significant


def images_found(
    modalities: Sequence[str], largest_mb: int, shared_ids: str = "exclude", *, is_selected: bool = False
) -> MethodParagraph:
    """Say which files were taken (stage ingest); `shared_ids` is what became of IDs that several people may share."""
    policy = {"exclude": "left out as well", "note": "kept and remarked upon"}[shared_ids]
    text = (
        f"All files of the source were read. DICOM images of the modalities {joined(modalities)} were taken; every "
        "other file was counted with the reason for leaving it out. Images that would decode to more than "
        f"{count(largest_mb)} MB, damaged files, and files whose headers contradict each other were left out. "
        f"What stood under a Patient ID with several issuers, birth dates or sexes was {policy}."
    )
    if is_selected:
        text += " Only series whose headers fit the selection “ingest.select” of the configuration were taken."
    return MethodParagraph(heading="Images", text=text)


def identifiers_removed(
    largest_shift_days: int, options: Sequence[str], rules: int = 0, suspected: str = "quarantine", tolerated: int = 8
) -> MethodParagraph:
    """Say how identifiers were replaced, and what became of pixels that may show some (stage deidentify).

    Parameters
    ----------
    largest_shift_days, options
        Of dates; words for what files may keep.
    rules
        Number of rules for pixels.
    suspected, tolerated
        What became of images in which text was suspected, and how many characters were not much.
    """
    if "retain_longitudinal_modified_dates" in options:
        dates = (
            "Dates were moved back by a number of days that is secret and the same for all dates of a patient "
            f"(1 to {count(largest_shift_days)})."
        )
    elif "retain_longitudinal_full_dates" in options:
        dates = "Dates and times were kept as they were."
    else:
        dates = "Dates and times were removed, emptied or replaced by dummies."
    ages = " Ages above 89 years were recorded as 90." if "retain_patient_characteristics" in options else ""
    covered = (
        f" unless one of {counted(rules, 'rule')} for pixels covered them, which says what is blanked" if rules else ""
    )
    seen = (
        f"kept an image out if there were more than {counted(tolerated, 'character')}, and were else remarked upon"
        if suspected == "quarantine"
        else "were remarked upon"
    )
    used = joined([word.replace("_", " ") for word in options]) if options else "none"
    text = (
        "Patient identifiers and unique identifiers were replaced by pseudonyms computed with a secret key "
        f"(HMAC-SHA-256). {dates}{ages} All other attributes were treated by the "
        f"Basic Application Level Confidentiality Profile of DICOM PS3.15 with these options: {used}. Attributes that "
        "the profile does not name were kept only in forms that hold no name; unknown attributes went. "
        "Images whose headers mark them as bearing text, and those of kinds whose pixels often show names (ultrasound, "
        f"saved screens, photographs), were left out{covered}. All other projection images, and every eighth slice of "
        f"volumes, were searched for lines of text, which {seen}. What follows used the de-identified images only."
    )
    return MethodParagraph(heading="De-identification", text=text)


def quality_checked(smallest: int, fewest_slices: int, least_contrast: float, most_saturated: float) -> MethodParagraph:
    """Say what made an image unfit (stage check_quality)."""
    text = (
        f"Images smaller than {smallest} × {smallest} pixels were left out, and so were volumes of fewer than "
        f"{fewest_slices} slices or with missing, doubled or uneven slices, and images whose pixel values hardly vary "
        f"(spread from the 5th to the 95th percentile below {_share(least_contrast)} of the range used). Images with "
        f"more than {_share(most_saturated)} of their pixels at an end of the range were kept and remarked upon."
    )
    return MethodParagraph(heading="Quality", text=text)


def images_prepared(size: int, scaling: str, stored_as: str) -> MethodParagraph:
    """Say how pixels became arrays (stage preprocess)."""
    text = (
        "Stored values were turned into modality values, and images stored as negatives were inverted. Values were "
        f"scaled by {scaling}, each image by itself. Images were "
        f"resized to {size} × {size} pixels with their aspect kept and padded, and stored as {stored_as}."
    )
    return MethodParagraph(heading="Preparation", text=text)


def volumes_prepared(
    slices: int,
    size: int,
    plane: str,
    spacings_mm: tuple[float | None, float | None],
    *,
    scaling: str,
    stored_as: str,
) -> MethodParagraph:
    """Say how volumes became arrays (stage preprocess).

    Parameters
    ----------
    slices, size, plane
        Of the grid.
    spacings_mm
        Between slices and between pixels; None: so that the whole volume fits.
    scaling, stored_as
        As for images.
    """
    along, across = (
        f"{significant(one)} mm apart" if one else f"as far apart as it takes for the whole {whole} to fit"
        for one, whole in zip(spacings_mm, ("volume", "slice"), strict=True)
    )
    text = (
        "Slices were put together into volumes, whose geometry was proved by the position that each slice states. "
        f"Values were scaled by {scaling}, each volume by itself, and interpolated (linearly, after averaging where "
        f"the grid is coarser) on a grid around the volume's centre that stands straight in the patient: {slices} "
        f"{plane} slices, {along}, of {size} × {size} pixels, {across}. They were stored as {stored_as}."
    )
    if any(spacings_mm):
        text += " What lay beyond the grid was cut off; volumes that lost a part were counted (VOLUME_CUT_OFF)."
    return MethodParagraph(heading="Preparation", text=text)


def percentile_scaling(low: float, high: float) -> str:
    """Name a scaling by percentiles."""
    return f"percentiles {significant(low)} and {significant(high)} of its own values"


def window_scaling(centre: float, width: float) -> str:
    """Name a scaling by a fixed window."""
    return f"a fixed window (centre {significant(centre)}, width {significant(width)})"


def labels_matched(
    key: str, classes: Sequence[str], contradictions: str, unknown: str, kind: LabelKind = "classes"
) -> MethodParagraph:
    """Say where the classes, or findings, came from (stage label)."""
    positive = f" The positive class is {classes[1]}." if len(classes) == 2 else ""
    policy = {"error": "would have stopped the run", "exclude": "led to the exclusion of the images concerned"}
    if kind == "findings":
        text = (
            f"A table gave the findings of each image by its {key}: each is present, absent or unknown, and an image "
            f"may have none, one or several. The findings are {joined(classes)}. An image in which one is unknown "
            "counted neither in training nor in evaluation of that finding. Rows that contradict each other "
            f"{policy[contradictions]}; words that the configuration does not name {policy[unknown]}. Images of which "
            "nothing is known were left out and counted."
        )
        return MethodParagraph(heading="Labels", text=text)
    text = (
        f"A table gave the class of each image by its {key}. The classes are {joined(classes)}.{positive} "
        f"Contradictory labels {policy[contradictions]}; classes other than these {policy[unknown]}. Images without a "
        "label were left out and counted."
    )
    return MethodParagraph(heading="Labels", text=text)


def patients_divided(
    folds: int, validation_fraction: float, unit: str, hash_distance: int, kind: LabelKind = "classes"
) -> MethodParagraph:
    """Say how folds were made (stage split)."""
    alike = "each class" if kind == "classes" else "images with and without each finding, the rarest first"
    whole = "whole sites" if unit == "site" else "patients"
    text = (
        f"The images were divided into {counted(folds, 'fold')} by {whole}, with similar shares of {alike}: no "
        "patient stands on two sides of any split. Images with identical pixels were found by their digests and "
        f"nearly identical ones by 512-bit perceptual hashes (at most {hash_distance} bits apart) and a close look; "
        "patients who share an image were kept together. Of each fold's training patients, "
        f"{_share(validation_fraction)} formed an inner validation part, used for early stopping, calibration and "
        "thresholds. The test part was used once, for the numbers in this report."
    )
    return MethodParagraph(heading="Folds", text=text)


class VolumesSeen(NamedTuple):
    """How volumes were brought to a network: the road, slices (or groups) looked at, how kernels got their depth.

    `fixed` are the strategies that trained nothing but a logistic regression, and so no attention; `is_learned` tells
    whether there were others.
    """

    road: str
    slices: int
    inflation: str
    fixed: tuple[str, ...] = ()
    is_learned: bool = True

    def in_words(self, weights: str) -> str:
        """Say it, for a network that started from these weights."""
        slices = counted(self.slices, "slice")
        if self.road == "slices_as_channels":
            return (
                f"Of each volume it saw {counted(self.slices, 'group')} of three neighbouring slices, in the place of "
                "the three colours, evenly spread over the volume; their features were averaged (2.5D), so that each "
                "volume has one prediction."
            )
        if self.road == "attention":
            return (
                f"Of each volume it saw {slices}, one by one; {self._pooled()}, so that each volume has one prediction."
            )
        whole = f"It saw each volume as a whole ({slices}, one grey channel)"
        if weights == "random":
            return f"{whole}."
        if weights == "medicalnet":
            return f"{whole}, brought to mean 0 and standard deviation 1 over its voxels above the lowest value."
        spread = "the middle slice of its depth" if self.inflation == "centre" else "all slices of its depth evenly"
        return f"{whole}; kernels made for images were given a depth, each put into {spread}."

    def _pooled(self) -> str:
        if not self.is_learned:
            return "their features were averaged with equal weights, as no attention was trained"
        learned = (
            "their features were averaged with weights that a gated attention learned (multiple-instance learning, "
            "arXiv:1802.04712), equal at the start"
        )
        return f"{learned} (in the strategy {_quoted(self.fixed)} they stayed equal)" if self.fixed else learned


def network(
    backbone: str, weights: str, strategies: Sequence[tuple[str, str]], volumes: VolumesSeen | None = None
) -> MethodParagraph:
    """Say which network was trained, from where, and how (stage train).

    Parameters
    ----------
    backbone
        Its name, for example ``resnet18``.
    weights
        The source of the weights.
    strategies
        Name and description in words of each strategy, the study's own first.
    volumes
        How volumes were brought to it; None for images.
    """
    is_random = weights == "random"
    dimensions = "three" if volumes and volumes.road == "inflation" else "two"
    seen = f" {volumes.in_words(weights)}" if volumes else ""
    start = "random weights (no transfer)" if is_random else f"weights from {vocabulary.weights(weights)}"
    ways = "In the one strategy trained," if len(strategies) == 1 else "Strategies, all on the same folds:"
    told = "; ".join(f"“{name}”: {words}" for name, words in strategies)
    text = (
        f"The network is a {dimensions}-dimensional {backbone.replace('resnet', 'ResNet-')}; it started from {start}, "
        f"and its last layer was replaced by one for the study's classes.{seen} {ways} {told}."
    )
    return MethodParagraph(heading="Network", text=text)


def loss(
    label_smoothing: float, *, balance_classes: bool, focal_gamma: float | None = None, kind: LabelKind = "classes"
) -> str:
    """Name the loss; a focal one has a gamma."""
    what = "the classes" if kind == "classes" else "presence and absence of each finding"
    weighted = f"weighted by the inverse frequency of {what} in the training part" if balance_classes else ""
    smoothed = f"label smoothing {significant(label_smoothing)}" if label_smoothing else ""
    details = joined([part for part in (weighted, smoothed) if part], "with")
    plain = "Cross-entropy" if kind == "classes" else "Binary cross-entropy of every finding that is known of an image"
    focal = "Focal loss" if kind == "classes" else "Focal loss of every finding that is known of an image"
    name = plain if focal_gamma is None else f"{focal} with an exponent of {significant(focal_gamma)}"
    return f"{name} ({details})" if details else name


def optimisation(
    *,
    loss: str,
    epochs: int,
    patience: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    block_rate_factor: float = 1.0,
    ema_decay: float = 0.0,
    networks: int = 1,
    is_joined: bool = False,
    fixed: Sequence[str] = (),
    is_learned: bool = True,
) -> MethodParagraph:
    """Say how the weights were adapted (stage train); `fixed` and `is_learned` are those of `VolumesSeen`."""
    if not is_learned:
        text = "Nothing was trained by gradients over epochs: the logistic regression was fitted in one step."
        return MethodParagraph(heading="Optimisation", text=text)
    by_block = (
        f" From source weights, each block of layers had {significant(block_rate_factor)} times the learning rate of "
        "the next one towards the output."
    )
    averaged = (
        f" Weights were averaged over the steps (exponentially, decay {significant(ema_decay)}), and the averaged "
        "network was the one validated and used."
    )
    several = (
        f" In each fold every strategy trained {networks} networks that differ in their seeds, and their "
        "probabilities were averaged; a linear probe of source weights has nothing random and was fitted once."
    )
    all_blocks = (
        " Where all blocks of layers were trained, the head took the pooled features of all of them joined, and not of "
        "the last one only."
    )
    more = (
        (all_blocks if is_joined else "")
        + (by_block if block_rate_factor < 1 else "")
        + (averaged if ema_decay else "")
        + (several if networks > 1 else "")
        + (f" None of this concerns the strategy {_quoted(fixed)}, which was fitted in one step." if fixed else "")
    )
    text = (
        f"{loss} was minimised with AdamW (highest learning rate {significant(learning_rate)}, weight decay "
        f"{significant(weight_decay)}, batches of {batch_size}), the rate rising over the first "
        f"{_share(warmup_fraction)} of the steps and falling along a cosine. Training lasted at most "
        f"{counted(epochs, 'epoch')} and stopped after {patience} without a lower validation loss, taken at the best "
        "temperature and class offsets of the logits; the weights of the epoch with the lowest one were used."
        f"{more}"
    )
    return MethodParagraph(heading="Optimisation", text=text)


def augmentation(
    *, rotation_degrees: float, translation: float, scale: float, flip: bool, contrast: float, brightness: float,
    noise: float, views: int = 0, fixed: Sequence[str] = (), is_learned: bool = True,
) -> MethodParagraph:  # fmt: skip
    """Say how training images were varied (stage train); `fixed` and `is_learned` are those of `VolumesSeen`."""
    changes = [
        f"rotated by up to ±{significant(rotation_degrees)}°" if rotation_degrees else "",
        f"shifted by up to ±{_share(translation)} of the side" if translation else "",
        f"scaled by up to ±{_share(scale)}" if scale else "",
        "mirrored left to right half of the time" if flip else "",
        f"changed in contrast by up to ±{_share(contrast)}" if contrast else "",
        f"changed in brightness by up to ±{_share(brightness)} of the range" if brightness else "",
        f"given noise (standard deviation {_share(noise)} of the range)" if noise else "",
    ]
    done = [change for change in changes if change]
    how = f"Training images were at random {joined(done)}." if done else "Training images were not varied."
    mirror = "" if flip else " They were not mirrored, because anatomy has sides."
    if not is_learned:
        how, mirror = "Training images were taken as they are.", ""
    elif fixed and done:
        mirror += f" For the strategy {_quoted(fixed)} they were taken as they are."
    shown = (
        f"Validation and test images were predicted as they are and in {counted(views, 'variant')} changed in the "
        "same way; the logits of all were averaged."
    )
    tested = shown if views else "Validation and test images were not changed."
    return MethodParagraph(heading="Augmentation", text=f"{how}{mirror} {tested}")


def numbers_made(
    aggregation: str, rule: str, replicates: int, level: float, kind: LabelKind = "classes"
) -> MethodParagraph:
    """Say how predictions became numbers (stage evaluate).

    Parameters
    ----------
    aggregation, rule
        In the words of the evaluation.
    replicates
        Of the bootstrap.
    level
        Of the intervals, in (0, 1).
    """
    calibrated = "one temperature and one offset for each class"
    means = ""
    if kind == "findings":
        calibrated = "one temperature and one offset for each finding"
        means = (
            "Every finding was judged by itself, as present or absent, on the images of which it is known; means over "
            "the findings give each the same weight, and their intervals draw patients with all their findings. "
        )
    text = (
        f"Each fold's logits were calibrated by {calibrated}, fitted on its inner "
        f"validation part. {means}A patient's probability is the {aggregation}. Decisions: {rule}. The AUROC over all "
        "folds is the mean of the folds' values, because each fold has its own network; the pooled value is given "
        f"beside it. Intervals at {_share(level)} come from {count(replicates)} bootstrap replicates that resample "
        "whole patients, unless a note says otherwise."
    )
    return MethodParagraph(heading="Evaluation", text=text)


def _quoted(names: Sequence[str]) -> str:
    return joined([f"“{name}”" for name in names])


def _share(fraction: float) -> str:
    """Write a fraction of the configuration as a percentage with the digits it has."""
    return f"{significant(100 * fraction)}{SPACE}%"
