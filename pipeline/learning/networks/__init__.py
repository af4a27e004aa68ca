"""Networks for images, cut into blocks."""
