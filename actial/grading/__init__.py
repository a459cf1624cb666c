"""Answers of a model read and graded: the one grader of GRPO rewards and benchmarks."""
