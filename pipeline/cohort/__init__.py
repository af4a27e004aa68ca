"""Patients: labels, duplicates, folds."""
