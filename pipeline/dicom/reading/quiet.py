"""Quiet: what pydicom would say about a file repeats the file's values, and is not said."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pydicom.config

_is_quiet = ContextVar("_is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom: its warnings and log lines repeat values of the file, and validation is ours."""
    if _is_quiet.get():
        yield
        return
    settings = pydicom.config.settings
    before = (settings.reading_validation_mode, settings.writing_validation_mode)
    logger = logging.getLogger("pydicom")
    token = _is_quiet.set(True)
    was_disabled = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = pydicom.config.IGNORE
        settings.writing_validation_mode = pydicom.config.IGNORE
        logger.disabled = True
        try:
            yield
        finally:
            _is_quiet.reset(token)
            logger.disabled = was_disabled
            settings.reading_validation_mode, settings.writing_validation_mode = before
