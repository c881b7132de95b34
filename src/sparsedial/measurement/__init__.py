"""The main job as one call: a study is described, run, and returned with its results."""
