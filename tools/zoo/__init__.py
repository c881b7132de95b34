"""The tools that made the models of the zoo: prompts, corpus, recipes, training and the manifest of the package."""
