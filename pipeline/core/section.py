"""Sections: the base of all settings."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    # Defaults are validated too, so that a default and the same value written out give the same text (`section`).
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )
