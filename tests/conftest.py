"""Fixtures of the whole suite: a small real tokenizer, and the place of the shared data; `--fail-on-skip`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from tests.pieces import unigram_pieces
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The company said that profit rose to five million euros in the third quarter.",
    "Net sales fell by ten per cent, and the outlook for the year is negative.",
    "The board expects no change; the order book is neutral compared with last year.",
    "A positive surprise: losses narrowed less than feared, but demand grew again.",
    "The quick brown fox jumps over the lazy dog while seven wizards box quietly.",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are slower on several threads, on a busy machine by an order of magnitude."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts background jobs with SIGINT ignored, and what was ignored stays so; the tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """`make_tokenizer`, once."""
    return make_tokenizer()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Fast unigram tokenizer of 196 pieces: <pad> 0, </s> 1 (appended to every text), <unk> 2."""
    tokenizer = Tokenizer(models.Unigram(unigram_pieces(SENTENCES, ["<pad>", "</s>", "<unk>"], 196), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Directory of the shared data sets: `SPECTUNE_DATA`, else `shared/data` beside the checkout."""
    root = Path(os.environ.get("SPECTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("the shared data is not here")
    return root


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="end with a failure if a test was skipped (CI)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test proves nothing: under `--fail-on-skip` it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--fail-on-skip") or reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"\n{len(skipped)} skipped, and --fail-on-skip was given", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
