"""How models are judged: splits, samplers, search, metrics, curves, thresholds, calibration."""
