import pytest
import torch
from torch import Tensor, nn

from agents.optim.lbfgs import minimise, squares_curvature
from agents.optim.optimiser import Optimiser, OptimiserConfig


def config(method="sgd", **fields) -> OptimiserConfig:
    plain = {} if method == "lbfgs" else {"warmup": 0, "max_grad_norm": None}
    return OptimiserConfig(method, **{**plain, **fields})


class Bowl:
    """A sum of weighted squares around a centre, and how often it was asked."""

    def __init__(self, weight=(1.0, 10.0, 0.1), scale: float = 1.0) -> None:
        self.x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.weight, self.centre = scale * torch.tensor(weight).double(), torch.tensor([1.0, -2.0, 3.0]).double()
        self.asked = 0

    def __call__(self) -> Tensor:
        self.asked += 1
        self.x.grad = None
        loss = (self.weight * (self.x - self.centre) ** 2).sum() / 2
        loss.backward()
        return loss.detach()


def moved(**fields) -> Tensor:
    bowl = Bowl()
    Optimiser([bowl.x], config(**fields), 0.1).step(bowl)
    return bowl.x.detach()


@pytest.mark.parametrize("method", ["rmsprop", "adamw", "sgd"])
def test_every_method_goes_down(method):
    bowl = Bowl()
    optimiser = Optimiser([bowl.x], config(method, learning_rate=0.05, momentum=0.5, warmup=3), 0.1)
    losses = [optimiser.step(bowl)[0] for _ in range(200)]
    assert losses[-1] < 0.05 * losses[0]


def test_one_step_of_sgd_is_the_gradient_times_the_learning_rate():
    assert torch.allclose(moved(), torch.tensor([0.1, -2.0, 0.03]).double())


def test_a_step_returns_the_loss_and_the_norm_before_it():
    bowl = Bowl()
    loss, norm = Optimiser([bowl.x], config(max_grad_norm=0.1), 0.1).step(bowl)
    assert loss == pytest.approx(0.5 * (1 + 40 + 0.9))
    assert norm == pytest.approx((1 + 400 + 0.09) ** 0.5)


def test_gradients_are_scaled_down_to_their_limit():
    assert moved(max_grad_norm=1e-3).norm().item() == pytest.approx(1e-4, rel=1e-4)
    assert torch.allclose(moved(max_grad_norm=1e3), moved())


def test_warmup_starts_with_a_part_of_the_learning_rate():
    assert torch.allclose(moved(warmup=4), moved() / 4)


def test_decay_halves_the_learning_rate_after_so_many_steps():
    bowl = Bowl()
    optimiser = Optimiser([bowl.x], config(learning_rate=0.5, warmup=2, decay=4.0), 0.1)
    rates = []
    for _ in range(4):
        optimiser.step(bowl)
        rates.append(optimiser.learning_rate)
    assert rates == pytest.approx([0.5 / 2 / 1.25, 0.5 / 1.5, 0.5 / 1.75, 0.25])


def test_momentum_is_beta1_and_smoothing_beta2_of_adamw():
    bowl, twin = Bowl(), Bowl()
    ours = Optimiser([bowl.x], config("adamw", momentum=0.8, smoothing=0.95, weight_decay=0.1), 0.1)
    torchs = torch.optim.AdamW([twin.x], 0.1, betas=(0.8, 0.95), weight_decay=0.1)
    for _ in range(5):
        ours.step(bowl)
        twin()
        torchs.step()
    assert torch.equal(bowl.x, twin.x)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_lbfgs_reaches_the_minimum_whatever_the_scale(scale):
    bowl = Bowl(scale=scale)
    loss, remaining = Optimiser([bowl.x], config("lbfgs"), 0.1).step(bowl)
    assert torch.allclose(bowl.x.detach(), bowl.centre, atol=1e-8)
    assert loss == pytest.approx(scale * 0.5 * (1 + 40 + 0.9))
    assert remaining <= 4e-11 * scale * 401**0.5
    assert bowl.asked < 60


def test_lbfgs_finds_faint_directions_where_it_is_told_the_squared_terms():
    plain, told = Bowl((1.0, 1e6, 1e-6)), Bowl((1.0, 1e6, 1e-6))
    Optimiser([plain.x], config("lbfgs"), 0.1).step(plain)
    Optimiser([told.x], config("lbfgs"), 0.1).step(told, lambda: iter([(told.weight / 2).sqrt() * told.x]))
    assert torch.allclose(told.x.detach(), told.centre, atol=1e-8)
    assert not torch.allclose(plain.x.detach(), plain.centre, atol=1e-2)


def test_the_curvature_of_four_terms_is_exact():
    generator = torch.Generator().manual_seed(0)
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    matrix = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda v: (matrix @ v).square().sum(), x.detach())
    assert isinstance(hessian, Tensor)
    expected = torch.cat([hessian.diagonal(), torch.full((2,), hessian.diagonal().max().item() * 2.0**-52)])
    assert torch.allclose(squares_curvature([matrix @ x], [x, unused]), expected, atol=0)


def test_lbfgs_follows_a_curved_valley():
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def rosenbrock() -> Tensor:
        x.grad = None
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        loss.backward()
        return loss.detach()

    minimise(rosenbrock, [x])
    assert torch.allclose(x.detach(), torch.ones(2).double(), atol=1e-8)


def test_lbfgs_stops_where_nothing_can_be_gained():
    bowl = Bowl()
    bowl.x.data.copy_(bowl.centre)
    assert minimise(bowl, [bowl.x]) == (0.0, 0.0)
    assert bowl.asked == 1


def test_lbfgs_stops_where_its_steps_are_below_rounding():
    """The gradient is 1e-9 at first, and no point of float64 has one of the 4e-20 that are wanted."""
    target = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    x, asked = nn.Parameter(target.log() + torch.tensor([1e-9, 0, 0])), []

    def cross_entropy() -> Tensor:
        x.grad = None
        loss = -(target * x.log_softmax(0)).sum()
        loss.backward()
        asked.append(loss.item())
        return loss.detach()

    minimise(cross_entropy, [x])
    assert torch.allclose(x.softmax(0).detach(), target, atol=1e-15, rtol=0)
    assert len(asked) < 60


@pytest.mark.parametrize("method", ["rmsprop", "adamw", "sgd", "lbfgs"])
def test_a_restored_optimiser_goes_on_where_it_was(method):
    settings = config(method, **({} if method == "lbfgs" else {"momentum": 0.9, "warmup": 5, "decay": 3.0}))
    bowl, twin = Bowl(), Bowl()
    first, second = Optimiser([bowl.x], settings, 0.1), Optimiser([twin.x], settings, 0.1)
    first.step(bowl)
    twin.x.data.copy_(bowl.x.data)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        first.step(bowl)
        second.step(twin)
    assert torch.equal(bowl.x, twin.x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "adam"}, "method must be one of"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"decay": 0.0}, "decay must be positive"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive"),
        ({"method": "lbfgs", "learning_rate": 0.5}, "'lbfgs' makes no use of learning_rate, got 0.5"),
        ({"method": "sgd", "smoothing": 0.9}, "'sgd' makes no use of smoothing"),
    ],
)
def test_settings_that_are_wrong_or_ignored_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_frozen_parameters_are_left_out():
    fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        Optimiser([fixed], config(), 0.1)
