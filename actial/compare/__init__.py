"""Compare two or more models on the same items."""
