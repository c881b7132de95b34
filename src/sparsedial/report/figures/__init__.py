"""The figures of the page: which results are drawn, and how."""
