"""Sparse dictionaries: trained on what a site reads and writes, stored, compared between seeds, and read."""
