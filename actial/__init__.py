"""actial: teach a multimodal LLM how the camera moved between two photos, and generalise it by
GRPO.
"""

__version__ = "0.1.0"
