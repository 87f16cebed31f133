"""spectune inside other people's training loops."""
