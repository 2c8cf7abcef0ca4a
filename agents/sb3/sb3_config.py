"""Settings of the agents and networks of Stable-Baselines3; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from envs.tasks.task import Task
from preference_duel.checks import at_least, positive, require

if TYPE_CHECKING:
    from agents.sb3.dqn import DuelDQN
    from agents.sb3.on_policy import OnPolicy
    from agents.sb3.policy import SB3Policy
    from preference_duel.protocols import Policy

Algorithm = Literal["ppo", "maskable_ppo", "trpo", "a2c", "dqn"]
Against = Literal["pool", "latest"]


@dataclass(frozen=True)
class PoolConfig:
    """Settings of the opponents."""

    against: Against = "pool"
    """Player of the other seat: "pool", one of all that are kept, drawn for each duel (fictitious self-play, Heinrich
    et al. 2015), or "latest", the newest of them."""

    renew_every: int = 5
    """Updates between snapshots, >= 1."""

    size: int = 20
    """Snapshots that are kept, >= 1: a uniform sample of all that were taken, the start included."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        if self.against not in get_args(Against):
            raise ValueError(f"against must be one of {get_args(Against)}, got {self.against!r}")
        for name in ("renew_every", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"pool.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class SB3PolicyConfig:
    """Embedded tokens side by side, then layers: Stable-Baselines3's "MlpPolicy" over `TokenExtractor`."""

    algorithm: Algorithm = "maskable_ppo"
    """Whose network it is; the agent of the same name trains it."""

    width: int = 16
    """Size of a token's embedding, >= 1."""

    hidden: tuple[int, ...] = (64, 64)
    """Neurons of each layer, of the policy's and of the value's net alike; Stable-Baselines3's default."""

    def build(self, *, task: Task, device: str = "cpu", seed: int = 0) -> SB3Policy:
        """Builds the network for the task's tokens."""
        from agents.sb3.policy import SB3Policy

        return SB3Policy(self, task, device, seed)


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), Stable-Baselines3's, without masks."""

    algorithm: ClassVar[str] = "ppo"
    own_policy: ClassVar[tuple[str, dict[str, str]]] = ("sb3", {"algorithm": "ppo"})

    tau: float = 0.0
    """KL coefficient around the starting policy, >= 0: each token's reward loses tau log(pi / ref)."""

    learning_rate: float = 3e-4
    """Of Adam; Stable-Baselines3's default."""

    epochs: int = 10
    """Passes over the tokens of a step, >= 1; Stable-Baselines3's default."""

    batch_size: int = 64
    """Tokens of a minibatch, >= 2; Stable-Baselines3's default."""

    gamma: float = 1.0
    """Discount of a token, in (0, 1]; a verdict at the end is worth the same for long responses."""

    gae_lambda: float = 0.95
    """Of generalised advantages, in [0, 1]; Stable-Baselines3's default."""

    clip: float = 0.2
    """Range of the probability ratio, > 0; Stable-Baselines3's default."""

    entropy: float = 0.0
    """Coefficient of the entropy bonus, >= 0; Stable-Baselines3's default."""

    value: float = 0.5
    """Coefficient of the value loss, >= 0; Stable-Baselines3's default."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    """The opponents."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        _require_on_policy(self.tau, self.learning_rate, self.gamma, self.gae_lambda)
        if self.epochs < 1 or self.batch_size < 2 or not self.clip > 0:
            raise ValueError(
                f"epochs must be at least 1, batch_size 2 and clip positive, got {self.epochs}, {self.batch_size} and "
                f"{self.clip}"
            )

    def build(self, *, policy: Policy, seed: int = 0) -> OnPolicy:
        """Builds the agent around the network that it trains."""
        from agents.sb3.on_policy import OnPolicy
        from agents.sb3.rollout import require_network

        network = require_network(policy, self.algorithm)
        settings = {"n_epochs": self.epochs, "batch_size": self.batch_size, "clip_range": self.clip}
        settings |= {"ent_coef": self.entropy, "vf_coef": self.value}
        settings |= {"n_steps": self.batch_size}  # of no buffer of ours; a multiple of the minibatch is not warned of
        return OnPolicy(self, network, seed, settings)


@dataclass(frozen=True)
class MaskablePPOConfig(PPOConfig):
    """PPO that draws legal tokens alone (Huang & Ontañón 2022, arXiv:2006.14171), sb3-contrib's."""

    algorithm: ClassVar[str] = "maskable_ppo"
    own_policy: ClassVar[tuple[str, dict[str, str]]] = ("sb3", {"algorithm": "maskable_ppo"})


@dataclass(frozen=True)
class TRPOConfig:
    """Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477), sb3-contrib's, without masks."""

    algorithm: ClassVar[str] = "trpo"
    own_policy: ClassVar[tuple[str, dict[str, str]]] = ("sb3", {"algorithm": "trpo"})

    tau: float = 0.0
    """KL coefficient around the starting policy, >= 0: each token's reward loses tau log(pi / ref)."""

    target_kl: float = 0.01
    """KL from the sampling policy that a step may take, nats a token, > 0; the paper's."""

    critic_updates: int = 10
    """Passes of the value net over the tokens of a step, >= 1; sb3-contrib's default."""

    learning_rate: float = 1e-3
    """Of the value net's Adam; sb3-contrib's default."""

    batch_size: int = 128
    """Tokens of a minibatch of the value net, >= 2; sb3-contrib's default."""

    gamma: float = 1.0
    """Discount of a token, in (0, 1]; a verdict at the end is worth the same for long responses."""

    gae_lambda: float = 0.95
    """Of generalised advantages, in [0, 1]; sb3-contrib's default."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    """The opponents."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        _require_on_policy(self.tau, self.learning_rate, self.gamma, self.gae_lambda)
        require(self, target_kl=positive, critic_updates=at_least(1), batch_size=at_least(2))

    def build(self, *, policy: Policy, seed: int = 0) -> OnPolicy:
        """Builds the agent around the network that it trains."""
        from agents.sb3.on_policy import OnPolicy
        from agents.sb3.rollout import require_network

        settings = {"target_kl": self.target_kl, "n_critic_updates": self.critic_updates, "batch_size": self.batch_size}
        settings |= {"n_steps": self.batch_size}  # of no buffer of ours; a multiple of the minibatch is not warned of
        return OnPolicy(self, require_network(policy, self.algorithm), seed, settings)


@dataclass(frozen=True)
class A2CConfig:
    """Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783), Stable-Baselines3's, without masks."""

    algorithm: ClassVar[str] = "a2c"
    own_policy: ClassVar[tuple[str, dict[str, str]]] = ("sb3", {"algorithm": "a2c"})

    tau: float = 0.0
    """KL coefficient around the starting policy, >= 0: each token's reward loses tau log(pi / ref)."""

    learning_rate: float = 7e-4
    """Of RMSprop; Stable-Baselines3's default."""

    gamma: float = 1.0
    """Discount of a token, in (0, 1]; a verdict at the end is worth the same for long responses."""

    gae_lambda: float = 1.0
    """Of generalised advantages, in [0, 1]; Stable-Baselines3's default."""

    entropy: float = 0.0
    """Coefficient of the entropy bonus, >= 0; Stable-Baselines3's default."""

    value: float = 0.5
    """Coefficient of the value loss, >= 0; Stable-Baselines3's default."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    """The opponents."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        _require_on_policy(self.tau, self.learning_rate, self.gamma, self.gae_lambda)

    def build(self, *, policy: Policy, seed: int = 0) -> OnPolicy:
        """Builds the agent around the network that it trains."""
        from agents.sb3.on_policy import OnPolicy
        from agents.sb3.rollout import require_network

        settings = {"ent_coef": self.entropy, "vf_coef": self.value}
        return OnPolicy(self, require_network(policy, self.algorithm), seed, settings)


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236), Stable-Baselines3's, without masks.

    Its policy is one response and a few random tokens: in a game without a pure equilibrium it can't be one.
    """

    algorithm: ClassVar[str] = "dqn"
    own_policy: ClassVar[tuple[str, dict[str, str]]] = ("sb3", {"algorithm": "dqn"})

    learning_rate: float = 1e-3
    """Of Adam; Stable-Baselines3 takes 1e-4, for pictures."""

    gradient_steps: int = 20
    """Minibatches of an update, >= 1."""

    batch_size: int = 64
    """Tokens of a minibatch, >= 1."""

    buffer_size: int = 20_000
    """Tokens that are remembered, >= 1."""

    target_every: int = 5
    """Updates between copies of the network to its target, >= 1."""

    exploration: float = 0.05
    """The share of random tokens in the end, in (0, 1]; Stable-Baselines3's default."""

    exploration_updates: int = 100
    """Updates in which it falls there from 1, >= 1."""

    gamma: float = 1.0
    """Discount of a token, in (0, 1]; a verdict at the end is worth the same for long responses."""

    pool: PoolConfig = field(default_factory=PoolConfig)
    """The opponents."""

    def __post_init__(self) -> None:
        """Raises where a value is out of range."""
        for name in ("gradient_steps", "batch_size", "buffer_size", "target_every", "exploration_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.gamma <= 1 or not 0 < self.exploration <= 1:
            raise ValueError(f"gamma and exploration must lie in (0, 1], got {self.gamma} and {self.exploration}")

    def build(self, *, policy: Policy, seed: int = 0) -> DuelDQN:
        """Builds the agent around the network that it trains."""
        from agents.sb3.dqn import DuelDQN
        from agents.sb3.rollout import require_network

        return DuelDQN(self, require_network(policy, self.algorithm), seed)


def _require_on_policy(tau: float, learning_rate: float, gamma: float, gae_lambda: float) -> None:
    if not tau >= 0:
        raise ValueError(f"tau must be at least 0, got {tau}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not 0 < gamma <= 1 or not 0 <= gae_lambda <= 1:
        raise ValueError(f"gamma must lie in (0, 1] and gae_lambda in [0, 1], got {gamma} and {gae_lambda}")
