"""What an adapted matrix does, read from its module name: stack, layer, block, role.

Strings only (no torch), so that reports can place a matrix from the files of a run. The tables below cover the
naming of the encoder-decoder families in transformers, and of those that its `encoder-decoder` type is put together
from; an unknown name gives empty fields, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

_ATTENTION_ROLES = {
    "q": ("q", "q_proj", "query", "query_proj", "query_global", "q_attn", "q_lin"),
    "k": ("k", "k_proj", "key", "key_proj", "key_global", "k_lin"),
    "v": ("v", "v_proj", "value", "value_proj", "value_global", "v_lin"),
    "o": ("o", "o_proj", "out_proj", "out_lin"),
}
_FUSED = "c_attn"  # GPT-2: one matrix for q, k and v, in cross-attention for k and v
_FEED_FORWARD_ROLES = {
    "in": ("wi", "wi_1", "fc1", "up_proj", "intermediate", "c_fc", "lin1"),
    "gate": ("wi_0", "gate_proj"),
    "out": ("wo", "fc2", "down_proj", "lin2"),
}
_CROSS = ("encdecattention", "encoder_attn", "cross_attn", "crossattention", "cross_attention")
_SELF = ("self_attn", "attention", "attn", "self_attention", "longformer_self_attn")
_SELF_ENDING = "selfattention"  # T5; LongT5 has LocalSelfAttention and TransientGlobalSelfAttention
_FEED_FORWARD = ("densereludense", "mlp", "ffn", "feed_forward", "feedforward", "ff")
_OTHER_SENSES = {"vision", "visual", "image", "video", "audio", "speech"}


@dataclass(frozen=True)
class TargetRole:
    """Place of one adapted matrix in an encoder-decoder model; empty where the name does not say."""

    stack: str = ""
    """`encoder` or `decoder`; the tower's own name (`vision_tower`) for what does not read text."""
    layer: int | None = None
    """Layer number inside the stack, from 0."""
    block: str = ""
    """`self_attention`, `cross_attention` or `feed_forward`."""
    role: str = ""
    """q, k, v, o for attention (qkv and kv where they are one matrix); in, gate, out for the feed-forward."""


def role_of(module_name: str) -> TargetRole:
    """Place a module by its name in the base model's `named_modules()`.

    >>> role_of("decoder.block.0.layer.1.EncDecAttention.q")
    TargetRole(stack='decoder', layer=0, block='cross_attention', role='q')
    """
    parts = module_name.split(".")
    stack = tower_of(module_name) or next(filter(None, map(_stack, parts)), "")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    block, role = _block_and_role([part.lower() for part in parts])
    return TargetRole(stack=stack, layer=layer, block=block, role=role)


def tower_of(module_name: str) -> str:
    """The part of a name that stands for another sense than text.

    >>> tower_of("model.encoder.vision_tower.encoder.layers.0.mlp.fc1")
    'vision_tower'
    """
    return next((part for part in module_name.split(".") if _OTHER_SENSES & set(part.lower().split("_"))), "")


def _stack(part: str) -> str:
    """`encoder` for `encoder` and `text_encoder`, likewise `decoder`."""
    last = part.rsplit("_", 1)[-1]
    return last if last in ("encoder", "decoder") else ""


def _block_and_role(parts: list[str]) -> tuple[str, str]:
    leaf, parents = parts[-1], parts[:-1]
    if leaf == _FUSED:
        around = _attention_block(parents)
        return around, "kv" if around == "cross_attention" else "qkv"
    attention = _find(leaf, _ATTENTION_ROLES)
    if attention:
        return _attention_block(parents), attention
    feed_forward = _find(leaf, _FEED_FORWARD_ROLES)
    if feed_forward:
        return "feed_forward", feed_forward
    if leaf in ("dense", "output", "c_proj"):  # named by their parent in BERT, ProphetNet, Longformer and GPT-2
        return _dense_role(leaf, parents)
    return "", ""


def _dense_role(leaf: str, parents: list[str]) -> tuple[str, str]:
    around = _attention_block(parents)
    if around and (leaf != "dense" or parents[-1] == "output"):
        return around, "o"
    if leaf == "dense" and parents[-1] in ("intermediate", "output"):
        return "feed_forward", "in" if parents[-1] == "intermediate" else "out"
    return ("feed_forward", "out") if any(part in _FEED_FORWARD for part in parents) else ("", "")


def _attention_block(parents: list[str]) -> str:
    if any(part in _CROSS for part in parents):
        return "cross_attention"
    own = any(part in _SELF or part.endswith(_SELF_ENDING) for part in parents)
    return "self_attention" if own else ""


def _find(leaf: str, table: dict[str, tuple[str, ...]]) -> str:
    return next((role for role, names in table.items() if leaf in names), "")
