"""Plan: who is in the cohort, with which studies, labels and difficulties; no pixels yet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

import numpy as np

from pipeline.core.seeding import derive_seed

Encoding = Literal["native", "rle", "jpeg2000"]
SITES = 2
_SECOND_STUDY = 0.15  # fraction of patients
_BOTH_LABELS = 0.03  # fraction of patients, of those with a second study
_FIRST_DAY = date(2014, 1, 6)
_DAYS = 3000
_YOUNGEST, _OLDEST_DRAWN = 19, 88
_OLDEST = 93  # of one planted patient: ages above 89 identify (45 CFR 164.514(b)(2)(i)(C))
# Every so many studies of a class get an encoding; the same for both classes, so that none predicts the label.
_CYCLE = 16
_ENCODED: dict[int, Encoding] = {3: "rle", 6: "jpeg2000"}
_INVERTED = (1, 9)


@dataclass(frozen=True)
class PlannedStudy:
    """One study of one image or series."""

    number: int  # unique in the cohort
    visit: int  # 0, 1: of the patient
    day: date
    clock: str  # HHMMSS
    has_lesion: bool
    is_in_table: bool = True
    encoding: Encoding = "native"
    is_inverted: bool = False  # stored as MONOCHROME1
    shows: int | None = None  # number of the study of another patient whose picture it shows
    is_exact_copy: bool = False  # of `shows`: pixel for pixel, or newly processed


@dataclass(frozen=True)
class PlannedPatient:
    """One invented person with all studies in order of time."""

    number: int
    site: int
    sex: Literal["F", "M"]
    birth: date
    studies: tuple[PlannedStudy, ...]

    def age_years(self, day: date) -> int:
        """Age in completed years."""
        return day.year - self.birth.year - ((day.month, day.day) < (self.birth.month, self.birth.day))

    @property
    def has_lesion(self) -> bool:
        """Whether any study shows a lesion."""
        return any(study.has_lesion for study in self.studies)


def plan_cohort(*, patients: int, prevalence: float, seed: int, has_second_studies: bool) -> tuple[PlannedPatient, ...]:
    """Draw the cohort.

    Parameters
    ----------
    patients
        Number of patients with a label; one more without follows last.
    prevalence
        Fraction of them with a lesion in at least one study, met to the nearest patient.
    seed
        Of the cohort.
    has_second_studies
        Whether some patients come twice, some of these first without and then with a lesion.

    Returns
    -------
    tuple of PlannedPatient
        Sites and sexes are balanced within the two classes; ages are drawn from one distribution.
    """
    rng = np.random.default_rng(derive_seed(seed, "phantom", "plan"))
    positive = min(max(round(patients * prevalence), 1), patients - 1)
    visits = [
        *_visits(positive, patients, is_positive=True, has_second_studies=has_second_studies),
        *_visits(patients - positive, patients, is_positive=False, has_second_studies=has_second_studies),
    ]
    # Site and sex go round within a class in random order; then everybody gets a random number.
    sites = [place % SITES for size in (positive, patients - positive) for place in rng.permutation(size)]
    sexes = [place % 4 < 2 for size in (positive, patients - positive) for place in rng.permutation(size)]
    numbers = rng.permutation(patients)
    people = [
        _person(rng, int(number), int(site), sex="F" if is_female else "M", labels=labels)
        for number, site, is_female, labels in zip(numbers, sites, sexes, visits, strict=True)
    ]
    people.sort(key=lambda person: person.number)
    people.append(_person(rng, patients, 0, sex="F", labels=(False,)))
    people = _numbered(people)
    people[-1] = _with(people[-1], is_in_table=False)
    people = _encoded(people)
    people = _repeated(people)
    return tuple(_aged(people))


def _visits(count: int, patients: int, *, is_positive: bool, has_second_studies: bool) -> list[tuple[bool, ...]]:
    """Labels of the studies of each patient of one class, those with two studies first."""
    if not has_second_studies:
        return [(is_positive,)] * count
    twice = max(round(_SECOND_STUDY * count), 1)
    both = min(max(round(_BOTH_LABELS * patients), 1), count - 1) if is_positive else 0
    rows: list[tuple[bool, ...]] = [(False, True)] * both
    rows += [(is_positive, is_positive)] * max(twice - both, 1)
    return (rows + [(is_positive,)] * count)[:count]


def _person(
    rng: np.random.Generator, number: int, site: int, *, sex: Literal["F", "M"], labels: Sequence[bool]
) -> PlannedPatient:
    first = _FIRST_DAY + timedelta(days=int(rng.integers(_DAYS)))
    age = float(np.clip(rng.normal(58, 15), _YOUNGEST, _OLDEST_DRAWN))
    days = np.cumsum([0, *rng.integers(20, 500, len(labels) - 1)])
    clocks = [f"{rng.integers(7, 19):02d}{rng.integers(60):02d}{rng.integers(60):02d}" for _ in labels]
    studies = tuple(
        PlannedStudy(number=0, visit=visit, day=first + timedelta(days=int(later)), clock=clock, has_lesion=label)
        for visit, (later, clock, label) in enumerate(zip(days, clocks, labels, strict=True))
    )
    return PlannedPatient(number, site, sex, first - timedelta(days=int(age * 365.25)), studies)


def _numbered(people: Sequence[PlannedPatient]) -> list[PlannedPatient]:
    numbered, following = [], 0
    for person in people:
        studies = tuple(replace(study, number=following + visit) for visit, study in enumerate(person.studies))
        numbered.append(replace(person, studies=studies))
        following += len(studies)
    return numbered


def _encoded(people: Sequence[PlannedPatient]) -> list[PlannedPatient]:
    """Give some studies of each class another encoding."""
    seen = {True: 0, False: 0}
    changed = []
    for person in people:
        studies = []
        for study in person.studies:
            place = seen[study.has_lesion] % _CYCLE
            seen[study.has_lesion] += 1
            encoding = _ENCODED.get(place, "native")
            studies.append(replace(study, encoding=encoding, is_inverted=place in _INVERTED))
        changed.append(replace(person, studies=tuple(studies)))
    return changed


def _repeated(people: Sequence[PlannedPatient]) -> list[PlannedPatient]:
    """Let two plain patients of one site show one picture, and two others almost one."""
    changed = list(people)
    plain = [person for person in people if _is_plain(person)]
    for is_exact in (True, False):
        for site in range(SITES):
            pair = [person for person in plain if person.site == site][:2]
            if len(pair) == 2:
                source, shown = pair
                changed[shown.number] = _with(shown, shows=source.studies[0].number, is_exact_copy=is_exact)
                plain = [person for person in plain if person not in pair]
                break
    return changed


def _is_plain(person: PlannedPatient) -> bool:
    study = person.studies[0]
    is_ordinary = study.encoding == "native" and not study.is_inverted and study.is_in_table
    return is_ordinary and len(person.studies) == 1 and not study.has_lesion


def _aged(people: Sequence[PlannedPatient]) -> list[PlannedPatient]:
    """Make the first patient very old."""
    oldest = people[0]
    born = oldest.studies[0].day - timedelta(days=round(_OLDEST * 365.25 + 100))
    return [replace(oldest, birth=born), *people[1:]]


def _with(person: PlannedPatient, **changes: object) -> PlannedPatient:
    """Change a patient's only study."""
    study = replace(person.studies[0], **changes)  # type: ignore[arg-type]
    return replace(person, studies=(study, *person.studies[1:]))
