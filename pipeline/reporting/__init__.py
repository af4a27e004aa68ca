"""Documents: sections, figures, HTML and PDF rendering; they compute no number."""
