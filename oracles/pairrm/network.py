"""The network of a PairRM: a DeBERTa-v3 that reads prompt and both responses at once, and a small head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from oracles.pairrm.attention import is_supported, states_at

if TYPE_CHECKING:
    from transformers import DebertaV2Config


class PairRM(nn.Module):
    """Scores a pair: M(a, b) = head([hs; h1]) - head([hs; h2]), positive where the first response is better.

    Jiang et al. 2023 (arXiv:2306.02561), section 3.2. hs, h1, h2 are the last hidden states at the three prefixes.
    The parameters carry the names of the published checkpoint.

    Args:
        config: sizes of the DeBERTa-v2 backbone.
        n_tasks: outputs of the head; M is their mean.
        drop_out: dropout of the head while training.
    """

    def __init__(self, config: DebertaV2Config, n_tasks: int = 1, drop_out: float = 0.05) -> None:
        super().__init__()
        from transformers import DebertaV2Model

        self.config = config
        self.drop_out = drop_out
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(drop_out),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Dropout(drop_out),
            nn.Linear(config.hidden_size, n_tasks),
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Returns M(first, second) for each row.

        Args:
            ids: [N, L] token ids.
            mask: [N, L] True where an id counts.
            positions: [N, 3] where the prefixes of prompt, first and second response stand.

        Returns:
            [N] logits.
        """
        if is_supported(self.config):
            states = states_at(self.pretrained_model, ids, mask, positions)
        else:
            hidden = self.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state  # [N, L, d]
            states = hidden[torch.arange(len(ids), device=ids.device)[:, None], positions]
        source, first, second = states.unbind(1)  # [N, d] each
        score_first = self.head_layer(torch.cat([source, first], -1))
        score_second = self.head_layer(torch.cat([source, second], -1))
        return (score_first - score_second).mean(-1)
