"""The bank: what frozen blocks make of every image."""
