"""Tasks of lm-eval: its data, prompts, filters and metrics, with forward passes that can be sparsified.

`loader` loads tasks by name and reports all their problems without a model. `task` defines `LmEvalTask`, which uses
`requests` (prompts as tokens), `answering` (running the model) and `judging` (lm-eval's filters and metrics).
`model_plugin` makes sparsified models available in lm-eval's own command line.
"""
