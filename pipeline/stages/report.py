"""Write the report: report.json, and from it alone the HTML page, the PDF, the model card, figures and tables."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import (
    Config,
    DeidentifySettings,
    IngestSettings,
    PercentileScaling,
    PreprocessSettings,
    SelectSettings,
)
from pipeline.core.artefacts import read_document, read_table
from pipeline.core.errors import ReportError
from pipeline.core.progress import say
from pipeline.core.records import BlankedRectangle, ReceiptLine
from pipeline.core.results import Evaluation
from pipeline.core.section import Section
from pipeline.dicom.deidentification.options import method_codes
from pipeline.learning.strategies import STRATEGIES
from pipeline.reporting import methods
from pipeline.reporting.document import (
    CodedOption,
    Deidentification,
    MethodParagraph,
    Setting,
    StudyText,
    as_bytes,
    cleaned_places,
    compose,
)
from pipeline.reporting.render import DOCUMENT, render, replace_files
from pipeline.reporting.vocabulary import rule_of
from pipeline.train_settings import TrainSettings

_A_PATH = "(a path, not printed)"


def report(*, settings: Config, evaluation: Path, receipt: Path, blanked: Path, output: Path) -> None:
    """Turn the results of a study into documents for readers; the same results give the same bytes.

    Parameters
    ----------
    settings
        The whole configuration.
    evaluation
        The results, an `Evaluation`.
    receipt
        Table of `ReceiptLine`: what de-identification did to which attributes.
    blanked
        Table of `BlankedRectangle`: which pixels it overwrote.
    output
        Folder for the report.

    Raises
    ------
    ReportError
        If numbers that must add up do not, or if the results belong to another configuration.
    """
    results = read_document(evaluation, Evaluation)
    asked = (settings.study, settings.label.kind, settings.label.outputs)
    if (results.study, results.kind, results.classes) != asked:
        what = "the evaluation is of another study, or of other classes, than the configuration"
        raise ReportError(what, where=str(evaluation), remedy="run `evaluate` again with this configuration")
    done = Deidentification(
        codes=tuple(CodedOption(**code._asdict()) for code in method_codes(settings.deidentify.options)),
        receipt=tuple(read_table(receipt, ReceiptLine)),
        cleaned=cleaned_places(read_table(blanked, BlankedRectangle)),
    )
    document = as_bytes(compose(results, _text(settings, results), done))
    files = {DOCUMENT: document, **render(document)}
    replace_files(output, files)
    say(f"report: {len(files)} files in {output}")


def _text(settings: Config, results: Evaluation) -> StudyText:
    words = settings.report
    return StudyText(
        title=words.title,
        question=words.question,
        data_source=words.data_source,
        limitations=words.limitations,
        is_synthetic=settings.phantom is not None,
        is_split_by_site=settings.split.unit == "site",
        methods=_methods(settings, results),
        settings=tuple(_flat(settings)),
    )


def _methods(settings: Config, results: Evaluation) -> tuple[MethodParagraph, ...]:
    train, quality, split, label = settings.train, settings.check_quality, settings.split, settings.label
    names = dict.fromkeys((train.strategy, *train.compare))
    # Without a source there is nothing to fine-tune: `full` is then what `scratch` is.
    done = {"full": "scratch"} if train.weights.source == "random" else {}
    strategies = [(name, STRATEGIES[done.get(name, name)].in_words) for name in names]
    seen = _volumes_seen(train, results)
    kind = label.kind
    fixed, is_learned = _fixed(train)
    return (
        _sources(settings.ingest),
        _identifiers(settings.deidentify),
        methods.quality_checked(
            quality.min_size, quality.min_slices, quality.min_contrast, quality.max_saturated_fraction
        ),
        _preparation(settings.preprocess, has_volumes=seen is not None),
        methods.labels_matched(label.key, label.outputs, label.on_contradiction, label.on_unknown_class, kind),
        methods.patients_divided(split.folds, split.validation_fraction, split.unit, split.max_hash_distance, kind),
        methods.network(train.backbone, train.weights.source, strategies, seen),
        methods.optimisation(
            loss=methods.loss(
                train.label_smoothing,
                balance_classes=train.balance_classes,
                focal_gamma=train.focal_gamma if train.loss == "focal" else None,
                kind=kind,
            ),
            epochs=train.epochs,
            patience=train.patience,
            batch_size=train.batch_size,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            warmup_fraction=train.warmup_fraction,
            block_rate_factor=train.block_rate_factor,
            ema_decay=train.ema_decay,
            networks=train.seeds,
            is_joined=train.head == "joined",
            fixed=fixed,
            is_learned=is_learned,
        ),
        methods.augmentation(**train.augmentation.model_dump(), views=train.views, fixed=fixed, is_learned=is_learned),
        methods.numbers_made(
            results.aggregation, rule_of(results), results.bootstrap_replicates, settings.evaluate.confidence, kind
        ),
    )


def _volumes_seen(train: TrainSettings, results: Evaluation) -> methods.VolumesSeen | None:
    """Give how volumes were brought to the network; None for a study of images."""
    trained = results.strategies[0].training
    if not trained or not trained[0].road:
        return None
    return methods.VolumesSeen(trained[0].road, trained[0].slices, train.volumes.inflation, *_fixed(train))


def _fixed(train: TrainSettings) -> tuple[tuple[str, ...], bool]:
    """Name the strategies that train nothing by gradients, and tell whether there are others."""
    names = dict.fromkeys((train.strategy, *train.compare))
    fixed = tuple(name for name in names if STRATEGIES[name].head == "logistic")
    return fixed, len(fixed) < len(names)


def _sources(settings: IngestSettings) -> MethodParagraph:
    return methods.images_found(
        settings.modalities,
        settings.max_instance_mb,
        settings.on_shared_patient_id,
        is_selected=settings.select != SelectSettings(),
    )


def _identifiers(settings: DeidentifySettings) -> MethodParagraph:
    return methods.identifiers_removed(
        settings.max_date_shift_days,
        settings.options,
        len(settings.pixel_rules),
        settings.suspected_text,
        settings.tolerated_characters,
    )


def _preparation(settings: PreprocessSettings, *, has_volumes: bool) -> MethodParagraph:
    if not has_volumes:
        return methods.images_prepared(settings.size, _scaling(settings), settings.dtype)
    grid = settings.volume
    spacings = (grid.slice_spacing_mm, grid.pixel_spacing_mm)
    scaling = _scaling(settings)
    return methods.volumes_prepared(
        grid.slices, settings.size, grid.plane, spacings, scaling=scaling, stored_as=settings.dtype
    )


def _scaling(settings: PreprocessSettings) -> str:
    intensity = settings.intensity
    if isinstance(intensity, PercentileScaling):
        return methods.percentile_scaling(intensity.low, intensity.high)
    return methods.window_scaling(intensity.centre, intensity.width)


def _flat(section: Section, prefix: str = "") -> Iterator[Setting]:
    """List every setting under its dotted key; paths are named but not printed."""
    for name in type(section).model_fields:
        key, value = f"{prefix}{name}", getattr(section, name)
        if isinstance(value, Section):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, tuple):
            yield Setting(key=key, value="; ".join(map(str, value)) or "none")
        else:
            yield Setting(key=key, value=_A_PATH if isinstance(value, Path) else _plain(value))


def _plain(value: object) -> str:
    if value is None:
        return "not set"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
