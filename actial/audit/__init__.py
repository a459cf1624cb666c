"""Check whether a benchmark or a training set leaks images, scenes, questions or answers."""
