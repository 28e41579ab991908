"""Measurements that back a claim; each can leave a record under ``benchmarks/records``."""
