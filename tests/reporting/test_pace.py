from pipeline.core.records import EpochLog
from pipeline.reporting.sections.pace import other_source, pace
from tests.reporting.synthetic_evaluation import make_evaluation


def course(strategy, fold, *areas):
    return [
        EpochLog(
            strategy=strategy,
            fold=fold,
            epoch=epoch,
            train_loss=0.5,
            validation_loss=0.5,
            validation_auroc=area,
            learning_rate=1e-4,
            seconds=1.0,
        )
        for epoch, area in enumerate(areas, start=1)
    ]


def with_courses(evaluation, **courses):
    results = tuple(
        result.model_copy(update={"history": tuple(courses.get(result.strategy, result.history))})
        for result in evaluation.strategies
    )
    return evaluation.model_copy(update={"strategies": results})


def test_epochs_to_the_same_score_are_counted_fold_by_fold():
    full = [*course("full", 0, 0.7, 0.9, 0.8), *course("full", 1, 0.6, 0.7, 0.7), *course("full", 2, None, 0.95)]
    scratch = [
        *course("scratch", 0, 0.5, 0.8, 0.85),
        *course("scratch", 1, 0.5, 0.6, 0.9),
        *course("scratch", 2, 0.9, 0.9),
    ]
    (found,) = pace(with_courses(make_evaluation(folds=3), full=full, scratch=scratch))
    assert [row[1:] for row in found.rows] == [("0.850", "3", "2"), ("0.900", "3", "never"), ("0.900", "1", "2")]
    assert found.notes == (
        "Fine-tuned was as good in 2 of 3 folds, there after 2.0 epochs in the mean instead of 2.0.",
    )


def test_the_first_epoch_that_is_as_good_counts_and_of_equal_bests_the_first():
    full = [*course("full", 0, 0.7, 0.85, 0.9, 0.95), *course("full", 1, 0.7, 0.7, 0.8, 0.7)]
    scratch = [*course("scratch", 0, 0.5, 0.85, 0.85, 0.8), *course("scratch", 1, 0.5, 0.6, 0.7, 0.8)]
    (found,) = pace(with_courses(make_evaluation(folds=2), full=full, scratch=scratch))
    assert [row[1:] for row in found.rows] == [("0.850", "2", "2"), ("0.800", "4", "3")]


def test_nothing_is_counted_without_a_random_start_or_without_epochs():
    assert pace(make_evaluation(strategies=("full", "probe"))) == []
    assert pace(make_evaluation(strategies=("probe", "scratch"))) == []
    assert pace(make_evaluation(weights="random")) == []


def test_the_way_to_imagenet_is_told_where_the_embedded_source_is_used_and_nowhere_else():
    (told,) = other_source(make_evaluation(weights="phantom"))
    assert "weights: imagenet" in told.text[0]
    assert "no substitute for ImageNet on patients" in told.text[0]
    assert other_source(make_evaluation(weights="imagenet")) == []
