"""The disentangled attention of DeBERTa-v3, written for short texts and for a few wanted positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from preference_duel.transfer import all_to_device

if TYPE_CHECKING:
    from transformers import DebertaV2Config, DebertaV2Model


def is_supported(config: DebertaV2Config) -> bool:
    """Returns whether `states_at` knows this variant: the one of every DeBERTa-v3."""
    return (
        config.relative_attention
        and getattr(config, "share_att_key", False)
        and getattr(config, "position_buckets", -1) > 0
        and set(config.pos_att_type or ()) == {"c2p", "p2c"}
        and getattr(config, "conv_kernel_size", 0) <= 0
    )


@dataclass(frozen=True)
class _Relative:
    """Rows of the table of relative positions: entry c stands for query - key = L - 1 - c."""

    content_to_position: Tensor
    """[2L - 1]"""
    position_to_content: Tensor
    """[2L - 1]"""


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _relative(length: int, span: int, furthest: int, device: torch.device) -> _Relative:
    """Returns the rows for texts of a length: `span` buckets in either direction, the last at offset `furthest`."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    offsets = torch.arange(length - 1, -length, -1)
    buckets = make_log_bucket_position(offsets, span, furthest).long()
    rows = (buckets + span).clamp(0, 2 * span - 1), (span - buckets).clamp(0, 2 * span - 1)
    return _Relative(*all_to_device(rows, device))


def states_at(model: DebertaV2Model, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """Returns the last hidden states at a few positions of each row.

    DeBERTa (He et al. 2021, arXiv:2006.03654), equation 4, with the parameters of transformers' modules. It gives what
    the library gives, from less work: relative scores only for the offsets that occur and read through strides
    instead of gathers, no outer product of masks, and in the last layer only the wanted queries.

    Args:
        model: a DeBERTa-v3 for which `is_supported` holds.
        ids: [N, L] token ids.
        mask: [N, L] True where an id counts; the first id of each row counts.
        positions: [N, P].

    Returns:
        [N, P, d].
    """
    hidden: Tensor = model.embeddings(input_ids=ids, mask=mask)  # [N, L, d]
    encoder: Any = model.encoder
    relative = _relative(ids.shape[1], encoder.position_buckets, encoder.max_relative_positions, ids.device)
    table: Tensor = encoder.get_rel_embedding()
    ignored = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, -torch.inf)[None, :, None]  # [1, N, 1, L]
    layers: list[Any] = list(encoder.layer)
    for layer in layers[:-1]:
        attention = layer.attention.self
        hidden = _finish(layer, _attend(attention, hidden, hidden, ignored, _all_scores(relative, table)), hidden)
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    wanted = hidden[rows, positions]  # [N, P, d]
    scores = _few_scores(relative, table, positions)
    return _finish(layers[-1], _attend(layers[-1].attention.self, wanted, hidden, ignored, scores), wanted)


_Scores = Callable[[Any, Tensor, Tensor], Tensor]


def _finish(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attended = layer.attention.output(context, residual)
    return layer.output(layer.intermediate(attended), attended)


def _heads(states: Tensor, attention: Any) -> Tensor:
    """Returns [..., L, d] as [H, ..., L, d / H]."""
    return states.unflatten(-1, (attention.num_attention_heads, -1)).movedim(-2, 0).contiguous()


def _attend(attention: Any, queries: Tensor, keys: Tensor, ignored: Tensor, scores: _Scores) -> Tensor:
    """Returns the attention's output for [N, P, d] queries over [N, L, d] keys."""
    q = _heads(attention.query_proj(queries), attention)  # [H, N, P, d/H]
    k = _heads(attention.key_proj(keys), attention)
    v = _heads(attention.value_proj(keys), attention)
    bias = scores(attention, q, k).add_(ignored)  # [H, N, P, L]
    dropout = attention.dropout.p if attention.training else 0.0
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=_scale(q))
    return context.movedim(0, -2).flatten(-2)


def _scale(q: Tensor) -> float:
    """Returns 1 / sqrt(3 d): three terms, content to content, content to position, position to content."""
    return 1 / math.sqrt(3 * q.shape[-1])


def _projected(attention: Any, table: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Returns the positions' keys and queries, scaled, [rows, d] each."""
    table = attention.pos_dropout(table)
    return attention.key_proj(table) * scale, attention.query_proj(table) * scale


def _all_scores(relative: _Relative, table: Tensor) -> _Scores:
    """Makes the position-dependent part of the scores for every query, [H, N, L, L]."""

    def scores(attention: Any, q: Tensor, k: Tensor) -> Tensor:
        keys, queries = (_heads(rows, attention) for rows in _projected(attention, table, _scale(q)))
        to_position = _along_diagonals(q, keys, relative.content_to_position)
        return to_position + _along_diagonals(k, queries, relative.position_to_content).mT

    return scores


def _along_diagonals(states: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Returns [H, N, L, L] with entry i, j = states_i . table[index[L - 1 + j - i]]."""
    heads, batch, length, _ = states.shape
    flat = states.flatten(1, 2)
    if length <= table.shape[1]:
        columns = flat @ table[:, index].mT  # [H, N L, 2L - 1]
        width = 2 * length - 1
        # Row i starts one column earlier than row i - 1, so one stride less per row reads along the diagonal.
        strides = (batch * length * width, length * width, width - 1, 1)
        return columns.as_strided((heads, batch, length, length), strides, length - 1)
    offsets = torch.arange(length, device=index.device)
    wanted = index[length - 1 + offsets - offsets[:, None]]  # [L, L]
    return (flat @ table.mT).unflatten(1, (batch, length)).gather(-1, wanted.expand(heads, batch, -1, -1))


def _few_scores(relative: _Relative, table: Tensor, positions: Tensor) -> _Scores:
    """Makes the position-dependent part of the scores for the queries at [N, P] positions, [H, N, P, L]."""

    def scores(attention: Any, q: Tensor, k: Tensor) -> Tensor:
        length = k.shape[2]
        ahead = torch.arange(length, device=positions.device) - positions[..., None]  # [N, P, L] key - query
        keys, queries = _projected(attention, table, _scale(q))
        keys = _heads(keys[relative.content_to_position[length - 1 + ahead]], attention)  # [H, N, P, L, d/H]
        queries = _heads(queries[relative.position_to_content[length - 1 - ahead]], attention)
        return torch.einsum("hnpd,hnpld->hnpl", q, keys) + torch.einsum("hnld,hnpld->hnpl", k, queries)

    return scores
