"""The report of a study: one self-contained HTML page, its figures and files, and a table for the terminal.

This package computes no results. They come from `sparsedial.analysis`.
"""
