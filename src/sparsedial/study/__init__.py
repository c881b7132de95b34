"""Studies: specification, choice of trials, evaluation, runs, and storage."""
