"""Data sources: records, labels, groups, batches."""
