"""What a person shares: the model card, and the other shapes an adapter can be written in."""
