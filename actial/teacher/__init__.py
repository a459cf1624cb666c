"""Chains of thought collected from a teacher model behind an OpenAI-compatible server."""
