"""Training in processes of their own, which can be killed; forked from one server that has imported the libraries."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

SERVER = multiprocessing.get_context("forkserver")
tqdm.set_lock(threading.RLock())  # its own lock is a system-wide semaphore, which a killed process leaves behind
SERVER.set_forkserver_preload(["clipsearch.training", "clipsearch.clip", "clipsearch.corpora"])


def start(target: Any, *arguments: Any) -> Any:
    """A started process that calls ``target``, a function of this module."""
    process = SERVER.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def run(target: Any, *arguments: Any) -> int:
    """The exit code of a process that calls ``target``; minus the signal's number when it was killed."""
    process = start(target, *arguments)
    process.join(timeout=300)
    assert process.exitcode is not None, "the process hangs"
    return int(process.exitcode)


def train_until(corpus: Path, out: Path, options: Any, kill_at: int, save_every: int) -> None:
    """Fine-tune, saving the state every so many steps; SIGKILL in the middle of step ``kill_at``, -1 for never."""
    import torch

    from clipsearch.corpora import open_corpus
    from clipsearch.training import finetune, loop, state

    torch.set_num_threads(1)
    clip_gradients = torch.nn.utils.clip_grad_norm_
    where = {"step": -1}

    def counted(progress: state.Progress, loss: float, seconds: float) -> None:
        original(progress, loss, seconds)
        where["step"] = progress.step

    def killing(*arguments: Any) -> Any:
        norm = clip_gradients(*arguments)
        if max(where["step"], 0) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return norm

    def save_if_due(self: state.StateSaver, progress: state.Progress, learner: state.Learner) -> None:
        if progress.step % save_every == 0:
            self.save(progress, learner)

    original = state.Progress.count_step
    state.Progress.count_step = counted  # type: ignore[method-assign]
    state.StateSaver.save_if_due = save_if_due  # type: ignore[method-assign]
    loop.torch.nn.utils.clip_grad_norm_ = killing  # type: ignore[attr-defined]
    if (resumed := state.read_progress(out.with_name(out.name + ".run"))) is not None:
        where["step"] = resumed.step
    with open_corpus(corpus) as opened:
        finetune(opened, out, options, quiet=True)


def save_for_ever(folder: Path, ready: Path) -> None:
    """Keep a better checkpoint and save the state, again and again, as at the end of each epoch.

    ``ready`` appears after the first time, with how many seconds that took.
    """
    import torch

    from clipsearch.clip import Clip, PixelSettings, TinyOptions, build_tiny
    from clipsearch.training import TrainOptions, loop, state
    from clipsearch.training.cache import DecodedSplit
    from clipsearch.training.distributed import World
    from clipsearch.training.preparing import open_run
    from clipsearch.training.runlog import RunLog
    from clipsearch.training.validation import Scores

    torch.set_num_threads(1)
    model, tokenizer = build_tiny(["a red block", "a green block"], TinyOptions(image_size=32), 0)
    clip = Clip(model, tokenizer, PixelSettings(32), "tiny")
    nothing: Any = DecodedSplit(None, [])  # type: ignore[arg-type]
    progress = open_run(folder, "")
    run = loop.TrainingRun(
        clip, nothing, nothing, {}, "{}", TrainOptions(), folder, RunLog(folder, quiet=True), loop.Budget(1), progress,
        World(), "loss",
    )  # fmt: skip
    learner = loop.build_learner(run)
    if progress.started:
        state.restore(folder, learner)
    for number in itertools.count():
        began = time.monotonic()
        progress.count_step(1 / (2 + progress.step), 0.0)
        outdated = loop.keep_if_best(run, Scores(None, None))
        loop.finish_epoch(run, learner, Scores(None, None), outdated)
        if number == 0:
            fresh = ready.with_suffix(".tmp")
            fresh.write_text(str(time.monotonic() - began))
            fresh.replace(ready)


def train_with_small_files(corpus: Path, out: Path, options: Any, said: Path) -> None:
    """Fine-tune with files that may not grow from step 3 on; the error goes to ``said``, and the exit code is 1."""
    import resource
    import sys

    import torch

    from clipsearch.corpora import open_corpus
    from clipsearch.errors import ClipsearchError
    from clipsearch.training import finetune, loop

    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes then fail, as on a full disk
    original = loop.train_step

    def train_step(run: Any, *rest: Any) -> Any:
        if run.progress.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        return original(run, *rest)

    loop.train_step = train_step
    try:
        with open_corpus(corpus) as opened:
            finetune(opened, out, options, quiet=True)
    except ClipsearchError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(str(error))
        sys.exit(1)
