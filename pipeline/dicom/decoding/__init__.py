"""Decoding: pixel data become modality values."""
