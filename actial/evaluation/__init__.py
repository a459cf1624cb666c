"""Models scored on benchmarks, with diagnostics that tell geometry from shortcuts."""
