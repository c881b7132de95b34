"""Studies: which trials to run (`spec`, `search`), how one is run (`trial`, `run`), where they are kept (`store`)."""
