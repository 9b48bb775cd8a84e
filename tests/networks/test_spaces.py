"""The search spaces: counts against published tables, strings, and networks that can be taught and
differentiated twice."""

from __future__ import annotations

import csv
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

import minigtn
from minigtn.networks import spaces
from minigtn.networks.spaces.cell_network import AuxiliaryHead, CellNetwork, FactorizedReduction, dropped
from minigtn.networks.spaces.cells import NAO, WEIGHT_SHARING, Cells

MACRO = spaces.get("nas-bench-macro")
NB201 = spaces.get("nas-bench-201")
SMALL = {  # the smallest network of each space, for training
    "nas-bench-macro": MACRO,
    "nas-bench-201": spaces.get("nas-bench-201", cells_per_stage=1, channels=4),
    "cells": spaces.get("cells", cells_per_stage=1, channels=4),
    "cells, 5 operations": Cells(cells_per_stage=1, channels=4, operations=WEIGHT_SHARING),
}
each_space = pytest.mark.parametrize("space", SMALL.values(), ids=SMALL.keys())

MACRO_ROWS = {  # arch: parameters, multiply-adds (NAS-Bench-Macro's table)
    "00000000": (387882, 7713280),
    "11110000": (558218, 29680128),
    "00000010": (791594, 14115328),
    "01021212": (2257386, 63590912),
    "02112220": (1918058, 69800448),
    "12002102": (1627018, 58427904),
    "21200210": (1201834, 49738240),
    "22221220": (1985514, 85164544),
}
# arch: parameters, multiply-adds and the 10 additions of the last bias (NATS-Bench's issues 24 and 36, and
# its extremes)
NB201_ROWS = {
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|": (73306, 7783050),
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": (
        129306,
        15647370,
    ),
    "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": (
        802426,
        113951370,
    ),
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": (
        1531546,
        220119690,
    ),
}
NOTHING = next(iter(NB201_ROWS))
CELL = (
    "0:conv1x1+1:conv3x3,0:identity+2:max5x5,1:avg2x2+1:conv1x3-3x1,3:max2x2+4:conv1x7-7x1,2:avg3x3+2:conv3x3"
)


# ---- counts ----


def check_counts(space: spaces.Space, arch: str, params: int, flops: int) -> None:
    assert (space.params(arch), space.flops(arch)) == (params, flops)


@pytest.mark.parametrize("arch", MACRO_ROWS)
def test_macro_has_the_published_counts(arch: str) -> None:
    check_counts(MACRO, arch, *MACRO_ROWS[arch])


@pytest.mark.parametrize("arch", NB201_ROWS)
def test_201_has_the_published_counts(arch: str) -> None:
    params, flops = NB201_ROWS[arch]
    check_counts(NB201, arch, params, flops - 10)


def test_counts_that_are_off_by_one_are_noticed() -> None:
    params, flops = MACRO_ROWS["11110000"]
    for wrong in (
        ("11110000", params + 1, flops),
        ("11110000", params, flops - 1),
        ("11110001", params, flops),
    ):
        with pytest.raises(AssertionError):
            check_counts(MACRO, *wrong)


def table(name: str) -> list[dict[str, str]]:
    path = Path(os.environ.get("MINIGTN_DATA", "/nowhere")) / "nas" / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder nas of MINIGTN_DATA")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_macro_has_the_counts_of_the_whole_table() -> None:
    for row in random.Random(6).sample(table("nas-bench-macro-cifar10.csv"), 50):
        check_counts(MACRO, row["arch"], int(row["params"]), int(row["flops"]))


def test_201_reads_the_strings_of_the_whole_table() -> None:
    archs = [row["arch"] for row in table("nas-bench-201-cifar10-12epochs.csv")]
    assert all(NB201.format(NB201.parse(arch)) == arch for arch in archs)
    assert len(set(archs)) == len(archs) > 1000


def test_cells_have_the_counts_done_by_hand() -> None:
    plan = ",".join(["0:identity+1:conv3x3"] * 5)
    space = spaces.get("cells", cells_per_stage=1, channels=4)

    def conv(inputs: int, outputs: int, kernel: int = 1) -> int:
        return kernel**2 * inputs * outputs + 2 * outputs  # and normalization

    cells = [  # inputs that are adapted, edges; F = 4, 8, 16 channels, five loose nodes
        2 * conv(12, 4) + 5 * conv(4, 4, 3),
        conv(12, 8) + conv(20, 8) + 5 * (conv(8, 8) + conv(8, 8, 3)),
        conv(20, 8) + conv(40, 8) + 5 * conv(8, 8, 3),
        2 * conv(40, 16) + 5 * (conv(16, 16) + conv(16, 16, 3)),
        conv(40, 16) + conv(80, 16) + 5 * conv(16, 16, 3),
    ]
    assert space.params(f"{plan}/{plan}") == conv(3, 12, 3) + sum(cells) + 80 * 10 + 10


# ---- strings ----


@each_space
@settings(max_examples=15)
@given(seed=st.integers(0, 2**62))
def test_round_trips_and_mutations(space: spaces.Space, seed: int) -> None:
    arch = space.sample(seed)
    assert space.sample(seed) == arch
    assert space.valid(arch)
    assert space.format(space.parse(arch)) == arch
    assert space.from_choices(space.to_choices(arch)) == arch
    mutant = space.mutate(arch, seed)
    assert space.mutate(arch, seed) == mutant != arch
    assert space.valid(mutant)


@each_space
def test_samples_and_mutants_reach_every_value(space: spaces.Space) -> None:
    n = 100 if space is MACRO else 30
    sampled = [space.to_choices(space.sample(seed)) for seed in range(n)]
    start = space.sample(0)
    mutants = {space.mutate(start, seed) for seed in range(n)}
    for name, allowed in space.choices.items():
        seen = {choices[name] for choices in sampled}
        assert seen <= set(allowed)
        assert len(seen) >= 2 or len(allowed) == 1
    if space is MACRO:
        assert {c for choices in sampled for c in choices.values()} == set("012")
        assert len(mutants) == 16
        assert all(sum(a != b for a, b in zip(start, m, strict=True)) == 1 for m in mutants)


def test_cells_written_in_another_order_are_the_same_architecture() -> None:
    space = SMALL["cells"]
    # the same cell with edges swapped, and with nodes 2 and 3 (then 3 and 4) in the other order
    first = (
        "0:conv3x3+1:max5x5,0:identity+1:identity,2:conv1x1+3:avg2x2,0:max2x2+4:identity,1:avg5x5+5:conv1x1"
    )
    other = (
        "1:identity+0:identity,1:max5x5+0:conv3x3,3:conv1x1+2:avg2x2,4:identity+0:max2x2,5:conv1x1+1:avg5x5"
    )
    near = (
        "1:identity+0:identity,1:max5x5+0:conv3x3,2:conv1x1+3:avg2x2,4:identity+0:max2x2,5:conv1x1+1:avg5x5"
    )
    canonical = {space.format(space.parse(f"{cell}/{CELL}")) for cell in (first, other)}
    assert len(canonical) == 1
    assert space.format(space.parse(f"{near}/{CELL}")) not in canonical
    arch = canonical.pop()
    assert {space.params(f"{cell}/{CELL}") for cell in (first, other)} == {space.params(arch)}
    assert {space.flops(f"{cell}/{CELL}") for cell in (first, other)} == {space.flops(arch)}


BAD = {
    "nas-bench-macro": ["", "0000000", "000000000", "00000003", "0000000a", "0 000000"],
    "nas-bench-201": [
        "", NOTHING[:-1], NOTHING.replace("none~2", "none~1"), NOTHING.replace("none~2", "conv~2"),
        NOTHING.replace("+", ""),
    ],
    "cells": [
        "", CELL, f"{CELL}/{CELL}/{CELL}", f"{CELL},{CELL}", f"{CELL}/{CELL} ",
        f"{CELL}/{CELL}".replace("0:", "2:", 1), f"{CELL}/{CELL}".replace("max5x5", "max7x7"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "arch"), [(name, arch) for name, archs in BAD.items() for arch in archs])
def test_bad_strings_are_refused_in_one_sentence(name: str, arch: str) -> None:
    space = SMALL[name]
    assert not space.valid(arch)
    with pytest.raises(ValueError, match=f"^an architecture of {name} (is|reads) .*not ") as error:
        space.build(arch)
    assert repr(arch) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_names_sizes_and_choices() -> None:
    with pytest.raises(
        ValueError,
        match="there is no search space 'darts'; the spaces are nas-bench-macro, nas-bench-201, cells",
    ):
        spaces.get("darts")
    with pytest.raises(ValueError, match="nas-bench-macro has no size 'cells_per_stage'; it has channels"):
        spaces.get("nas-bench-macro", cells_per_stage=3)
    with pytest.raises(
        ValueError, match="nas-bench-201 has no size 'width'; it has cells_per_stage and channels"
    ):
        spaces.get("nas-bench-201", width=16)
    with pytest.raises(ValueError, match="cells_per_stage must be a whole number from 1, not -1"):
        spaces.get("cells", cells_per_stage=-1)
    with pytest.raises(ValueError, match="channels must be even, not 33"):
        spaces.get("cells", channels=33)
    with pytest.raises(ValueError, match=r"needs the choices layer1.*missing or unknown: \['layer8'\]"):
        MACRO.from_choices({f"layer{i}": "0" for i in range(1, 8)})
    with pytest.raises(ValueError, match="layer8 can be 0, 1, 2, not '3'"):
        MACRO.from_choices({f"layer{i}": "0" for i in range(1, 8)} | {"layer8": "3"})


def test_spaces_travel_to_other_processes() -> None:
    for space in SMALL.values():
        copy = pickle.loads(pickle.dumps(space))
        assert copy.sample(5) == space.sample(5)
        assert copy.choices == space.choices


# ---- networks ----


def every_operation(space: spaces.Space) -> str:
    """An architecture in which every operation occurs."""
    if isinstance(space, Cells):
        ops = iter([*space.operations, *space.operations, *space.operations, *space.operations][:20])
        cells = [
            ",".join(f"{max(0, i - 2)}:{next(ops)}+{i - 1}:{next(ops)}" for i in range(2, 7))
            for _ in range(2)
        ]
        return "/".join(cells)
    if space is MACRO:
        return "21000000"
    return "|avg_pool_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"


def losses_of_training(net: nn.Module, x: Tensor, y: Tensor, steps: int = 4) -> list[float]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(steps):
        logits = net(x)
        assert logits.shape == (len(x), 7)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@each_space
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6)])
def test_networks_train(space: spaces.Space, shape: tuple[int, int, int]) -> None:
    x = torch.randn(14, *shape)
    y = torch.arange(14) % 7
    small = "00100000" if space is MACRO else space.sample(shape[0])
    for arch in (every_operation(space), small):
        losses = losses_of_training(space.build(arch, n_classes=7, in_channels=shape[0]), x, y)
        assert losses[-1] < losses[0]


def test_every_operation_is_used_by_these_tests() -> None:
    for name in ("cells", "cells, 5 operations"):
        assert set(SMALL[name].parse(every_operation(SMALL[name]))) >= set(SMALL[name].choices["normal2a_op"])
    assert {*NAO, *WEIGHT_SHARING} == {*NAO, "sep3x3", "sep5x5"}


def test_a_cell_without_any_path_trains_its_bias_and_stays_finite() -> None:
    net = SMALL["nas-bench-201"].build(NOTHING, n_classes=7)
    losses = losses_of_training(net, torch.randn(14, 3, 8, 8), torch.arange(14) % 7)
    assert all(loss == pytest.approx(1.9459, abs=0.6) for loss in losses)
    assert all(p.isfinite().all() for p in net.parameters())


def meta_loss(space: spaces.Space, arch: str) -> tuple[nn.Module, dict[str, Tensor], list[Tensor]]:
    net = space.build(arch, n_classes=3).double()
    return (
        net,
        {name: p.detach() for name, p in net.named_parameters()},
        [torch.randn(2, 6, 3, 8, 8).double(), torch.arange(12).view(2, 6) % 3],
    )


@each_space
def test_networks_are_learners_of_the_outer_loop(space: spaces.Space) -> None:
    """The meta-gradient of two steps, through second derivatives, is the slope that differences measure."""
    net, params, (x, y) = meta_loss(space, every_operation(space))
    real = torch.randn(9, 3, 8, 8).double(), torch.arange(9) % 3

    def loss(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, params, (batch[0],)), batch[1])

    def trained(x: Tensor, adjoint: minigtn.Adjoint) -> Tensor:
        return loss(minigtn.sgd(loss, params, (x, y), 0.03, 0.5, adjoint), real)

    gradients = []
    for adjoint in (minigtn.Unrolled(), minigtn.Checkpointed()):
        leaf = x.clone().requires_grad_()
        trained(leaf, adjoint).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)

    direction = torch.randn_like(x)
    step = 1e-7
    with torch.no_grad():
        above, below = (trained(x + sign * step * direction, minigtn.Unrolled()) for sign in (1, -1))
    slope = ((above - below) / (2 * step)).item()
    measured = (gradients[0] * direction).sum().item()
    assert abs(measured) > 1e-5
    assert measured == pytest.approx(slope, rel=1e-4)
    assert 1.001 * measured != pytest.approx(slope, rel=1e-4)


@each_space
def test_normalization_with_and_without_running_averages(space: spaces.Space) -> None:
    x = torch.randn(6, 3, 8, 8) * 3 + 1
    arch = space.sample(0)
    plain = space.build(arch)
    assert not list(plain.buffers())
    torch.testing.assert_close(plain(x), plain.eval()(x))  # the statistics of the batch, in evaluation too
    averaging = space.build(arch, running_stats=True)
    averaging.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(averaging(x), plain(x))
    one = averaging.eval()(x)
    assert not torch.allclose(one, plain(x), atol=1e-3)
    # no image depends on the others
    torch.testing.assert_close(averaging(x[:1]), one[:1], rtol=1e-4, atol=1e-4)


def test_weights_follow_from_torchs_seed() -> None:
    for space in SMALL.values():
        twins = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            twins.append(torch.cat([p.detach().flatten() for p in space.build(space.sample(0)).parameters()]))
        assert torch.equal(twins[0], twins[1])
        assert not torch.equal(twins[0], twins[2])


# ---- what the final training adds to cells ----


def test_dropping_paths_keeps_the_mean_and_drops_whole_images() -> None:
    x = torch.ones(4000, 2, 3, 3)
    assert dropped(x, 0.0) is x
    kept = dropped(x, 0.25)
    assert (kept.flatten(1).std(1) == 0).all()  # an image keeps everything or nothing
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.04)


def test_auxiliary_head_drop_path_and_dropout_act_in_training_alone() -> None:
    space = Cells(cells_per_stage=1, channels=4)
    x = torch.randn(5, 3, 32, 32)
    net = space.build(f"{CELL}/{CELL}", 7, auxiliary=True, dropout=0.5)
    assert isinstance(net, CellNetwork)
    logits, auxiliary = net.both(x)
    assert auxiliary is not None
    assert logits.shape == auxiliary.shape == (5, 7)
    assert not torch.equal(net(x), net(x))  # dropout
    net.head[2].p = 0.0
    assert torch.equal(net(x), net(x))
    net.drop_path = 0.3
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    assert net.both(x)[1] is None
    assert space.build(f"{CELL}/{CELL}").both(x)[1] is None


def test_auxiliary_head_from_8x8_has_the_published_windows() -> None:
    head = AuxiliaryHead(3, 7, False)
    x = torch.randn(4, 3, 8, 8)
    pooled = F.avg_pool2d(F.relu(x), 5, 3)
    torch.testing.assert_close(head(x), head.classify(head.mix(head.squeeze(pooled)).flatten(1)))
    for side in (2, 3, 5, 7):
        assert head(torch.randn(4, 3, side, side + 1)).shape == (4, 7)
    with pytest.raises(ValueError, match="images of at least 5 x 5 pixels"):
        head(torch.randn(4, 3, 1, 1))


def test_imports_without_optional_packages() -> None:
    code = (
        "import sys; sys.modules.update(optuna=None, scipy=None); import minigtn; "
        "print(minigtn.spaces.get('cells').name)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "cells\n"


def test_counting_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    for space in SMALL.values():
        space.params(space.sample(0))
        space.flops(space.sample(0))
    assert torch.equal(torch.get_rng_state(), before)


IN_ITS_MEMORY = """
import torch
from minigtn.networks.spaces.base import Strided1x1, convolution

torch.set_num_threads(1)
for inputs in range(1, 9):
    layer = convolution(inputs, 2, 1, 2)
    assert type(layer) is Strided1x1
    x = torch.randn(20, inputs, 9, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    found = torch.autograd.grad(y.square().sum(), [x, layer.weight])
    plain = torch.nn.functional.conv2d(x.double(), layer.weight.double(), stride=2)
    assert y.shape == plain.shape
    expected = torch.autograd.grad(plain.square().sum(), [x, layer.weight])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm(), inputs
print("right")
"""


def test_strided_1x1_convolutions_of_few_channels_stay_in_their_memory() -> None:
    """torch's own destroys the heap, so that a process of its own is wanted."""
    done = subprocess.run([sys.executable, "-c", IN_ITS_MEMORY], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_a_factorized_reduction_sees_the_even_and_the_odd_positions(size: tuple[int, int]) -> None:
    layer = FactorizedReduction(3, 4, running_stats=False).double()
    x = torch.randn(5, 3, *size, dtype=torch.float64)
    odd = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
    parts = [
        torch.einsum("nchw,oc->nohw", part, conv.weight.flatten(1))
        for part, conv in ((x[:, :, ::2, ::2], layer.even), (odd, layer.odd))
    ]
    torch.testing.assert_close(layer(x), layer.norm(torch.cat(parts, 1)))
