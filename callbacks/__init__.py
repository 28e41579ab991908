"""What happens around training: splits, probes, clipping, stopping, checkpoints, reports."""
