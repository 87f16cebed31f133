"""The bundled starter: a small pre-trained T5, its recipe, and sentences to fine-tune it on. Imports no torch."""
