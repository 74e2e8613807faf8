"""The ``clipsearch`` command: a lazy group, so that ``--help`` imports nothing heavy.

Each command is one module of ``clipsearch.commands`` with a click command named ``command``; it is imported when it
is called, or when its own help is asked for. The one-line summaries below are a table here, because reading them
off the commands would import every room; a test holds that the two agree.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

import click

from clipsearch import __version__
from clipsearch.errors import ClipsearchError

COMMANDS: Mapping[str, str] = {
    "sample": "Draw the built-in sample corpus of aerial scenes.",
    "audit": "Find broken images, duplicates, leakage and odd captions.",
    "backtranslate": "Write further training captions by back-translation.",
    "finetune": "Fine-tune CLIP on a corpus of images and captions.",
    "evaluate": "Measure checkpoints: zero-shot, retrieval, probes, robustness.",
    "convert": "Convert a checkpoint between open_clip and Hugging Face.",
    "export": "Write a checkpoint's towers as ONNX, also in int8.",
    "encode": "Turn a corpus into embedding shards.",
    "adapt": "Adapt a model to a domain in a second, from stored embeddings.",
    "feed": "Bring images into Vespa or the local engine; update, remove, verify.",
    "reembed": "Give a running index a new model, without downtime.",
    "search": "Search from the terminal, with scores explained.",
    "relevance": "Measure rankings by what people judged on the page.",
    "engine": "Serve a Vespa application package from this machine.",
    "ui": "Serve the search page.",
    "app": "Write the application package for another embedding size.",
    "plan": "Size a Vespa cluster: memory, disk, nodes, feed time.",
    "demo": "Run the whole path on one corpus and serve it.",
}


class LazyGroup(click.Group):
    """A group whose commands live in ``clipsearch.commands`` and are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of ``cmd_name``; None for a name that does not exist."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"clipsearch.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="clipsearch")
def cli() -> None:
    """Hybrid image search on Vespa, with CLIP fine-tuned on your own domain.

    \b
    Example, from a corpus to a search page:
      clipsearch sample --out corpus
      clipsearch finetune corpus --preset tiny --out model
      clipsearch encode corpus --model model --out shards
      clipsearch engine --data index --app vespa_app
      clipsearch feed shards shards
      clipsearch search "a stadium next to a river" --model model
      clipsearch ui --model model
    """


def main() -> None:
    """Entry point: a ``ClipsearchError`` becomes one sentence on stderr and exit code 1; Ctrl-C exits with 130.

    So does what the operating system refuses (a folder without permission, a full disk).
    """
    try:
        code = cli.main(standalone_mode=False)  # click returns what ctx.exit() was given, and raises the rest
    except ClipsearchError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"Error: {error.filename or 'the system'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
