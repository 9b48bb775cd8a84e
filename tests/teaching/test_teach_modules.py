"""``teach`` for modules as people write them: a test for each kind, and the common layers of torch.nn."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigtn import Curriculum, load_curriculum, teach
from minigtn.teaching.pupil import recompute_batch_norm

SIZE = 2 * 8 * 8


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    """Six batches of 12 images of 2x8x8, four classes with a mean image each, off centre."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(12).remainder(4).expand(6, 12)
    means = torch.randn(4, 2, 8, 8, generator=rng)
    x = 1 + 2 * means[y] + torch.randn(6, 12, 2, 8, 8, generator=rng)
    lr = torch.full((6,), 0.1)
    one_hot = F.one_hot(y, 4).float()
    return Curriculum(x, one_hot, lr, torch.full((6,), 0.5), tuple("abcd"), (0.0, 0.0), (1.0, 1.0))


def taught(module: nn.Module, curriculum: Curriculum, lr: str | float = "auto") -> nn.Module:
    """The module, which must have learned something and be finite."""
    result = teach(module, curriculum, lr=lr)
    assert result.losses[-1] < result.losses[0]
    assert all(t.isfinite().all() for t in (*module.parameters(), *module.buffers()))
    return module


def right(module: nn.Module, curriculum: Curriculum) -> float:
    """Share of the curriculum's own images that are classified as they should."""
    first = next(module.parameters())
    with torch.no_grad():
        logits = module(curriculum.x.flatten(0, 1).to(first))
    return (logits.argmax(1) == curriculum.y.flatten(0, 1).argmax(1)).float().mean().item()


def mlp(*, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, width), nn.ReLU(), nn.Linear(width, 4))


def with_batch_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * 36, 4)
    )


# ---- what must stay as it is ----


def test_frozen_parameters_stay(curriculum: Curriculum) -> None:
    module = mlp()
    module[1].requires_grad_(False)
    frozen = module[1].weight.clone()
    head = module[3].weight.clone()
    taught(module, curriculum)
    assert module[1].weight.equal(frozen)
    assert not module[3].weight.equal(head)
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]


def test_tied_weights_stay_tied(curriculum: Curriculum) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(SIZE, 8)
            self.second = nn.Linear(8, 8)
            self.third = nn.Linear(8, 8)
            self.third.weight = self.second.weight
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.third(self.second(self.first(x.flatten(1))).relu()).relu())

    module = Tied()
    tied = module.second.weight
    before = tied.detach().clone()
    taught(module, curriculum)
    assert module.second.weight is tied
    assert module.third.weight is tied
    assert not tied.equal(before)


def test_parameters_that_the_loss_does_not_use_stay(curriculum: Curriculum) -> None:
    module = mlp()
    module.register_parameter("unused", nn.Parameter(torch.randn(3)))
    before = module.unused.clone()
    taught(module, curriculum)
    assert module.unused.equal(before)
    assert all(p.grad is None for p in module.parameters())


def test_modes_stay_and_layers_in_evaluation_mode_are_left_alone(curriculum: Curriculum) -> None:
    module = with_batch_norm()
    module[1].eval()  # as for fine-tuning
    statistics = module[1].running_mean.clone()
    taught(module, curriculum)
    assert [part.training for part in module] == [True, False, True, True, True, True]
    assert module[1].running_mean.equal(statistics)
    module = with_batch_norm().eval()
    statistics = module[1].running_mean.clone()
    taught(module, curriculum)
    assert not any(part.training for part in module.modules())
    assert not module[1].running_mean.equal(statistics)


# ---- batch norm ----


def test_batch_norm_works_in_evaluation_mode(curriculum: Curriculum) -> None:
    module = taught(with_batch_norm(), curriculum)
    assert module[1].momentum == 0.1
    assert module[1].num_batches_tracked == 6
    features = module[0](curriculum.x.flatten(0, 1)).detach().view(6, 12, 8, 6, 6)
    torch.testing.assert_close(module[1].running_mean, features.mean((0, 1, 3, 4)), rtol=1e-4, atol=1e-5)
    by_batch = features.transpose(1, 2).flatten(2).var(2).mean(0)
    torch.testing.assert_close(module[1].running_var, by_batch, rtol=1e-4, atol=1e-5)
    assert right(module.eval(), curriculum) > 0.9


def test_later_batch_norms_see_what_they_will_see_in_evaluation_mode(curriculum: Curriculum) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(SIZE, affine=False))
    recompute_batch_norm(module, curriculum.x)
    variance = curriculum.x.flatten(2).var(1).mean(0)
    torch.testing.assert_close(module[2].running_var, variance, rtol=1e-4, atol=1e-5)  # dropout doubles it


# ---- where and how it computes ----


def test_autocast_around_it_does_not_count(curriculum: Curriculum) -> None:
    plain = taught(mlp(), curriculum)
    with torch.autocast("cpu", torch.bfloat16):
        other = taught(mlp(), curriculum)
    assert all(p.equal(q) for p, q in zip(plain.parameters(), other.parameters(), strict=True))


def test_autocast_inside_of_it_does(curriculum: Curriculum) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = mlp()

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.inside(x)
            assert logits.dtype == torch.bfloat16
            return logits

    module = taught(Half(), curriculum)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert right(module, curriculum) > 0.9


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_modules_of_other_dtypes(dtype: torch.dtype, curriculum: Curriculum) -> None:
    module = taught(mlp().to(dtype), curriculum)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert right(module, curriculum) > 0.9


def test_a_compiled_module(curriculum: Curriculum) -> None:
    plain = taught(with_batch_norm(), curriculum, 0.01)
    seen = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        seen.append(graph)
        return graph.forward

    inside = with_batch_norm()
    module = torch.compile(inside, backend=backend)
    taught(module, curriculum, 0.01)
    assert seen
    assert inside[1].num_batches_tracked == 6
    module.eval()
    assert not inside.training
    for value, other in zip(plain.eval().state_dict().values(), inside.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)


def test_lazy_modules(curriculum: Curriculum) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)
    )
    taught(module, curriculum)
    assert right(module.eval(), curriculum) > 0.9


def test_buffers_that_are_replaced_in_forward_come_back(curriculum: Curriculum) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = mlp()
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.steps = self.steps + 1
            return self.inside(x)

    module = Counts()
    taught(module, curriculum)
    assert module.steps == 6  # of the training that counts


def test_parametrized_weights(curriculum: Curriculum) -> None:
    module = mlp()
    nn.utils.parametrizations.weight_norm(module[1])
    nn.utils.parametrizations.spectral_norm(module[3])
    taught(module, curriculum)
    assert right(module, curriculum) > 0.9


def test_a_copy_is_taught_alike(curriculum: Curriculum) -> None:
    module = mlp()
    other = copy.deepcopy(module)
    taught(module, curriculum)
    taught(other, curriculum)
    assert all(p.equal(q) for p, q in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.gpu
def test_on_a_gpu(curriculum: Curriculum) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA")
    module = taught(with_batch_norm().cuda(), curriculum)
    assert all(p.is_cuda for p in module.parameters())
    assert right(module.eval(), curriculum) > 0.9
    other = with_batch_norm().cuda()
    state = torch.cuda.get_rng_state()
    first = teach(other, curriculum).tried
    torch.cuda.set_rng_state(state)
    assert teach(with_batch_norm().cuda(), curriculum).tried == pytest.approx(first, rel=1e-3)


# ---- the common layers ----


class Recurrent(nn.Module):
    """A recurrent layer over the rows of an image."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(16, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2).flatten(2))[0][:, -1]


class Attention(nn.Module):
    """Self-attention over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.layer(rows, rows, rows, need_weights=False)[0].flatten(1)


class Embedded(nn.Module):
    """Pixels rounded to words."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x.round() + 2).clamp(0, 4).long()).flatten(1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 16)),
    "Conv2d": lambda: nn.Conv2d(2, 6, 3, padding="same", padding_mode="reflect"),
    "Conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=2)),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(2),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIZE)),
    "LayerNorm": lambda: nn.LayerNorm([2, 8, 8]),
    "GroupNorm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    "MaxPool2d": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)),
    "AvgPool2d": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2)),
    "AdaptiveAvgPool2d": lambda: nn.Sequential(nn.Conv2d(2, 16, 3), nn.AdaptiveAvgPool2d(2)),
    "Dropout": lambda: nn.Dropout(0.2),
    "Dropout2d": lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.Dropout2d(0.2)),
    "ReLU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)),
    "GELU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU()),
    "PReLU": lambda: nn.PReLU(2),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "MultiheadAttention": Attention,
    "TransformerEncoderLayer": lambda: nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, batch_first=True)
    ),
    "Embedding": Embedded,
}


@pytest.mark.parametrize("name", LAYERS)
def test_common_layers_are_taught(name: str, curriculum: Curriculum) -> None:
    torch.manual_seed(0)
    first = LAYERS[name]()
    features = first(curriculum.x[0]).flatten(1).shape[1]
    module = nn.Sequential(first, nn.Flatten(), nn.Linear(features, 4))
    taught(module, curriculum)
    assert right(module.eval(), curriculum) > 0.6


def test_an_agents_curriculum_is_not_chosen_by_its_loss() -> None:
    """Which rises while the agent gets better (tests/agents: 500 of 500; 36 with the lowest loss)."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    record = teach(policy, load_curriculum("cartpole-10"))
    assert record.chosen == "learned sgd"
    assert record.losses[-1] > record.losses[0]
