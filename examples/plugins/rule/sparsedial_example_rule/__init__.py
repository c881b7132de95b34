"""Rules for sparsedial."""
