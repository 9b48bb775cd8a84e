"""The second time: what a loss needs to compute the same again on the way back, and whether it did.

:class:`Around` gives it what it had on the way there: random numbers, autocast, the allowed attention kernels
(as ``torch.utils.checkpoint`` does). :class:`Again` compares what came out with what was kept, so that a loss
that has become another function is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minigtn.inner.graphs import Group, Groups
from minigtn.inner.optimizers import State
from minigtn.inner.step import InnerLoop, gradient

SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""How much of a step's gradient may come out differently the second time, in L2 norm."""
MORE = 1e-1
"""Up to there SAME grows where rounding alone was found to do that."""
SAME_UNSEEN = 5e-2
"""The same on CUDA, where a doubt cannot be settled by another look; for float64 SAME."""
LOOKS_ON_CUDA = 8
"""Steps of a run that are compared there, where each comparison is a dozen more kernels."""


# ---- what a loss may depend on besides its arguments ----


class Around:
    """What torch keeps for the whole process and a loss may use: kept there, given back on the way back.

    Random numbers are kept for losses whose first call drew some: 5 kB for each step, 16 bytes more on CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._autocast = autocast_state(device)
        self._attention = _attention_kernels()
        self._draws: dict[str, bool] = {}
        self._before: dict[tuple[str, int], Group] = {}

    @contextmanager
    def there(self, what: str, i: int) -> Iterator[None]:
        """Around call number ``i`` of loss ``what``, on the way there."""
        if not self._draws.get(what, True):
            yield
            return
        before = random_states(self.device)
        yield
        if what not in self._draws:
            self._draws[what] = differ(before, random_states(self.device))
        if self._draws[what]:
            self._before[what, i] = before

    @contextmanager
    def back(self) -> Iterator[None]:
        """Around the way back."""
        with ExitStack() as stack:
            if self._autocast != autocast_state(self.device):
                for kind, *setting in self._autocast:
                    stack.enter_context(torch.autocast(kind, *setting))
            if self._attention != _attention_kernels():
                stack.enter_context(sdpa_kernel(self._attention))
            if any(self._draws.values()):
                stack.enter_context(same_random_numbers(self.device))
            yield

    def rewind(self, what: str, i: int) -> None:
        """The next random numbers are those of call ``i``."""
        states = self._before.get((what, i))
        if states is not None:
            set_random_states(states, self.device)


def autocast_state(device: torch.device) -> tuple:
    """For the CPU and the device: kind, dtype of autocast, whether it is on, whether it caches."""
    kinds = sorted({"cpu", device.type} & {"cpu", "cuda"})
    cache = torch.is_autocast_cache_enabled()
    return tuple((k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k), cache) for k in kinds)


def _attention_kernels() -> list[SDPBackend]:
    """Those that scaled_dot_product_attention may choose from."""
    cuda = torch.backends.cuda
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
    }
    return [kernel for kernel, on in allowed.items() if on]


def same_random_numbers(device: torch.device):
    """A block after which torch's random numbers go on as if it had not been."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def random_states(device: torch.device) -> Group:
    on_device = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return (torch.get_rng_state(), *on_device)


def set_random_states(states: Group, device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def differ(states: Group, others: Group) -> bool:
    return not all(torch.equal(a, b) for a, b in zip(states, others, strict=True))


# ---- what is computed again ----


class Again:
    """Whether what is computed again on the way back is what it was.

    ``saw(g)``: a step taken again with the gradient ``g`` of the way back must reach the state that the run
    reached. On the CPU RuntimeError where it does not, at every step, for two passes over the velocity. On
    CUDA, where looking would wait for the device, some steps are compared, and :meth:`refuse` turns the
    results to NaN.
    """

    def __init__(self, loop: InnerLoop, steps: int, around: Around, device: torch.device) -> None:
        self._loop = loop
        self._around = around
        self._steps = steps
        self._on = loop.checks
        self._unseen = torch.zeros((), dtype=torch.bool, device=device) if device.type == "cuda" else None
        self._expected: tuple[int, State, State, Groups] | None = None
        self._more = 0.0  # what rounding was once found to do, where that is more than SAME

    def expect(self, t: int, before: State, after: State, inputs: Groups) -> None:
        """The next gradient seen is that of step ``t``, which led from one state to the other; ``inputs``:
        batch, and (lr, momentum)."""
        stride = 1 if self._unseen is None else -(-self._steps // LOOKS_ON_CUDA)
        if self._on and (self._steps - 1 - t) % stride == 0:
            self._expected = (t, before, after, inputs)

    def saw(self, g: Tensor) -> None:
        """Compare the step that ``g`` takes."""
        if self._expected is None:
            return
        t, before, after, (batch, sizes) = self._expected
        self._expected = None
        reached = self._loop.optimizer.step(before, g, *sizes)
        if self._unseen is not None:
            tolerance = SAME[g.dtype] if g.dtype == torch.float64 else max(SAME[g.dtype], SAME_UNSEEN)
            self._unseen |= ~(self._off(before, reached, after, sizes) <= tolerance)
            return
        if all(torch.equal(a, b) for a, b in zip(reached[1:], after[1:], strict=True)):
            return
        off = float(self._off(before, reached, after, sizes))
        tolerance = max(SAME[g.dtype], self._more)
        if off <= tolerance:
            return
        # the way back may use other formulas, which round otherwise: those of the way there decide
        with same_random_numbers(g.device):
            self._around.rewind("step", t)
            g = gradient(self._loop.loss, before[0], batch)
        reached = self._loop.optimizer.step(before, g, *sizes)
        retaken = float(self._off(before, reached, after, sizes))
        if retaken <= SAME[g.dtype]:
            self._more = min(2 * off, MORE)
            return
        raise RuntimeError(_changed(f"inner step {t}", f"its gradient differs by {retaken:.1g} of its size"))

    def _off(self, before: State, reached: State, after: State, sizes: Group) -> Tensor:
        """The largest part of what the gradient did to the state that is not as it was; 0 where the run had
        diverged."""
        still = self._loop.optimizer.step(before, torch.zeros_like(before[0]), *sizes)
        worst = torch.zeros((), dtype=before[0].dtype, device=before[0].device)
        for a, b, c in zip(reached[1:], after[1:], still[1:], strict=True):
            rounding = 16 * torch.finfo(b.dtype).eps * b.norm()
            apart = ((a - b).norm() - rounding).clamp(min=0)
            part = torch.where(apart == 0, apart, apart / (b - c).norm())
            worst = torch.maximum(worst, torch.where(b.norm().isfinite(), part, torch.zeros_like(part)))
        return worst

    def reading(self, j: int, now: Tensor, then: Tensor) -> None:
        """Compare a reading with what it was."""
        if not self._on:
            return
        bound = 10 * SAME[then.dtype] * then.abs() + 100 * torch.finfo(then.dtype).eps
        bad = ~((now - then).abs() <= bound) & then.isfinite()
        if self._unseen is not None:
            self._unseen |= bad
        elif bad:
            raise RuntimeError(_changed(f"reading {j}", f"{float(now):.6g}, not {float(then):.6g}"))

    def refuse(self, gradients: Sequence[Tensor | None]) -> None:
        """On CUDA: NaN in all of ``gradients`` where something was not as it was."""
        if self._unseen is not None and self._on:
            for d in gradients:
                if d is not None:
                    d.masked_fill_(self._unseen, torch.nan)


def _changed(what: str, how: str) -> str:
    return (
        f"{what} came out differently when it was computed again on the way back ({how}), so the "
        "meta-gradient would be wrong: from sgd to backward the loss must stay the same function of params "
        "and batch (no net.eval() in between, no counter, no loop variable in a lambda, no random numbers "
        "but those of torch's own generator); or use Unrolled()"
    )
