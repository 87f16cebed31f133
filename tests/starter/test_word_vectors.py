"""Word vectors from counts: words of the same company end up side by side."""

from __future__ import annotations

import numpy as np
import torch

from spectune.starter.word_vectors import co_occurrences, positive_information, start_from_word_vectors, word_vectors

VOCABULARY = 12


def two_topics() -> np.ndarray:
    """Ids 0 to 4 and 5 to 9 never mix; 10 and 11 never occur."""
    generator = np.random.default_rng(0)
    lines = [generator.integers(0, 5, 40) + 5 * (line % 2) for line in range(60)]
    return np.concatenate(lines).astype(np.int32)


def test_pairs_are_counted_in_both_directions() -> None:
    counts = co_occurrences(np.array([0, 1, 2, 1], dtype=np.int32), 3, window=2).toarray()
    assert counts.tolist() == [[0, 1, 1], [1, 2, 2], [1, 2, 0]]


def test_information_is_positive_and_knows_company() -> None:
    table = positive_information(co_occurrences(two_topics(), VOCABULARY))
    assert (table.data > 0).all()
    assert table[:5, :5].sum() > 20 * table[:5, 5:].sum()


def test_words_of_a_topic_are_close_and_of_unit_size() -> None:
    vectors = word_vectors(two_topics(), VOCABULARY, width=4)
    torch.testing.assert_close(vectors[:10].square().mean(dim=1), torch.ones(10))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    near = unit[:5] @ unit[:5].T
    far = unit[:5] @ unit[5:10].T
    assert near.mean() > far.abs().mean() + 0.1
    assert torch.equal(vectors, word_vectors(two_topics(), VOCABULARY, width=4))


def test_ids_that_never_occur_keep_their_own_start() -> None:
    embedding = torch.nn.Embedding(VOCABULARY, 4)
    before = embedding.weight.detach().clone()
    vectors = word_vectors(two_topics(), VOCABULARY, width=4)
    start_from_word_vectors(embedding, vectors)
    assert torch.equal(embedding.weight[10:], before[10:])
    assert torch.equal(embedding.weight[:10], vectors[:10])
