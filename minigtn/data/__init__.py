"""Real data sets as tensors: ``minigtn.data.load("mnist")``."""

from minigtn.data.datasets import DATASETS, Dataset, Split, averaged, crop_and_flip, load
from minigtn.data.downloads import DataError

__all__ = ["DATASETS", "DataError", "Dataset", "Split", "averaged", "crop_and_flip", "load"]
