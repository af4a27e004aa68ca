"""De-identification: files that may leave, and what connects them with those that may not."""
