"""The third stage of InstructGPT: PPO on a frozen reward, with a KL term that may adapt and a corpus kept likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents.learning.corpus import Corpus, CorpusConfig
from agents.learning.kl_control import KLControlConfig
from agents.learning.learning_agent import LearningAgent
from agents.learning.policy_gradient import Draws, GradientConfig, PolicyGradient
from agents.learning.rewards import Reward, reward
from agents.optim.optimiser import OptimiserConfig
from preference_duel.checks import at_least, one_of, require
from preference_duel.keyed_random import Stream
from preference_duel.types import Duel, Proposal

if TYPE_CHECKING:
    from preference_duel.protocols import Policy


@dataclass(frozen=True)
class PPOPTXConfig:
    """PPO-ptx (Ouyang et al. 2022, arXiv:2203.02155, equation 2): E[R - tau log pi/start] + gamma E_corpus[log pi]."""

    tau: float = 0.1
    """KL coefficient around the starting policy, > 0, the first one if it adapts; InstructGPT's 0.02."""
    reward: Reward = "win_rate"
    """Win rate in the list, or mean log odds: of a frozen reward model's probabilities its reward less the mean."""
    responses: int = 4
    """Samples per prompt, K >= 2, each pair of them asked once. Ignored if the policy is exact."""
    gradient: GradientConfig = field(default_factory=lambda: GradientConfig("ppo"))
    """Policy gradient by rewards."""
    control: KLControlConfig = field(default_factory=KLControlConfig)
    """Controller of tau."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Demonstrations that are kept likely."""
    average: bool = True
    """Keep the running mean of pi_1..pi_T; costs one copy of the weights."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the policy."""

    def __post_init__(self) -> None:
        """Raises if a value is out of range."""
        require(self, responses=at_least(2, "one sample has no other to beat"), reward=one_of(Reward))
        require(self, tau=at_least(1e-12, "a KL coefficient of 0 is --agent spo's"))

    def build(self, *, policy: Policy, seed: int = 0) -> PPOPTX:
        """Builds the agent around the policy that it trains; reads the corpus."""
        return PPOPTX(self, policy, seed)


class PPOPTX(LearningAgent):
    """Samples from the policy, reads each sample's reward off its comparisons, and learns from it and the corpus."""

    def __init__(self, config: PPOPTXConfig, policy: Policy, seed: int) -> None:
        self.config, self.start = config, policy.snapshot()
        super().__init__(policy, config.optimiser, seed, average=config.average, start=self.start)
        self._corpus = None if config.corpus.file is None else Corpus(config.corpus, policy)
        self._gradient = PolicyGradient(self.learner, self.start, config.tau, config.gradient)
        self.learner.batchable &= self._corpus is None and config.control.target is None

    def propose(self, prompts: Sequence[str]) -> Proposal:
        """Returns K samples for both seats, or the whole distribution if the policy is exact."""
        return self.self_play(self.policy, prompts, self.config.responses)

    def update(self, duel: Duel) -> dict[str, float]:
        """Takes the steps of a batch on the rewards of the samples, and adapts tau; raises as `rewards.reward`."""
        self.include_in_average(self.policy)
        draws, gradient = Draws(duel.prompts, duel.left, duel.left_weight, duel.exact), self._gradient
        corpus = None if self._corpus is None else (self._corpus.batch(self.key(Stream.PROMPT)), self._corpus.loss)
        scalars = {"policy/tau": gradient.tau, **gradient.step(draws, reward(duel, self.config.reward), corpus)}
        gradient.tau = self.config.control.next(gradient.tau, scalars["policy/kl"], duel.left_weight.numel())
        self.learner.updates += 1
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of policy, copies and optimiser, of the value function, and tau."""
        parts = {"training": self.learner.state_dict(), "gradient": self._gradient.state_dict()}
        return {**parts, "tau": self._gradient.tau}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.learner.load_state_dict(state["training"])
        self._gradient.load_state_dict(state["gradient"])
        self._gradient.tau = float(state["tau"])
