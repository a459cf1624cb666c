"""Helpers of the tests: tiny models and worlds, oracles, scripted servers."""
