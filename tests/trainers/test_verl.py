"""The reward function in verl's own reward manager, which finds it by a file and a name (needs verl)."""

import asyncio

import numpy as np
import pytest
import torch

from benchmarks.serving import HashedOracle, in_thread
from oracles.group_rewards import group_rewards
from oracles.serving.reward_server import RewardServer, ServerSettings

pytestmark = pytest.mark.trainers
TEXTS = ["simmer it", "mow the lawn", "boil it"]
FILE = """
from oracles.adapters.verl import duel_score

compute_score = duel_score("http://127.0.0.1:{port}", group_size=3)
"""


class Words:
    """A tokenizer whose tokens are the texts."""

    def decode(self, ids, skip_special_tokens):
        return TEXTS[int(ids[0])]


def test_a_reward_manager_of_verl_gets_the_rewards_of_the_group(tmp_path):
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
    from verl.trainer.ppo.reward import get_custom_reward_fn

    with in_thread(RewardServer(HashedOracle(), ServerSettings())) as port:
        (tmp_path / "duel_reward.py").write_text(FILE.format(port=port))
        function = {"path": str(tmp_path / "duel_reward.py"), "name": "compute_score"}
        config = OmegaConf.create({"reward": {"custom_reward_function": function}})
        data = DataProto.from_dict(
            tensors={"responses": torch.arange(3)[:, None], "attention_mask": torch.ones(3, 1, dtype=torch.long)},
            non_tensors={
                "data_source": np.array(["duel"] * 3, dtype=object),
                "reward_model": np.array([{"ground_truth": ""}] * 3, dtype=object),
                "extra_info": np.array([{"question": "Rice?", "index": 0} for _ in TEXTS], dtype=object),
            },
        )

        async def step():
            manager = get_reward_manager_cls("naive")(config, Words(), get_custom_reward_fn(config))
            return await asyncio.gather(*(manager.run_single(data[i : i + 1]) for i in range(3)))

        answers = asyncio.run(step())
    expected = group_rewards(HashedOracle(), ["Rice?"], [TEXTS]).rewards[0].tolist()
    assert [answer["reward_score"] for answer in answers] == pytest.approx(expected)
