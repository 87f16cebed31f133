"""A tiny random model of every text-to-text type in transformers' sequence-to-sequence mapping.

Dropout and layer dropout stay at the types' own defaults; weights are drawn wide, so that logits differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

VOCABULARY = 256
LAYERS = 2

_IDS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 2,
}
_BART: dict[str, Any] = _IDS | {
    "d_model": 16,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
    "init_std": 0.2,
}
_T5: dict[str, Any] = _IDS | {
    "decoder_start_token_id": 0,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 4,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "relative_attention_num_buckets": 8,
}
_GATED: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_GEMMA: dict[str, Any] = _IDS | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "sliding_window": 8,
    "initializer_range": 0.2,
}
_PROPHETNET: dict[str, Any] = _IDS | {
    "hidden_size": 16,
    "num_encoder_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "init_std": 0.2,
}
_SEAMLESS: dict[str, Any] = _IDS | {
    "hidden_size": 16,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}


def _plain(config: str, sizes: dict[str, Any], **changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        made: PretrainedConfig = getattr(transformers, config)(**{**sizes, **changes})
        return made

    return make


def _encoder_decoder(decoder: str, **changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        encoder = transformers.BertConfig(**_BERT)
        sizes = {key: value for key, value in _BERT.items() if decoder != "GPT2Config" or key != "intermediate_size"}
        parts = getattr(transformers, decoder)(**{**sizes, **changes})
        ids = {key: _IDS[key] for key in ("pad_token_id", "decoder_start_token_id", "eos_token_id")}
        return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, parts, **ids)

    return make


def _t5gemma() -> PretrainedConfig:
    return transformers.T5GemmaConfig(encoder=_GEMMA, decoder=_GEMMA, vocab_size=VOCABULARY)


def _t5gemma2() -> PretrainedConfig:
    encoder = {"text_config": _GEMMA, "vision_config": _VISION, "mm_tokens_per_image": 4, "boi_token_index": 253}
    return transformers.T5Gemma2Config(
        encoder={**encoder, "eoi_token_index": 254}, decoder=_GEMMA, image_token_index=255, eoi_token_index=254
    )


CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "bart": _plain("BartConfig", _BART),
    "bigbird_pegasus": _plain("BigBirdPegasusConfig", _BART, block_size=4, num_random_blocks=1),
    "blenderbot": _plain("BlenderbotConfig", _BART),
    "blenderbot-small": _plain("BlenderbotSmallConfig", _BART),
    "encoder-decoder": _encoder_decoder("BertConfig"),
    "encoder-decoder (GPT-2)": _encoder_decoder("GPT2Config"),
    "fsmt": _plain("FSMTConfig", _BART, src_vocab_size=VOCABULARY, tgt_vocab_size=VOCABULARY),
    "led": _plain("LEDConfig", _BART, attention_window=4),
    "longt5": _plain("LongT5Config", _T5, local_radius=3),
    "longt5 (transient-global)": _plain(
        "LongT5Config", _T5 | _GATED, local_radius=3, global_block_size=4, encoder_attention_type="transient-global"
    ),
    "m2m_100": _plain("M2M100Config", _BART),
    "marian": _plain("MarianConfig", _BART),
    "mbart": _plain("MBartConfig", _BART),
    "mt5": _plain("MT5Config", _T5, feed_forward_proj="gated-gelu"),
    "mvp": _plain("MvpConfig", _BART),
    "mvp (prompts)": _plain("MvpConfig", _BART, use_prompt=True, prompt_length=4, prompt_mid_dim=8),
    "nllb-moe": _plain(
        "NllbMoeConfig", _BART, num_experts=4, expert_capacity=4, encoder_sparse_step=2, decoder_sparse_step=2
    ),
    "pegasus": _plain("PegasusConfig", _BART),
    "pegasus_x": _plain("PegasusXConfig", _BART, block_size=4, num_global_tokens=2),
    "plbart": _plain("PLBartConfig", _BART),
    "prophetnet": _plain("ProphetNetConfig", _PROPHETNET),
    "seamless_m4t": _plain("SeamlessM4TConfig", _SEAMLESS),
    "seamless_m4t_v2": _plain("SeamlessM4Tv2Config", _SEAMLESS),
    "switch_transformers": _plain(
        "SwitchTransformersConfig", _T5, num_experts=4, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1
    ),
    "t5": _plain("T5Config", _T5),
    "t5 (v1.1)": _plain("T5Config", _T5 | _GATED),
    "t5gemma": _t5gemma,
    "t5gemma2": _t5gemma2,
    "umt5": _plain("UMT5Config", _T5, feed_forward_proj="gated-gelu"),
}

_HEARS = "hears sound: a decoder-only language model behind an audio encoder; no encoder reads text"
REFUSED = dict.fromkeys(
    (
        "audioflamingo3",
        "glmasr",
        "granite_speech",
        "granite_speech_plus",
        "moss_transcribe_diarize",
        "musicflamingo",
        "nemo_speechlm",
        "qwen2_audio",
        "qwen3_asr",
        "vibevoice_asr",
        "voxtral",
        "voxtral_realtime",
    ),
    _HEARS,
)
"""Types of the mapping that cannot work, with the reason."""


def type_of(name: str) -> str:
    """`model_type` of a row: its name without what stands in brackets."""
    return name.split(" (", maxsplit=1)[0]


def build(name: str) -> Any:
    """The model of one row, the same numbers at each call, in evaluation mode."""
    config = CONFIGS[name]()
    torch.manual_seed(0)
    kind: Any = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)]
    return kind(config).eval()
