"""Tiny files in the real on-disk formats, written by seeded scripts."""
