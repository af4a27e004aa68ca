"""The order of the sections: the one place where a new section is named."""

from collections.abc import Callable

from pipeline.reporting.blocks import Section
from pipeline.reporting.document import Report
from pipeline.reporting.sections.accountability import limits, provenance
from pipeline.reporting.sections.calibration import calibration
from pipeline.reporting.sections.cohort import data, flow, rejected
from pipeline.reporting.sections.deidentification import deidentification
from pipeline.reporting.sections.methods import methods
from pipeline.reporting.sections.performance import discrimination, operating_point
from pipeline.reporting.sections.summary import summary
from pipeline.reporting.sections.training import training, transfer

SECTIONS: tuple[Callable[[Report], Section], ...] = (
    summary,
    flow,
    data,
    methods,
    discrimination,
    operating_point,
    calibration,
    training,
    transfer,
    rejected,
    deidentification,
    limits,
    provenance,
)  # numbered from 0; none is ever left out


def sections(report: Report) -> tuple[Section, ...]:
    """Make all sections of a report."""
    return tuple(make(report) for make in SECTIONS)
