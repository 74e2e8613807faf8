"""Back-translation adds different captions to training images that have too few, once, and touches nothing else."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from clipsearch.captions import normalise_caption
from clipsearch.cli import cli
from clipsearch.corpora import open_corpora, open_corpus
from clipsearch.corpora.overlay import overlaid, with_captions, without
from clipsearch.errors import CheckpointError, CorpusError, InputError
from clipsearch.training.backtranslate import BacktranslateSummary, backtranslate

A, B = "many planes are parked", "a white plane"

ROWS = {
    "repeated.png": ("train", [A, A + " .", A, A, A]),
    "two.png": ("train", [A, A, A, B, B]),
    "enough.png": ("train", [f"caption number {number}" for number in range(5)]),
    "one.png": ("train", [B]),
    "none.png": ("train", []),
    "test.png": ("test", [A, A, A, A, A]),
    "val.png": ("validation", [B, B]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "corpus"
    path.mkdir()
    lines = []
    for number, (name, (split, captions)) in enumerate(ROWS.items()):
        Image.new("RGB", (8, 8), (number * 30, 0, 0)).save(path / name)
        lines.append(json.dumps({"file": name, "captions": captions, "split": split}))
    (path / "captions.jsonl").write_text("\n".join(lines))
    return path


@dataclass
class Fake:
    """Says the language's name after the text; ``says`` overrides; fails after ``limit`` batches."""

    says: dict[str, str] = field(default_factory=dict)
    limit: int = 10**9
    name: str = "fake"
    calls: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def there_and_back(self, texts: Sequence[str], language: str) -> list[str]:
        if len(self.calls) >= self.limit:
            raise KeyboardInterrupt
        self.calls.append((language, tuple(texts)))
        return [self.says.get(language, f"{text} by {language}") for text in texts]


def run(folder: Path, out: Path, translator: Fake, **options: Any) -> BacktranslateSummary:
    with open_corpus(folder) as corpus:
        return backtranslate(corpus, translator, out, quiet=True, **options)


def rows(out: Path) -> dict[str, list[str]]:
    lines = map(json.loads, out.read_text().splitlines())
    return {line["key"].rpartition("::")[2]: line["captions"] for line in lines}


def test_repeats_make_way_and_originals_stay(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "out.jsonl", Fake())
    assert rows(tmp_path / "out.jsonl") == {
        "repeated.png": [A, f"{A} by fr", f"{A} by es", f"{A} by it", f"{A} by pt"],
        "two.png": [A, B, f"{A} by fr", f"{B} by fr", f"{A} by es"],
        "one.png": [B, f"{B} by fr", f"{B} by es", f"{B} by it", f"{B} by pt"],
    }
    assert (done.images, done.lacking, done.changed, done.still_lacking) == (4, 3, 3, 0)
    assert (done.added, done.unchanged, done.runaway) == (11, 0, 0)


def test_a_sentence_is_translated_once_however_many_images_have_it(folder: Path, tmp_path: Path) -> None:
    translator = Fake()
    done = run(folder, tmp_path / "out.jsonl", translator)
    asked = Counter((text, language) for language, texts in translator.calls for text in texts)
    assert set(asked.values()) == {1}
    assert done.translated == len(asked) == 8


def test_batches_are_of_one_language_and_sorted_by_length(folder: Path, tmp_path: Path) -> None:
    translator = Fake()
    run(folder, tmp_path / "out.jsonl", translator, batch_size=1)
    assert all(len(texts) == 1 for _, texts in translator.calls)
    assert translator.calls[:2] == [("fr", (B,)), ("fr", (A,))]


def test_translations_that_say_the_same_or_run_away_are_dropped_and_counted(folder: Path, tmp_path: Path) -> None:
    says = {"fr": "Many Planes, are parked!", "es": "and " * 60, "it": "", "pt": "a lot of parked planes ."}
    done = run(folder, tmp_path / "out.jsonl", Fake(says))
    assert rows(tmp_path / "out.jsonl")["repeated.png"] == [A, "a lot of parked planes"]
    assert (done.unchanged > 0, done.runaway > 0, done.still_lacking) == (True, True, 3)
    for captions in rows(tmp_path / "out.jsonl").values():
        assert len(set(map(normalise_caption, captions))) == len(captions)


def test_a_second_run_translates_nothing_and_writes_the_same(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run(folder, out, Fake())
    first = out.read_bytes()
    translator = Fake()
    done = run(folder, out, translator)
    assert translator.calls == []
    assert out.read_bytes() == first
    assert (done.translated, done.reused) == (0, 8)


@pytest.mark.parametrize("batches", range(8))
def test_an_interrupted_run_goes_on_with_what_is_missing(folder: Path, tmp_path: Path, batches: int) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(folder, whole, Fake(), batch_size=1)
    stopped, resumed = Fake(limit=batches), Fake()
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, stopped, batch_size=1)
    assert not out.exists()
    with (tmp_path / "out.jsonl.journal").open("ab") as journal:
        journal.write(b'{"language":"fr","text":"half')  # as a kill leaves it
    run(folder, out, resumed, batch_size=1)
    assert len(stopped.calls) + len(resumed.calls) == 8
    assert out.read_bytes() == whole.read_bytes()


class Dying(Fake):
    """Kills its process before the fourth batch."""

    def there_and_back(self, texts: Sequence[str], language: str) -> list[str]:
        if len(self.calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().there_and_back(texts, language)


def test_a_kill_costs_one_batch_at_most(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child does nothing that other threads could hold up
        child = os.fork()
    if not child:
        run(folder, out, Dying(), batch_size=1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    done = run(folder, out, Fake(), batch_size=1)
    assert (done.reused, done.translated) == (3, 5)


def test_a_journal_of_other_models_is_refused(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl", Fake())
    with pytest.raises(InputError, match="holds translations by fake, and this is other"):
        run(folder, tmp_path / "out.jsonl", Fake(name="other"))


def test_a_damaged_journal_is_named_with_its_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.journal").write_text('{"translator":"fake"}\nnonsense\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        run(folder, tmp_path / "out.jsonl", Fake())


@pytest.mark.parametrize("split", ["test", "validation"])
def test_other_splits_than_train_are_refused_by_name(folder: Path, tmp_path: Path, split: str) -> None:
    with pytest.raises(InputError, match=f"not {split}"):
        run(folder, tmp_path / "out.jsonl", Fake(), split=split)
    done = CliRunner().invoke(cli, ["backtranslate", str(folder), "--out", str(tmp_path / "o"), "--split", split])
    assert isinstance(done.exception, InputError)
    assert split in str(done.exception)


def test_the_overlay_changes_training_captions_only(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out.jsonl", Fake())
    with open_corpus(folder) as corpus:
        changed = with_captions(corpus, tmp_path / "out.jsonl")
        captions = {record.key: record.captions for record in changed.records}
        assert captions["one.png"] == (B, f"{B} by fr", f"{B} by es", f"{B} by it", f"{B} by pt")
        assert captions["test.png"] == (A,) * 5
        assert {record.key: record.captions for record in corpus.records}["one.png"] == (B,)
        assert changed.read(changed.records[0]) == corpus.read(corpus.records[0])
        assert changed.split("validation") == corpus.split("validation")


@pytest.mark.parametrize(("line", "reason"), [
    ('{"key": "test.png", "captions": ["x"]}', "test.png is in the test split"),
    ('{"key": "who.png", "captions": ["x"]}', "has no image 'who.png'"),
    ('{"key": "one.png"}', "line 2 is not JSON like"),
    ("nonsense", "line 2 is not JSON like"),
])  # fmt: skip
def test_a_bad_line_of_captions_is_named(folder: Path, tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "more.jsonl"
    file.write_text(f"\n{line}\n")
    with open_corpus(folder) as corpus, pytest.raises(CorpusError, match=reason):
        with_captions(corpus, file)


def test_excluded_images_leave_training_and_validation_but_never_test(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "exclude.txt"
    file.write_text("# why\none.png\nid:corpus:image::two.png  # twin\nval.png\ntest.png\nunknown.png\n")
    with open_corpus(folder) as corpus:
        kept = {record.key for record in without(corpus, file).records}
        assert kept == set(ROWS) - {"one.png", "two.png", "val.png"}
        with pytest.raises(CorpusError, match="cannot be read"):
            without(corpus, tmp_path / "absent.txt")


def test_overlays_reach_one_of_several_corpora(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    run(folder, tmp_path / "out.jsonl", Fake())
    (tmp_path / "exclude.txt").write_text("id:other:image::one.png\n")
    with open_corpora([folder, other]) as both:
        records = overlaid(both, tmp_path / "out.jsonl", tmp_path / "exclude.txt").records
    assert {(r.corpus, len(r.captions)) for r in records if r.key == "one.png"} == {("corpus", 5)}
    assert {(r.corpus, len(r.captions)) for r in records if r.key == "two.png"} == {("corpus", 5), ("other", 5)}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends a sentence by itself."""
    monkeypatch.setattr("clipsearch.training.marian.MAX_TOKENS", 16)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Marian model with a vocabulary learned here, that knows >>fr<< and >>es<<."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    path = tmp_path_factory.mktemp("marian")
    text = path / "text.txt"
    text.write_text("\n".join([A, B, "a plane is white", "many white planes", "planes parked near a park"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(path / "source"), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    (path / "source.model").rename(path / "source.spm")
    (path / "target.spm").write_bytes((path / "source.spm").read_bytes())
    pieces = [line.split("\t")[0] for line in (path / "source.vocab").read_text().splitlines()]
    words = ["</s>", "<unk>", *[piece for piece in pieces if piece[0] != "<"], ">>fr<<", ">>es<<", "<pad>"]
    (path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (path / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "roa"}))
    torch.manual_seed(0)
    pad = len(words) - 1
    config = MarianConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=256,
        pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(path)
    return path


def test_real_marian_models_translate_there_and_back(marian: Path) -> None:
    from clipsearch.training.marian import MarianTranslator

    translator = MarianTranslator(str(marian), str(marian), beams=2, device="cpu")
    texts = [A, B, "many white planes"]
    back = translator.there_and_back(texts, "fr")
    assert len(back) == 3
    assert all(isinstance(text, str) and "</s>" not in text for text in back)
    assert back == translator.there_and_back(texts, "fr")
    tokenizer = translator._there[0]
    assert tokenizer.convert_ids_to_tokens(tokenizer(">>fr<< a plane")["input_ids"])[0] == ">>fr<<"


def test_a_language_that_the_model_does_not_know_is_refused(marian: Path) -> None:
    from clipsearch.training.marian import MarianTranslator

    with pytest.raises(CheckpointError, match="does not know 'de'; it knows >>fr<<, >>es<<"):
        MarianTranslator(str(marian), str(marian), device="cpu").there_and_back([A], "de")


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    from clipsearch.training.marian import MarianTranslator

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        MarianTranslator(str(tmp_path), str(tmp_path), device="cpu")


def test_the_command_runs_with_models_from_folders(folder: Path, tmp_path: Path, marian: Path) -> None:
    arguments = ["backtranslate", str(folder), "--out", str(tmp_path / "o.jsonl"), "--languages", "fr,es", "--json"]
    done = CliRunner().invoke(cli, [*arguments, "--there", str(marian), "--back", str(marian), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["translated"] == 4
    assert summary["added"] + summary["unchanged"] + summary["runaway"] == 8
