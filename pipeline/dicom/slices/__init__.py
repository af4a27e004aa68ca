"""Slices: what headers say of images, where slices lie, and which of them form volumes."""
