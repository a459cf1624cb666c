"""Take the release's system prompt and question wording from the user's own copies."""
