"""Benchmarks of sparsedial. See benchmarks/README.md."""
