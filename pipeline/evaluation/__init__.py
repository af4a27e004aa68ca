"""Numbers: metrics, intervals, calibration, thresholds, comparisons."""
