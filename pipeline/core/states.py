"""States: what is known of each of several findings, in one cell of a table that a person can read.

A study asks either for one class of each image or for several findings, each present, absent or unknown. The findings
of an image stand in the column ``label`` as ``Effusion=1;Mass=0;Nodule=?``: every finding of the study is named, in the
study's order, so that nothing has to be taken for absent because it is not there, and no such text is a class.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import ArtefactError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.records import FoldRole

LabelKind = Literal["classes", "findings"]
"""One class of each image; or several findings, each with a state of its own."""
PRESENT, ABSENT, UNKNOWN = 1, 0, -1
RESERVED = "=;"
"""Characters that no finding's name may hold."""
_SIGNS = {PRESENT: "1", ABSENT: "0", UNKNOWN: "?"}
_STATES = {sign: state for state, sign in _SIGNS.items()}
_REMEDY = "run `label` and everything after it again"


def write_states(findings: Sequence[str], states: Sequence[int]) -> str:
    """Write the state of every finding: 1 present, 0 absent, ? unknown.

    Examples
    --------
    >>> write_states(["Effusion", "Mass", "Nodule"], [PRESENT, ABSENT, UNKNOWN])
    'Effusion=1;Mass=0;Nodule=?'
    """
    return ";".join(f"{name}={_SIGNS[state]}" for name, state in zip(findings, states, strict=True))


def read_states(text: str, findings: Sequence[str]) -> tuple[int, ...]:
    """Read what `write_states` wrote.

    Raises
    ------
    ArtefactError
        If the text does not name exactly these findings in this order, each with a state.

    Examples
    --------
    >>> read_states("Effusion=1;Mass=?", ["Effusion", "Mass"])
    (1, -1)
    """
    if named(text) != tuple(findings):
        raise ArtefactError("a label does not name the study's findings in their order", remedy=_REMEDY)
    return tuple(_STATES[part[-1]] for part in text.split(";"))


def named(text: str) -> tuple[str, ...]:
    """Name the findings of a label.

    Raises
    ------
    ArtefactError
        If the label is no list of findings with their states: a class, for example.

    Examples
    --------
    >>> named("Effusion=1;Mass=?")
    ('Effusion', 'Mass')
    """
    parts = [part.rpartition("=") for part in text.split(";")]
    if any(not name or sign not in _STATES for name, _, sign in parts):
        raise ArtefactError("a label is no list of findings with their states", remedy=_REMEDY)
    return tuple(name for name, _, _ in parts)


def join_states(labels: Sequence[str]) -> str | None:
    """Join labels of one thing: what one leaves unknown another may know.

    None if one says present where another says absent.

    Raises
    ------
    ArtefactError
        If the labels do not name the same findings.

    Examples
    --------
    >>> join_states(["Effusion=1;Mass=?", "Effusion=1;Mass=0"])
    'Effusion=1;Mass=0'
    >>> join_states(["Effusion=1;Mass=?", "Effusion=0;Mass=0"]) is None
    True
    """
    findings = named(labels[0])
    known = [set(states) - {UNKNOWN} for states in zip(*(read_states(text, findings) for text in labels), strict=True)]
    if any(len(states) > 1 for states in known):
        return None
    return write_states(findings, [min(states, default=UNKNOWN) for states in known])


def join_copies(labels: Sequence[str], kind: LabelKind) -> str | None:
    """Give the one label of a picture that stands several times; None if its labels contradict each other.

    Examples
    --------
    >>> join_copies(["lesion", "lesion"], "classes")
    'lesion'
    """
    different = sorted(set(labels))
    if len(different) == 1:
        return different[0]
    return join_states(different) if kind == "findings" else None


def states_of(labels: Sequence[str], findings: Sequence[str]) -> "NDArray[np.int64]":
    """Read many labels at once: 1 present, 0 absent, -1 unknown, shape (labels, findings).

    Raises
    ------
    ArtefactError
        As `read_states`.
    """
    import numpy as np

    known = {text: read_states(text, findings) for text in dict.fromkeys(labels)}
    return np.array([known[text] for text in labels], dtype=np.int64).reshape(-1, len(findings))


def truth_of(roles: "Sequence[FoldRole]", names: Sequence[str], kind: LabelKind) -> "NDArray[np.int64]":
    """Read what a network is to say of some rows of a fold.

    Parameters
    ----------
    roles
        Rows of one fold's table, of one or several of its parts.
    names
        Of the classes, or of the findings.
    kind
        What a label says.

    Returns
    -------
    NDArray
        Class indices, shape (images,); or states of findings as `states_of`, shape (images, findings).

    Raises
    ------
    ArtefactError
        As `read_states`; or if a label is none of the classes.
    """
    import numpy as np

    labels = [one.label for one in roles]
    if kind == "findings":
        return states_of(labels, names)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = set(labels) - set(numbers)
    if unknown:
        parts = " and ".join(dict.fromkeys(one.role for one in roles))
        what = f"{len(unknown)} different labels of the {parts} part are none of the study's classes"
        remedy = "set label.classes, or label.findings, to what the labels are; then run `label` and what follows again"
        raise ArtefactError(what, where=f"the table of folds, fold {roles[0].fold}", remedy=remedy)
    return np.array([numbers[label] for label in labels], dtype=np.int64)
