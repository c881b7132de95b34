"""The two lines of charts of the overlap of kept sets."""

OVERLAP_SERIES = {"with the previous step": "overlap_previous", "with the first step": "overlap_first"}
"""Column of each line, by the name of the line."""
