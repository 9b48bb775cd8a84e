"""What a PyTorch user would pick instead: each leaves the meta-gradient in the teacher's parameters.

``higher``, ``torchopt`` and ``betty`` (betty-ml) are imported where they are used: not everyone has them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from problem import Problem
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minigtn.networks.layers import SLOPE


def plain_teacher(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``problem.teacher()`` returns, by a generator as a PyTorch user writes it."""
    teacher = problem.teacher
    if problem.config.pixels:
        return teacher()[:4]
    w = {name: p for name, p in teacher.generator.items() if not name.endswith(("direction", "gain"))}
    for name in ("dense1", "dense2", "conv1", "conv2"):
        direction = teacher.generator[f"{name}-direction"]
        gain = teacher.generator[f"{name}-gain"]
        w[name] = direction * (gain / direction.flatten(1).norm(dim=1)).view(-1, *[1] * (direction.dim() - 1))

    def normalised(name: str, h: Tensor) -> Tensor:
        h = F.batch_norm(h, None, None, w[f"{name}-norm_scale"], w[f"{name}-bias"], training=True)
        return F.leaky_relu(h, SLOPE)

    def upsampled(h: Tensor) -> Tensor:
        return F.pad(F.interpolate(h, scale_factor=2, mode="nearest"), (1, 1, 1, 1), mode="reflect")

    h = torch.cat([teacher.z, teacher.classes], -1).flatten(0, 1)
    h = normalised("dense1", F.linear(h, w["dense1"]))
    h = normalised("dense2", F.linear(h, w["dense2"]))
    h = h.view(len(h), -1, teacher.image_shape[1] // 4, teacher.image_shape[2] // 4)
    h = normalised("conv1", F.conv2d(upsampled(h), w["conv1"]))
    x = 2 * torch.tanh(F.conv2d(upsampled(h), w["conv2"], w["conv2-bias"]))
    return (
        x.view(*teacher.classes.shape[:2], *teacher.image_shape),
        teacher.classes,
        teacher.lr(),
        teacher.momentum(),
    )


def plain(problem: Problem) -> None:
    """Unrolling as the PyTorch tutorials do it."""
    module = problem.module
    names, w = zip(*module.named_parameters(), strict=True)
    v = [torch.zeros_like(p) for p in w]
    x, y, lr, momentum = plain_teacher(problem)
    for t in range(len(x)):
        loss = F.cross_entropy(
            torch.func.functional_call(module, dict(zip(names, w, strict=True)), x[t]), y[t]
        )
        g = torch.autograd.grad(loss, w, create_graph=True)
        v = [momentum[t] * v_ + g_ for v_, g_ in zip(v, g, strict=True)]
        w = [w_ - lr[t] * v_ for w_, v_ in zip(w, v, strict=True)]
    logits = torch.func.functional_call(module, dict(zip(names, w, strict=True)), problem.real_x)
    F.cross_entropy(logits, problem.real_y).backward()


def with_checkpoints(reentrant: bool) -> Callable[[Problem], None]:
    """Plain unrolling, every inner step inside torch.utils.checkpoint."""

    def method(problem: Problem) -> None:
        module = problem.module
        names, w = zip(*module.named_parameters(), strict=True)
        v = tuple(torch.zeros_like(p) for p in w)

        def step(x, y, lr, momentum, *state):
            w = state[: len(names)]
            v = state[len(names) :]
            again = (
                torch.is_grad_enabled()
            )  # a reentrant checkpoint runs first without, then once more with a graph
            if not again:
                w = [p.detach().requires_grad_() for p in w]
            with torch.enable_grad():
                loss = F.cross_entropy(
                    torch.func.functional_call(module, dict(zip(names, w, strict=True)), x), y
                )
                g = torch.autograd.grad(loss, w, create_graph=again)
            v = [momentum * v_ + g_ for v_, g_ in zip(v, g, strict=True)]
            w = [w_ - lr * v_ for w_, v_ in zip(w, v, strict=True)]
            return (*w, *v)

        x, y, lr, momentum = plain_teacher(problem)
        for t in range(len(x)):
            inputs = x[t], y[t], lr[t], momentum[t], *w, *v
            state = checkpoint(step, *inputs, use_reentrant=reentrant, preserve_rng_state=False)
            w = state[: len(names)]
            v = state[len(names) :]
        logits = torch.func.functional_call(module, dict(zip(names, w, strict=True)), problem.real_x)
        F.cross_entropy(logits, problem.real_y).backward()

    return method


def with_higher(problem: Problem) -> None:
    import higher

    module = problem.module
    x, y, lr, momentum = plain_teacher(problem)
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.config.lr, momentum=problem.config.momentum)
    with higher.innerloop_ctx(module, optimizer) as (functional, differentiable):
        for t in range(len(x)):
            loss = F.cross_entropy(functional(x[t]), y[t])
            differentiable.step(loss, override={"lr": [lr[t]], "momentum": [momentum[t]]})
        F.cross_entropy(functional(problem.real_x), problem.real_y).backward()


def with_torchopt(problem: Problem) -> None:
    import torchopt

    module = problem.module
    w = dict(module.named_parameters())
    state = None
    x, y, lr, momentum = plain_teacher(problem)
    for t in range(len(x)):
        optimizer = torchopt.sgd(lr=lr[t], momentum=momentum[t])
        # a new optimizer does not multiply the velocity that it meets first, so that is done here
        state = torchopt.pytree.tree_map(lambda v, m=momentum[t]: m * v, state) if t else optimizer.init(w)
        loss = F.cross_entropy(torch.func.functional_call(module, w, x[t]), y[t])
        g = dict(zip(w, torch.autograd.grad(loss, tuple(w.values()), create_graph=True), strict=True))
        updates, state = optimizer.update(g, state, params=w, inplace=False)
        w = torchopt.apply_updates(w, updates, inplace=False)
    F.cross_entropy(torch.func.functional_call(module, w, problem.real_x), problem.real_y).backward()


def with_betty(problem: Problem) -> None:
    from betty.configs import Config as ProblemConfig
    from betty.configs import EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem, IterativeProblem

    x, y, lr, momentum = plain_teacher(problem)
    found: list[Tensor | None] = []

    class Inner(IterativeProblem):
        def get_batch(self):
            t = self._count - 1
            self.optimizer.param_groups[0].update(lr=lr[t], momentum=momentum[t])
            return x[t], y[t]

        def training_step(self, batch):
            return F.cross_entropy(self.fmodule(self.params, self.buffers, batch[0]), batch[1])

    class Outer(ImplicitProblem):
        def get_batch(self):
            return problem.real_x, problem.real_y

        def training_step(self, batch):
            return F.cross_entropy(
                self.inner.fmodule(self.inner.params, self.inner.buffers, batch[0]), batch[1]
            )

        def custom_optimizer_step(self):
            found.extend(p.grad for p in self.module.parameters())

    module = problem.module
    steps = problem.config.steps
    device = problem.config.device
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.config.lr, momentum=problem.config.momentum)
    unroll = ProblemConfig(unroll_steps=steps, retain_graph=True)
    inner = Inner("inner", unroll, module, optimizer, device=device)
    outer = Outer("outer", ProblemConfig(first_order=False), problem.teacher, device=device)
    dependencies = {"u2l": {}, "l2u": {inner: [outer]}}
    Engine([inner, outer], EngineConfig(train_iters=steps, valid_step=steps + 1), dependencies).run()
    for p, g in zip(problem.teacher.parameters(), found, strict=True):
        p.grad = g


PLAIN = "plain unrolling"
PEERS = {
    PLAIN: plain,
    "torch checkpoint": with_checkpoints(reentrant=False),
    "torch checkpoint, reentrant": with_checkpoints(reentrant=True),
    "higher": with_higher,
    "torchopt": with_torchopt,
    "betty": with_betty,
}
PACKAGES = {"higher": "higher", "torchopt": "torchopt", "betty": "betty-ml"}
"""What else has to be installed, by method."""
