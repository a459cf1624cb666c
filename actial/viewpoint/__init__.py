"""The paper's task in numpy: motion from poses, quality gates, pairs, questions, rationales."""
