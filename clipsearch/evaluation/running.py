"""All that one ``clipsearch evaluate`` measures: several models, inside and outside the domain, probes and curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipsearch.adapter import adapted
from clipsearch.clip import Clip, checkpoint_info, load_clip
from clipsearch.clip.interpolate import mix, snapshot
from clipsearch.corpora import Corpus
from clipsearch.errors import CorpusError, InputError
from clipsearch.evaluation.classification import label_numbers
from clipsearch.evaluation.embedding import ALL, embed_split
from clipsearch.evaluation.probe import FewShot, Labelled, LinearProbe, few_shot, linear_probe
from clipsearch.evaluation.scoring import RESAMPLES, Evaluation, class_embeddings, evaluate, prompts_of
from clipsearch.evaluation.shift import Target, interpolation, names_apart


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: ``inside`` the domain, corpora ``outside``, and which extras.

    ``adapter``: a file that ``clipsearch adapt`` wrote, "" for none; ``transductive``: see ``evaluate``.
    ``start``: a checkpoint that the models were fine-tuned from, "" for no curve; ``resamples`` of the bootstrap.
    """

    inside: Target
    outside: tuple[Target, ...] = ()
    start: str = ""
    probe: bool = False
    few_shot: bool = False
    resamples: int = RESAMPLES
    seed: int = 0
    device: str = "auto"
    quiet: bool = True
    adapter: str = ""
    transductive: bool = False


def measure_models(models: Sequence[str], plan: Plan) -> list[Evaluation]:
    """One evaluation a checkpoint folder or hub name, in their order.

    All names and splits are looked at before anything is measured. Raises ``CheckpointError`` or ``CorpusError``.
    """
    for name in (*models, *([plan.start] if plan.start else [])):
        checkpoint_info(name)
    _check(plan)
    return [_measure(adapted(load_clip(name, plan.device), plan.adapter), plan) for name in models]


def _check(plan: Plan) -> None:
    corpus, split = plan.inside.corpus, plan.inside.split
    for target, option in ((plan.inside, "--split"), *((each, "--ood-split") for each in plan.outside)):
        _check_split(target, option)
    if plan.transductive and plan.start:
        raise InputError("--start draws the curve of images classified one by one: leave out --transduce, or --start")
    if plan.adapter and plan.start:
        raise InputError("--start mixes weights, which --adapter leaves alone: give one of them")
    if (plan.probe or plan.few_shot) and split in (ALL, "train"):
        raise InputError(f"a linear probe is trained on the train split: measure it on another one than {split!r}")
    if (plan.probe or plan.few_shot) and not any(record.label in corpus.classes for record in corpus.split("train")):
        raise CorpusError(f"{corpus.root} has no class labels in its train split: no linear probe can be trained")


def _check_split(target: Target, option: str) -> None:
    sizes = Counter(record.split for record in target.corpus.records)
    if target.split != ALL and not sizes[target.split]:
        there = ", ".join(f"{split}: {count:,}" for split, count in sizes.items())
        raise CorpusError(
            f"{target.corpus.root} has no {target.split} split: choose another {option} (images, {there}), or {ALL}"
        )


def _measure(clip: Clip, plan: Plan) -> Evaluation:
    inside = plan.inside
    start = load_clip(plan.start, plan.device) if plan.start else None
    if start:
        mix(snapshot(start.model), snapshot(clip.model), 0)  # refuses other architectures before hours are spent
    extras: dict[str, Any] = {"resamples": plan.resamples, "seed": plan.seed, "transductive": plan.transductive}
    result = evaluate(clip, inside.corpus, inside.split, plan.quiet, inside.prompts, **extras)
    outside = tuple(
        replace(evaluate(clip, each.corpus, each.split, plan.quiet, each.prompts, **extras), corpus=name)
        for each, name in zip(plan.outside, names_apart(plan.outside), strict=True)
    )
    probe, shots = _probes(clip, plan) if plan.probe or plan.few_shot else (None, None)
    curve = None
    if start:
        curve = interpolation(
            start, clip, inside, plan.outside, resamples=plan.resamples, seed=plan.seed, quiet=plan.quiet
        )
    return replace(result, linear_probe=probe, few_shot=shots, out_of_domain=outside, interpolation=curve)


def _probes(clip: Clip, plan: Plan) -> tuple[LinearProbe | None, FewShot | None]:
    corpus, split = plan.inside.corpus, plan.inside.split
    train, test = _labelled(clip, corpus, "train", plan.quiet), _labelled(clip, corpus, split, plan.quiet)
    probe = shots = None
    if plan.probe:
        validation = None
        others = [record for record in corpus.split("validation") if record.label in corpus.classes]
        if others and split != "validation":
            validation = _labelled(clip, corpus, "validation", plan.quiet)
        probe = linear_probe(train, validation, test, plan.resamples, plan.seed)
    if plan.few_shot:
        prompts = class_embeddings(clip, corpus, prompts_of(corpus, plan.inside.prompts))
        shots = few_shot(train, test, prompts, seed=plan.seed)
    return probe, shots


def _labelled(clip: Clip, corpus: Corpus, split: str, quiet: bool) -> Labelled:
    embedded = embed_split(clip, corpus, split, quiet=quiet, labelled=True)
    return Labelled(embedded.images, np.asarray(label_numbers(embedded.records, corpus.classes)))
