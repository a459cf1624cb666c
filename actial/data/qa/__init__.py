"""Question sets of others (SAT, published sets) converted to shards."""
