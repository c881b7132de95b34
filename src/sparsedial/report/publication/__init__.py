"""The figures of the paper, drawn from the results of a report for use in publications."""
