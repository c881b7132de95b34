"""Published results, and results of other groups, to compare the results of a report with."""
