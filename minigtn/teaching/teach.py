"""Teaching a torch module as people write them: the curriculum, and step sizes that suit the module.

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    print(minigtn.teach(net, minigtn.load_curriculum("digits-10")))

Learned step sizes fit learners like those that the teacher knew; another network they may ruin (lesson 10).
So :func:`teach` tries several on the curriculum itself, which needs no real data, and takes the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from minigtn.inner.optimizers import OPTIMIZERS
from minigtn.teaching.curriculum import Curriculum
from minigtn.teaching.pupil import Pupil, StepSizes, recompute_batch_norm

FACTORS = (2.0, 1.0, 0.5, 0.25, 0.1, 0.05)  # of the learned learning rates
ADAM_RATES = (0.001, 0.003, 0.01, 0.03)
MOMENTUM = 0.9  # of steps whose size is not learned; Adam's beta1


@dataclass(frozen=True, repr=False)
class Taught:
    """What :func:`minigtn.teach` did; ``print`` shows it in a sentence."""

    chosen: str
    """The step sizes, such as "learned sgd x 0.5" or "adam at 0.01"."""
    optimizer: str
    """Its name."""
    lr: tuple[float, ...]
    """(T,) learning rates."""
    momentum: tuple[float, ...]
    """(T,) momenta; Adam's beta1."""
    losses: tuple[float, ...]
    """(T,) cross entropies: of each batch before the step on it."""
    tried: dict[str, float]
    """The mean of those losses over the last third of the steps, for all step sizes that were tried; infinity
    where training diverged."""
    seconds: float
    """Wall clock, with the choice."""

    def __repr__(self) -> str:
        choice = f", the best of {len(self.tried)} tried" if len(self.tried) > 1 else ""
        most = max(self.losses)
        worse = ""
        if most > 2 * self.losses[0]:
            worse = f"; it rose to {most:.3g} on the way, these steps are too large"
        return (
            f"{len(self.losses)} steps, {self.chosen}{choice}; loss {self.losses[0]:.3f} before the first, "
            f"{self.losses[-1]:.3f} before the last{worse}; {self.seconds:.2f} s"
        )


def teach(
    module: nn.Module,
    curriculum: Curriculum,
    lr: str | float = "auto",
    *,
    optimizer: str | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Taught:
    """Train ``module`` in place on the curriculum, once through: T steps. Returns a :class:`minigtn.Taught`.

    ``module`` maps images (B, C, H, W), or vectors (B, C), to logits (B, K), on any device and in any
    floating dtype; the curriculum is converted to those of its first parameter. It should be freshly
    initialized.

    ``lr``, the step sizes: ``"auto"`` tries the learned ones times 2, 1, .5, .25, .1 and .05, and constant
    Adam at .001, .003, .01 and .03, from the same start and the same random numbers of torch, and takes those
    with the lowest mean loss *before each step* of the last third, on the curriculum itself: no real data are
    needed. (A curriculum of vectors teaches an agent, and its loss may rise while the agent gets better: it
    is taught with the learned ones.) ``"learned"`` takes the curriculum's own. A number is a constant
    learning rate of ``optimizer`` (a name; adam if it is left out) with momentum .9, so ``lr=0.01`` repeats a
    choice of "adam at 0.01".

    Parameters that do not require grad stay as they are, tied ones stay tied, and one that the loss does not
    use counts as having gradient zero. The module is taught in training mode and given back in the mode that
    it was in; layers that are in evaluation mode inside a module in training mode are left so. Batch norms
    get running statistics from the curriculum's images, each pixel brought to the mean and the standard
    deviation that it has in the real images, so that ``module.eval()`` works nearly as with statistics of
    real ones (docs/log.md). A curriculum without ``moments`` knows these per channel only, and brings less.
    Autocast around the call does not count; inside the module's forward it does.

    ``after_step(t)``, t = 1..T, may measure the module, in any mode, in the training that counts.

    Cost: T training steps, with ``"auto"`` eleven times as many; the whole curriculum on the module's device.
    Raises ValueError or TypeError, in one sentence, for what does not fit, FloatingPointError where all that
    was tried diverged: the module is as it was, then. Steps that are too large without overflowing are
    visible in the record's losses, and in its sentence. When not to use it: where there are labelled data and
    time for more steps; train on them.
    """
    started = time.perf_counter()
    if not isinstance(module, nn.Module) or not isinstance(curriculum, Curriculum):
        raise TypeError(
            "teach takes a torch.nn.Module and a Curriculum (minigtn.load_curriculum reads one), not "
            f"{type(module).__name__} and {type(curriculum).__name__}"
        )
    candidates = _candidates(curriculum, lr, optimizer)
    modes = [(part, part.training) for part in module.modules()]
    device = next((p.device.type for p in module.parameters()), "cpu")
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
    ):
        try:
            pupil = Pupil(module, curriculum)
            losses, steps, tried = _taught(pupil, candidates, after_step)
        finally:
            for part, training in modes:
                part.training = training
    return Taught(
        steps.name,
        steps.optimizer,
        tuple(steps.lr.tolist()),
        tuple(steps.momentum.tolist()),
        tuple(losses),
        tried,
        time.perf_counter() - started,
    )


def _taught(
    pupil: Pupil, candidates: list[StepSizes], after_step: Callable[[int], None] | None
) -> tuple[list[float], StepSizes, dict[str, float]]:
    """The losses, the steps that were taken, and what was tried. Whatever goes wrong, the module is as
    before."""
    try:
        tried = {}
        best = candidates[0]
        if len(candidates) > 1:
            tried = {steps.name: pupil.late_loss(steps) for steps in candidates}
            best = min(candidates, key=lambda steps: tried[steps.name])
        if tried.get(best.name) != math.inf:
            losses = pupil.train(best, after_step)
            recompute_batch_norm(pupil.module, pupil.like_real_images())
            tried[best.name] = pupil.judge(losses)
        if tried[best.name] == math.inf:
            raise FloatingPointError(
                f"training did not stay finite with {', '.join(tried)}; the module is as it was before: "
                + ("give a smaller number as lr" if len(tried) > 1 else 'take lr="auto" or a smaller number')
            )
        return losses, best, tried
    except BaseException:
        pupil.restore()
        raise


def _candidates(curriculum: Curriculum, lr: str | float, optimizer: str | None) -> list[StepSizes]:
    """The step sizes to choose from. ValueError for what is none."""
    if lr in ("auto", "learned"):
        if optimizer is not None:
            raise ValueError(f"optimizer={optimizer!r} goes with a number for lr, not with {lr!r}")
        choose = lr == "auto" and curriculum.of_images
        factors = FACTORS if choose else (1.0,)
        rates = ADAM_RATES if choose else ()
        return [_learned(curriculum, factor) for factor in factors] + [
            _constant(curriculum, "adam", rate) for rate in rates
        ]
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise ValueError(f'lr is "auto", "learned" or a positive number, not {lr!r}')
    optimizer = optimizer or "adam"
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    return [_constant(curriculum, optimizer, float(lr))]


def _learned(curriculum: Curriculum, factor: float) -> StepSizes:
    name = f"learned {curriculum.optimizer}" + (f" x {factor:g}" if factor != 1 else "")
    return StepSizes(name, curriculum.optimizer, factor * curriculum.lr, curriculum.momentum)


def _constant(curriculum: Curriculum, optimizer: str, rate: float) -> StepSizes:
    like = torch.ones_like(curriculum.lr)
    return StepSizes(f"{optimizer} at {rate:g}", optimizer, rate * like, MOMENTUM * like)
