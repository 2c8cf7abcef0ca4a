"""The built-in agents and policies by name, and their construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from preference_duel.names import configure

if TYPE_CHECKING:
    from envs.tasks.task import Task
    from preference_duel.protocols import Agent, Policy

AGENTS = {
    "sppo": "agents.sppo:SPPOConfig",
    "dpo": "agents.pairs.dpo:DPOConfig",
    "ipo": "agents.ipo:IPOConfig",
    "rdpo": "agents.pairs.rdpo:RDPOConfig",
    "beta_dpo": "agents.pairs.beta_dpo:BetaDPOConfig",
    "dpop": "agents.pairs.dpop:DPOPConfig",
    "f_dpo": "agents.pairs.f_dpo:FDPOConfig",
    "gpo": "agents.pairs.gpo:GPOConfig",
    "discopop": "agents.pairs.discopop:DiscoPOPConfig",
    "nca": "agents.pairs.nca:NCAConfig",
    "bco": "agents.pairs.bco:BCOConfig",
    "apo": "agents.pairs.apo:APOConfig",
    "slic": "agents.pairs.slic:SLiCConfig",
    "cpo": "agents.pairs.cpo:CPOConfig",
    "simpo": "agents.pairs.simpo:SimPOConfig",
    "orpo": "agents.pairs.orpo:ORPOConfig",
    "sft": "agents.sft:SFTConfig",
    "tdpo": "agents.tokens.tdpo:TDPOConfig",
    "cringe": "agents.tokens.cringe:CRINGEConfig",
    "pairwise_cringe": "agents.tokens.pairwise_cringe:PairwiseCRINGEConfig",
    "dcppo": "agents.tokens.dcppo:DCPPOConfig",
    "kto": "agents.singles.kto:KTOConfig",
    "dro": "agents.singles.dro:DROConfig",
    "kimi": "agents.singles.kimi:KimiConfig",
    "npo": "agents.singles.npo:NPOConfig",
    "d2o": "agents.singles.d2o:D2OConfig",
    "bco_unpaired": "agents.singles.bco_unpaired:BCOUnpairedConfig",
    "spin": "agents.singles.spin:SPINConfig",
    "plackett_luce": "agents.lists.plackett_luce:PlackettLuceConfig",
    "lipo": "agents.lists.lipo:LiPOConfig",
    "pro": "agents.lists.pro:PROConfig",
    "rrhf": "agents.lists.rrhf:RRHFConfig",
    "rebel": "agents.lists.rebel:REBELConfig",
    "dno": "agents.lists.dno:DNOConfig",
    "inpo": "agents.nash.inpo:INPOConfig",
    "egpo": "agents.nash.egpo:EGPOConfig",
    "comal": "agents.nash.comal:COMALConfig",
    "nash_md": "agents.nash.nash_md:NashMDConfig",
    "mnpo": "agents.nash.mnpo:MNPOConfig",
    "nash_ema": "agents.nash.nash_ema:NashEMAConfig",
    "gpm_po": "agents.nash.gpm_po:GPMPOConfig",
    "oelhf": "agents.oelhf:OELHFConfig",
    "pelhf": "agents.pelhf:PELHFConfig",
    "spo": "agents.spo:SPOConfig",
    "psro": "agents.population.psro:PSROConfig",
    "grpo": "agents.grpo:GRPOConfig",
    "rloo": "agents.rloo:RLOOConfig",
    "rlhf": "agents.rlhf:RLHFConfig",
    "ppo_ptx": "agents.ppo_ptx:PPOPTXConfig",
    "xpo": "agents.xpo:XPOConfig",
    "ppo": "agents.sb3.sb3_config:PPOConfig",
    "maskable_ppo": "agents.sb3.sb3_config:MaskablePPOConfig",
    "trpo": "agents.sb3.sb3_config:TRPOConfig",
    "a2c": "agents.sb3.sb3_config:A2CConfig",
    "dqn": "agents.sb3.sb3_config:DQNConfig",
}
POLICIES = {
    "tabular": "agents.policies.tabular_config:TabularConfig",
    "tiny": "agents.policies.lm_config:TinyConfig",
    "hf": "agents.policies.lm_config:HFConfig",
    "sb3": "agents.sb3.sb3_config:SB3PolicyConfig",
}


def make(name: str, *, policy: Policy, seed: int = 0, **fields: Any) -> Agent:
    """Builds an agent from its name and the fields of its configuration.

    Args:
        name: a built-in, or "module:Config" of your own.
        policy: the policy that it trains.
        seed: names every draw of the agent.
        **fields: fields of the configuration.

    Raises:
        UnknownNameError: if the name or a field is unknown.
    """
    return configure("agent", name, AGENTS, fields).build(policy=policy, seed=seed)


def make_policy(name: str, *, task: Task, device: str = "cpu", seed: int = 0, **fields: Any) -> Policy:
    """Builds a policy: "tabular", "tiny", a transformers directory or hub id, or "module:Config".

    Raises:
        UnknownNameError: if the name or a field is unknown.
    """
    if name not in POLICIES and ":" not in name:
        name, fields = "hf", {"path": name, **fields}
    return configure("policy", name, POLICIES, fields).build(task=task, device=device, seed=seed)
