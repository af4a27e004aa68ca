"""From networks for images to volumes."""
