"""Shared values without domain knowledge: errors, records, artefacts, seeds, provenance, progress."""
