"""Does ``teach`` ever leave a weight that is not finite? Random networks, every start, every curriculum.

    python benchmarks/never_ruined.py --curricula digits-10 digits-any --networks 200 --starts 3 --out DIR

The networks are those of ``minigtn.networks.ordinary``, with torch's initialization. Each is taught with the
steps that ``teach`` chooses, and with the learned ones as they are: it must end finite, or be refused and as
it was, to the last bit. DIR/never_ruined.json holds the counts and is written after each curriculum; one that
is there is left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from minigtn import Curriculum, load_curriculum, teach
from minigtn.networks import ordinary
from minigtn.runs.files import environment, read_json, write_json

WAYS = ("auto", "learned")


def outcome(module: nn.Module, curriculum: Curriculum, lr: str) -> str:
    """What became of the module: "taught", "taught, loss not lower", "refused" or "ruined"."""
    before = {name: part.clone() for name, part in module.state_dict().items()}
    try:
        losses = teach(module, curriculum, lr).losses
    except FloatingPointError:
        same = all(part.equal(before[name]) for name, part in module.state_dict().items())
        return "refused" if same else "ruined"
    if not all(part.isfinite().all() for part in module.state_dict().values()):
        return "ruined"
    return "taught" if losses[-1] < losses[0] else "taught, loss not lower"


def counts(curriculum: Curriculum, networks: int, starts: int) -> dict[str, Any]:
    """How often each outcome came, for each way to take the steps; and the networks that were ruined."""
    channels, height, width = curriculum.x.shape[2:]
    result: dict[str, Any] = {way: {} for way in WAYS} | {"ruined": []}
    started = time.process_time()
    for seed in tqdm(range(networks), disable=None):
        network = ordinary.draw(seed, (channels, height, width), len(curriculum.class_names))
        for start in range(starts):
            for way in WAYS:
                torch.manual_seed(start)
                found = outcome(network(), curriculum, way)
                result[way][found] = result[way].get(found, 0) + 1
                if found == "ruined":
                    result["ruined"].append([seed, start, way])
    return {**result, "cpu_seconds": round(time.process_time() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curricula", nargs="+", default=["digits-10", "digits-any"])
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.out / "never_ruined.json"
    settings = {"networks": arguments.networks, "starts": arguments.starts}
    saved = read_json(path) if path.exists() else {"settings": settings, "curricula": {}}
    if saved["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings, {saved['settings']}: choose another folder")
    for name in arguments.curricula:
        if Path(name).stem not in saved["curricula"]:
            saved["curricula"][Path(name).stem] = counts(load_curriculum(name), **settings)
            write_json(path, {**saved, **environment(torch.device("cpu"))})
        print(Path(name).stem, saved["curricula"][Path(name).stem], flush=True)


if __name__ == "__main__":
    main()
