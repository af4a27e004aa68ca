"""The built-in study: synthetic DICOM cohorts with planted hazards."""
