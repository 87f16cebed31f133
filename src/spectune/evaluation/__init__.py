"""Evaluation by generation: texts from `model.generate`, metrics over texts, the loss, and the reload proof."""
