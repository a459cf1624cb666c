"""The policy and what it is made of: packing, attention, scoring, decoding, prompts, costs."""
