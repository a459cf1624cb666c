"""Records, errors, seeded hashing and files: what every other package builds on. No torch."""
