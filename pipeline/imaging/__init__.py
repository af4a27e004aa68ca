"""Pixels as arrays: preprocessing steps, quality findings, image files."""
