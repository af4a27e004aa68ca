"""The configuration's section ``label``: a part of `pipeline.config`, in a file of its own for its size."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.cohort.findings import Columns, Listing
from pipeline.core.section import Section
from pipeline.core.states import RESERVED, LabelKind


class _Findings(Section):
    names: tuple[str, ...] = Field(min_length=1)
    """The findings that the study asks for, as they stand in the table."""

    @model_validator(mode="after")
    def _words_differ(self) -> "_Findings":
        words = [word for value in self.__dict__.values() if isinstance(value, tuple) for word in value]
        if len(set(words)) != len(words):
            message = "a word is listed twice: it would have two meanings"
            raise ValueError(message)
        if not all(name.strip() == name and name and not set(name) & set(RESERVED) for name in self.names):
            message = f"a finding has a name without blanks around it and without {' or '.join(RESERVED)}"
            raise ValueError(message)
        return self


class FindingList(_Findings):
    """A cell that lists the findings that are present; the others of the study are then absent."""

    style: Literal["list"]
    separator: str = Field(default="|", min_length=1)
    """What stands between two findings."""
    none: tuple[str, ...] = ("No Finding",)
    """Words for a cell without any finding. An empty cell says nothing: the image is left out and counted."""
    others: tuple[str, ...] = ()
    """Findings that the table lists and the study does not ask for; any other word is unknown."""

    @property
    def layout(self) -> Listing:
        """How findings are written, as the reader of tables takes it."""
        return Listing(self.names, self.separator, self.none, self.others)


class FindingColumns(_Findings):
    """A column for each finding, which bears its name."""

    style: Literal["columns"]
    present: tuple[str, ...] = ("1", "1.0")
    """Cells that mean present."""
    absent: tuple[str, ...] = ("0", "0.0")
    """Cells that mean absent."""
    unknown: tuple[str, ...] = ("",)
    """Cells that mean unknown, the empty text being an empty cell. For this finding the image then counts neither in
    training nor in evaluation. Where an empty cell means absent, list it there and set this to `[]`."""

    @property
    def layout(self) -> Columns:
        """How findings are written, as the reader of tables takes it."""
        return Columns(self.names, self.present, self.absent, self.unknown)


class LabelSettings(Section):
    """Where the labels stand and what they mean: one class of each image, or several findings."""

    table: Path
    """CSV or TSV file with a header line."""
    key: Literal["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    """Column by which rows are matched with images; it must bear this name in the table."""
    column: str = "label"
    """Column with the class, or with the list of findings."""
    classes: tuple[str, ...] = ()
    """All classes as they stand in the table, at least two. Of two, the second is the positive one. Leave it out for
    findings."""
    findings: Annotated[FindingList | FindingColumns, Field(discriminator="style")] | None = None
    """Several findings, each present, absent or unknown in an image: instead of `classes`."""
    on_contradiction: Literal["error", "exclude"] = "error"
    """Several classes for one key, or a finding both present and absent: stop, or leave the images out and count
    them."""
    on_unknown_class: Literal["error", "exclude"] = "error"
    """A class, or a word for a finding, that is not listed: stop, or leave the images out and count them."""

    @model_validator(mode="after")
    def _classes_differ(self) -> "LabelSettings":
        if bool(self.classes) == (self.findings is not None):
            message = "name either the `classes`, of which each image has one, or the `findings`, of which it has any"
            raise ValueError(message)
        if self.findings is None and len(self.classes) < 2:
            message = "a study needs at least two classes"
            raise ValueError(message)
        if len(set(self.classes)) != len(self.classes):
            message = "a class is listed twice"
            raise ValueError(message)
        return self

    @property
    def kind(self) -> LabelKind:
        """What is asked of an image."""
        return "classes" if self.findings is None else "findings"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Name what the network has an output for: the classes, or the findings."""
        return self.classes if self.findings is None else self.findings.names
