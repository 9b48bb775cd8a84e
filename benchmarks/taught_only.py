"""The taught arm of a run's transfer matrix alone, where the judgement was stopped and the real arm is known.

    python benchmarks/taught_only.py RUN --networks relu-mlp resnet own --out taught.json

The networks are those of ``minigtn.networks.unmet``, five fresh ones of each with the seeds of
``minigtn.outer.modules.row``, taught by ``minigtn.teach`` and read in evaluation mode on all test images;
*own* is the run's learner, ten fresh ones. Real data with the same seeds do not depend on the teacher. The
file is written after each network.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from minigtn import data, load_curriculum, teach
from minigtn.config import RunConfig
from minigtn.networks.unmet import UNMET
from minigtn.outer.evaluate import taught_curves
from minigtn.outer.meta_gradient import base_learner
from minigtn.outer.modules import accuracy_of
from minigtn.runs.files import environment, read_json, write_json
from minigtn.runs.seeds import Purpose, seed_for
from minigtn.runs.settings import from_dict

FRESH = 5
OWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--networks", nargs="+", default=[*UNMET, "own"], choices=[*UNMET, "own"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = from_dict(RunConfig, read_json(arguments.run / "config.json")["config"])
    real = data.averaged(data.load(config.dataset), config.fidelity.image_size)
    curriculum = load_curriculum(arguments.run)
    result: dict[str, Any] = {}
    for name in arguments.networks:
        seeds = [seed_for(config.seed, Purpose.TEST, i) for i in range(OWN if name == "own" else FRESH)]
        chosen = []
        if name == "own":
            learner = base_learner(config, real)
            curves = taught_curves(learner, curriculum, real.test, seeds, every=len(curriculum.x))
            found = curves[:, -1].tolist()
        else:
            found = []
            for seed in seeds:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    module = UNMET[name].make(real.image_shape, real.n_classes)
                chosen.append(teach(module, curriculum).chosen)
                found.append(accuracy_of(module, real.test))
        result[name] = {"mean": statistics.mean(found), "std": statistics.stdev(found), "each": found}
        result[name]["chosen"] = chosen
        write_json(arguments.out, {"taught": result, **environment(torch.device("cpu"))})
        print(name, f"{100 * result[name]['mean']:.1f} ± {100 * result[name]['std']:.1f}", flush=True)


if __name__ == "__main__":
    main()
