"""Masked diffusion language models: every token sees every other, and masked ones are filled in step by step."""
