import pytest
import torch
from transformers import DebertaV2Config

from oracles.check import check_oracle
from oracles.pairrm.oracle import PairEncoder, PairRM, PairRMOracle
from tests.paths import GOLDEN

TOKENIZER = (GOLDEN / "pairrm" / "PairRM" / "tokenizer.json").read_text(encoding="utf-8")
V3 = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_position_embeddings": 32,
}
SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 600,
}


def within(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    return found.shape == wanted.shape and (found - wanted).abs().max().item() <= tolerance


def other_network(**fields: object) -> PairRM:
    torch.manual_seed(0)
    network = PairRM(DebertaV2Config(**{**V3, **SIZES, **fields})).eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 80])
def test_the_network_gives_what_the_library_gives(length):
    network = other_network()
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 600, (5, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([[length], [1], [(length + 1) // 2], [length], [length]])
    positions = torch.stack([torch.zeros(5), mask.sum(1) // 2, mask.sum(1) - 1], 1).long()

    def library() -> torch.Tensor:
        hidden = network.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state
        source, first, second = hidden[torch.arange(5)[:, None], positions].unbind(1)
        head = network.head_layer
        return (head(torch.cat([source, first], -1)) - head(torch.cat([source, second], -1))).mean(-1)

    gradients = []
    for logits in (network(ids, mask, positions), library()):
        network.zero_grad()
        (logits * torch.arange(1, 6)).sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert within(network(ids, mask, positions), library(), 1e-5)
    for found, wanted in zip(*gradients, strict=True):
        assert within(found, wanted, 1e-4 * (1 + wanted.abs().max().item()))


@pytest.mark.parametrize("variant", [{}, {"share_att_key": False, "pos_att_type": ["c2p"]}])
def test_padding_overflows_in_no_precision(variant):
    lengths = torch.tensor([1, 5, 40])
    ids = torch.randint(4, 600, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40) < lengths[:, None]
    positions = torch.stack([torch.zeros(3), lengths // 2, lengths - 1], 1).long()
    network = other_network(**variant)
    with torch.inference_mode():
        whole = network(ids, mask, positions)
        half = network.half()(ids, mask, positions)
        alone = torch.cat(
            [network(ids[i : i + 1, :n], mask[i : i + 1, :n], positions[i : i + 1]) for i, n in ((0, 1), (1, 5))]
        )
    assert half.dtype == torch.float16
    assert within(half.float(), whole, 2e-2 * whole.abs().max().item())
    assert within(half[:2].float(), alone.float(), 2e-2 * whole.abs().max().item())


def test_other_deberta_variants_take_the_librarys_path():
    network = other_network(share_att_key=False, pos_att_type=["c2p"])
    oracle = PairRMOracle(network, PairEncoder(TOKENIZER, 20, 12))
    check_oracle(oracle, ["Why?"], [["Because.", "No.", "A much longer answer."]])


def test_the_network_can_be_trained():
    network = other_network().train()
    encoder = PairEncoder(TOKENIZER, 20, 12)
    batch = encoder.batch([encoder.encode("Why?", "Because.", "No."), encoder.encode("How?", "No.", "So.")])
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = -torch.nn.functional.logsigmoid(network(*batch) * torch.tensor([1.0, -1.0])).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
