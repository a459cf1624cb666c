"""Completions sampled by Hugging Face generation, vLLM in the process, or a vLLM server."""
