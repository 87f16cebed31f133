"""What an adapted matrix does, read from its module name: stack, layer, block, role.

Strings only (no torch), so that reports can place a matrix from the files of a run. The tables below cover the
naming of the encoder-decoder families in transformers; an unknown name gives empty fields, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass

_ATTENTION_ROLES = {
    "q": ("q", "q_proj", "query", "query_proj", "query_global"),
    "k": ("k", "k_proj", "key", "key_proj", "key_global"),
    "v": ("v", "v_proj", "value", "value_proj", "value_global"),
    "o": ("o", "o_proj", "out_proj"),
}
_FEED_FORWARD_ROLES = {
    "in": ("wi", "wi_1", "fc1", "up_proj", "intermediate"),
    "gate": ("wi_0", "gate_proj"),
    "out": ("wo", "fc2", "down_proj"),
}
_CROSS = ("encdecattention", "encoder_attn", "cross_attn", "crossattention", "cross_attention")
_SELF = ("selfattention", "self_attn", "attention", "self_attention", "longformer_self_attn")
_FEED_FORWARD = ("densereludense", "mlp", "ffn", "feed_forward", "feedforward", "ff")


@dataclass(frozen=True)
class TargetRole:
    """Place of one adapted matrix in an encoder-decoder model; empty where the name does not say."""

    stack: str = ""
    """`encoder` or `decoder`."""
    layer: int | None = None
    """Layer number inside the stack, from 0."""
    block: str = ""
    """`self_attention`, `cross_attention` or `feed_forward`."""
    role: str = ""
    """q, k, v, o for attention; in, gate, out for the feed-forward."""


def role_of(module_name: str) -> TargetRole:
    """Place a module by its name in the base model's `named_modules()`.

    >>> role_of("decoder.block.0.layer.1.EncDecAttention.q")
    TargetRole(stack='decoder', layer=0, block='cross_attention', role='q')
    """
    parts = module_name.split(".")
    stack = next((part for part in parts if part in ("encoder", "decoder")), "")
    layer = next((int(part) for part in parts if part.isdigit()), None)
    block, role = _block_and_role([part.lower() for part in parts])
    return TargetRole(stack=stack, layer=layer, block=block, role=role)


def _block_and_role(parts: list[str]) -> tuple[str, str]:
    leaf, parents = parts[-1], parts[:-1]
    attention = _find(leaf, _ATTENTION_ROLES)
    if attention:
        return _attention_block(parents), attention
    feed_forward = _find(leaf, _FEED_FORWARD_ROLES)
    if feed_forward:
        return "feed_forward", feed_forward
    if leaf in ("dense", "output"):  # BERT, ProphetNet and Longformer name projections by their parent
        return _dense_role(leaf, parents)
    return "", ""


def _dense_role(leaf: str, parents: list[str]) -> tuple[str, str]:
    around = _attention_block(parents)
    if around and (leaf == "output" or parents[-1] == "output"):
        return around, "o"
    if leaf == "dense" and parents[-1] in ("intermediate", "output"):
        return "feed_forward", "in" if parents[-1] == "intermediate" else "out"
    return ("feed_forward", "out") if any(part in _FEED_FORWARD for part in parents) else ("", "")


def _attention_block(parents: list[str]) -> str:
    if any(part in _CROSS for part in parents):
        return "cross_attention"
    return "self_attention" if any(part in _SELF for part in parents) else ""


def _find(leaf: str, table: dict[str, tuple[str, ...]]) -> str:
    return next((role for role, names in table.items() if leaf in names), "")
