"""Checks of benchmarks and training sets: leaked images, scenes and questions, and text shortcuts."""
