"""What networks are fed with: stored images as batches on a device."""
