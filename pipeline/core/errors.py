"""Errors a user can act on: what went wrong, where, and what to do.

No message may carry an identifier (a patient's name, number, date or a file name of the input): messages
reach terminals, log files and schedulers. Unexpected exceptions are bugs and are not caught here.
"""


class PipelineError(Exception):
    """Stop a stage with a message for the user; the command line exits with status 2 and no traceback.

    Parameters
    ----------
    what
        What was found, in one sentence.
    where
        The file, table line or configuration key concerned; empty if nowhere in particular.
    remedy
        What the user can do about it.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        place = f"{where}: " if where else ""
        advice = f"\n  what to do: {remedy}" if remedy else ""
        super().__init__(f"{place}{what}{advice}")


class ConfigError(PipelineError):
    """The configuration is not usable; raised before any work."""


class ArtefactError(PipelineError):
    """A table or document of the run is missing, damaged or does not fit its schema."""


class DicomError(PipelineError):
    """The input folder as a whole cannot be used (a single bad file is a finding, never an error)."""


class PrivacyError(PipelineError):
    """Something identifying was about to leave the restricted folder."""


class CohortError(PipelineError):
    """Labels or patients do not allow the study that was asked for."""


class LeakageError(PipelineError):
    """A patient, or the same pixels, stand on two sides of a split."""


class WeightsError(PipelineError):
    """A weights file is missing, damaged, not the one expected, or does not fit the network."""


class TrainingError(PipelineError):
    """Fine-tuning cannot go on (a diverged loss, a locked or unusable state folder)."""


class ReportError(PipelineError):
    """The report cannot be made or its numbers do not add up."""
