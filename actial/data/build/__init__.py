"""Captures to shards: work divided over processes, resumable, audited."""
