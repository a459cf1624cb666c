"""Run folders, their provenance, and experiment tracking."""
