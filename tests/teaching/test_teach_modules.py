"""``teach`` for modules as people write them: a test for each kind."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from pupils import SIZE, of_four_classes, right, taught
from torch import Tensor, nn

from minigtn import Curriculum, teach
from minigtn.teaching.pupil import recompute_batch_norm


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return of_four_classes()


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


def test_batch_norm_is_made_for_real_images_where_their_moments_are_known(curriculum: Curriculum) -> None:
    module = nn.Sequential(nn.Identity(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 4))
    moments = torch.rand(2, 2, 8, 8) + 0.5
    teach(module, dataclasses.replace(curriculum, moments=moments))
    mean, std = moments
    x = curriculum.x
    torch.testing.assert_close(module[1].running_mean, mean.mean((1, 2)), rtol=1e-3, atol=1e-4)
    per_pixel = (x - x.mean((0, 1))) / x.std((0, 1)) * std + mean
    variance = per_pixel.transpose(1, 2).flatten(2).var(-1).mean(0)
    torch.testing.assert_close(module[1].running_var, variance, rtol=1e-3, atol=1e-4)


def test_batch_norm_is_made_for_standardized_images(curriculum: Curriculum) -> None:
    """Also by a curriculum whose images are bright and contrasty, and have a channel that is constant."""
    scale = torch.tensor([3.0, 0.0]).view(2, 1, 1)
    module = with_batch_norm()
    teach(module, dataclasses.replace(curriculum, x=scale * curriculum.x + 2))
    x = curriculum.x.flatten(0, 1) * torch.tensor([1.0, 0.0]).view(2, 1, 1)
    mean = module[0](x).detach().mean((0, 2, 3))
    torch.testing.assert_close(module[1].running_mean, mean, rtol=1e-3, atol=1e-4)


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


def test_a_mask_of_minus_infinity_is_no_divergence(curriculum: Curriculum) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = mlp()
            self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(self.mask.softmax(-1) @ x)

    taught_quietly = teach(Masked(), curriculum)
    assert taught_quietly.losses[-1] < taught_quietly.losses[0]


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
