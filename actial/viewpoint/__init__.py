"""The paper's task in numpy: poses to motion, quality gates, view pairs, questions and chains of thought."""
