"""What a run needs of memory, worked out without weights."""
