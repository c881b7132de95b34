"""Executors: where the jobs of a study are run."""
