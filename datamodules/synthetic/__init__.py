"""Generators of the embedded default data: planted, learnable structure, said to be synthetic wherever it is used."""
