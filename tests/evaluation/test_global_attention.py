"""LED's global attention is a choice of the run, written where generation reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SENTENCES
from tests.families import write_base
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from spectune.evaluation.constrained import LabelDecoder
from spectune.evaluation.decoding import GLOBAL_ATTENTION, first_token_mask
from spectune.evaluation.generation import GenerationSettings, generate_texts, generation_config
from spectune.evaluation.global_attention import set_global_attention
from spectune.evaluation.label_trie import LabelTrie
from spectune.evaluation.loss import CrossEntropySum


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base("led", tmp_path_factory.mktemp("led"), SENTENCES)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_choice_reaches_generate(led: Path, beams: int) -> None:
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(led).eval()
    tokenizer = AutoTokenizer.from_pretrained(led)
    encoded = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    settings = GenerationSettings(num_beams=beams, max_new_tokens=8, batch_size=5)
    texts = {}
    for wanted in ("auto", "none"):
        assert set_global_attention(base, wanted) == (wanted == "auto")
        config = generation_config(base, settings)
        assert getattr(config, GLOBAL_ATTENTION, None) == ("first_token" if wanted == "auto" else None)
        rows = [ids[:length] for ids, length in lengths(encoded)]
        texts[wanted] = generate_texts(base, tokenizer, rows, config, batch_size=5)
        mask = {"global_attention_mask": first_token_mask(encoded["attention_mask"])} if wanted == "auto" else {}
        plain = base.generate(**encoded, **mask, generation_config=config)
        assert [text.strip() for text in tokenizer.batch_decode(plain, skip_special_tokens=True)] == texts[wanted]
    assert texts["auto"] != texts["none"]


def lengths(encoded: Any) -> list[tuple[list[int], int]]:
    """Padded rows with their tokens."""
    masks = encoded["attention_mask"].sum(1).tolist()
    return list(zip(encoded["input_ids"].tolist(), masks, strict=True))


def test_other_models_have_no_such_choice(tmp_path: Path) -> None:
    base = AutoModelForSeq2SeqLM.from_pretrained(write_base("bart", tmp_path, SENTENCES))
    for wanted in ("auto", "none"):
        assert not set_global_attention(base, wanted)
        assert not hasattr(base.generation_config, GLOBAL_ATTENTION)


def test_the_mask_has_one_token_a_row() -> None:
    mask = first_token_mask(torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert mask.tolist() == [[1, 0, 0], [1, 0, 0]]


@torch.no_grad()
def test_labels_and_loss_are_of_the_source_seen_globally(led: Path) -> None:
    """Both come from the encoder's output that the free texts came from, here behind a forced first token, too."""
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(led).eval().double()
    tokenizer = AutoTokenizer.from_pretrained(led)
    base.generation_config.forced_bos_token_id = forced = 5
    assert set_global_attention(base, "auto")
    trie = LabelTrie(["up", "down"], [(7, 2), (9, 11, 2)], 2)
    rows = [tokenizer(text)["input_ids"] for text in SENTENCES]
    settings = GenerationSettings(max_new_tokens=4, batch_size=2)
    decoder, loss = LabelDecoder(base, trie, settings, len(rows)), CrossEntropySum(base)

    def after(batch: list[int], encoded: Any, mask: torch.Tensor) -> None:
        decoder.add(batch, encoded, mask)
        loss.add(torch.tensor([[forced, 7, 2]] * len(batch)), encoder_outputs=encoded, attention_mask=mask)

    generate_texts(base, tokenizer, rows, generation_config(base, settings), batch_size=2, after_batch=after)
    found, losses = decoder.outputs().probabilities, []
    start = base.generation_config.decoder_start_token_id
    for row, ids in enumerate(rows):
        source = torch.tensor([ids])
        seen = {"attention_mask": torch.ones_like(source), "global_attention_mask": first_token_mask(source)}
        logits = base(source, decoder_input_ids=torch.tensor([[start, forced, 7]]), **seen).logits[0]
        torch.testing.assert_close(found[row], logits[1, [7, 9]].softmax(-1))
        losses.append(-logits.log_softmax(-1)[range(3), [forced, 7, 2]])
    assert loss.mean() == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
