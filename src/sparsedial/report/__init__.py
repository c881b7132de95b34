"""What one sees: `figures` (Altair), `page` (one self-contained HTML page), `table` (the terminal).

The report draws, it never computes.
"""
