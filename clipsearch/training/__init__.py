"""Training and fine-tuning CLIP on a corpus of images and captions."""

from __future__ import annotations

from clipsearch.training.finetune import finetune
from clipsearch.training.options import AUGMENTATIONS, TrainOptions, tiny_options
from clipsearch.training.summary import FinetuneSummary
from clipsearch.training.validation import Scores

__all__ = ["AUGMENTATIONS", "FinetuneSummary", "Scores", "TrainOptions", "finetune", "tiny_options"]
