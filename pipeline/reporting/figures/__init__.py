"""Figures: numbers of a report drawn in one style; nothing is computed here."""
