"""``python -m reference``: meta-train a teacher on 8 x 8 digits, look at what it shows, and judge it."""

import argparse
import sys

import numpy as np

from reference import train
from reference.layers import Array, Params

FRESH = 20  # learners that judge a teacher
SHADES = " ░▒▓█"  # from dark to bright
ASCII_SHADES = " .:*#"  # where the terminal's encoding lacks those


def shown(theta: Params) -> Array:
    """(T, B, H, W): the images of each inner step, as brightnesses from 0 to 1."""
    x, _, _ = train.curriculum(theta, train.LABELS, train.SIZE)
    return (x[:, :, 0] + 2.0) / 4.0


def as_text(images: Array, encoding: str | None) -> str:
    """Images (N, H, W) of brightnesses from 0 to 1, four beside each other; a pixel is two characters."""
    shades = ASCII_SHADES if b"?" in SHADES.encode(encoding or "ascii", "replace") else SHADES
    lines = []
    for start in range(0, len(images), 4):
        for rows in images[start : start + 4].swapaxes(0, 1):
            lines.append("  ".join("".join(2 * shades[round(4 * pixel)] for pixel in row) for row in rows))
        lines.append("")
    return "\n".join(lines)


def save_png(images: Array, file: str) -> None:
    """Images (T, B, H, W) as a PNG: a row per class, a column per inner step, 6 x 6 dots per pixel."""
    canvas = np.block([[np.pad(step[i], 1) for step in images] for i in range(images.shape[1])])
    try:
        from matplotlib.image import imsave

        imsave(file, np.kron(canvas, np.ones((6, 6))), cmap="gray", format="png")
    except ImportError:
        sys.exit("--png needs matplotlib: say pip install matplotlib, or leave --png out.")
    except OSError as error:
        sys.exit(f"{file} cannot be written ({error.strerror}): name a file in a folder of yours.")


def run(seed: int, outer_steps: int, png: str | None) -> None:
    """Meta-train, and print and draw what came of it. The test images are read last, and once."""
    real, valid, test = train.load_data()
    untaught = train.new_teacher(np.random.default_rng([seed, 0]))  # the one that meta_train starts from
    if png:
        save_png(shown(untaught), png)  # so that what is wrong with the file is said before the work

    def tell(i: int, meta_loss: float, theta: Params) -> None:
        if i % 10 == 0:
            right = train.accuracies(theta, seed, 3, valid).mean()
            print(f"outer step {i:3d}   meta-loss {meta_loss:.3f}   validation {right:.1%}", flush=True)

    theta = train.meta_train(seed, outer_steps, real, tell)
    print(f"\nThe images of the last of {train.T} inner steps, classes 0 to {train.K - 1}:\n")
    print(as_text(shown(theta)[-1], sys.stdout.encoding))
    print(f"Test accuracy of {FRESH} fresh learners (mean +- standard deviation), taught by the teacher")
    for when, teacher in (("before", untaught), ("after", theta)):
        right = 100 * train.accuracies(teacher, seed, FRESH, test)
        print(f"  {when:6} its meta-training: {right.mean():.1f} +- {right.std(ddof=1):.1f} %")
    if png:
        save_png(shown(theta), png)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m reference", description="Meta-train a teacher on 8 x 8 digits."
    )
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it (0)")
    parser.add_argument("--outer-steps", type=int, default=150, help="steps of Adam (150, some 20 seconds)")
    parser.add_argument("--png", metavar="FILE", help="draw all images: a row per class, a column per step")
    given = parser.parse_args()
    if min(given.seed, given.outer_steps) < 0:
        parser.error("--seed and --outer-steps must be whole numbers from 0 on")
    try:
        run(given.seed, given.outer_steps, given.png)
    except KeyboardInterrupt:
        sys.exit("\nStopped before the end: there is no result.")


if __name__ == "__main__":
    main()
