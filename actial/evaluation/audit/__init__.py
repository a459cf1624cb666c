"""Checks of benchmarks and training sets: leaked images, scenes, questions and text shortcuts."""
