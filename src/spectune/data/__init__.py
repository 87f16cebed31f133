"""From rows of a table to token batches.

`prepare` and what it uses read and check the data without torch; `collation` and `loader` make tensors.
"""
