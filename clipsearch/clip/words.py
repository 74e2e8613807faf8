"""The tiny preset's text tower: a weighted mean of token vectors, then a small network; it knows no word order.

On a few thousand captions it learns class names better and several times faster than a transformer: a prompt such as
"an aerial photograph of a harbour" is the sum of its words, and words that say nothing learn a small weight.
Importing this module registers it with ``transformers``' Auto classes, so that
``VisionTextDualEncoderModel.from_pretrained`` builds it without remote code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling

SHARPNESS = 10.0
"""Factor on the stored logarithms of weights, so that an optimiser's small steps can tell words apart in time."""

RARE = 20.0
"""Times in the training captions at which a token starts with half of a frequent one's weight."""


class WordTowerConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """``hidden_size``: size of a token's vector and of the output; ``max_position_embeddings``: longest text in tokens,
    where longer ones are cut (the tower itself has no limit); what follows the first ``eos_token_id`` is not read."""

    model_type = "clipsearch_word_tower"

    def __init__(
        self,
        vocab_size: int = 4096,
        hidden_size: int = 256,
        max_position_embeddings: int = 48,
        eos_token_id: int = 4095,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings
        super().__init__(eos_token_id=eos_token_id, **kwargs)


class WordEmbeddings(nn.Module):
    """A vector and, divided by ``SHARPNESS``, the logarithm of a weight for each token."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, hidden_size)
        self.token_weight = nn.Embedding(vocab_size, 1)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, hidden_size) and logarithms of weights (B, L) of ``input_ids`` (B, L)."""
        return self.token_embedding(input_ids), SHARPNESS * self.token_weight(input_ids)[:, :, 0]


class WordTower(PreTrainedModel):  # type: ignore[misc]  # transformers ships no types
    """Text tower: (B, L) token ids -> ``pooler_output`` (B, hidden_size)."""

    config_class = WordTowerConfig
    base_model_prefix = "word_tower"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: WordTowerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embeddings = WordEmbeddings(config.vocab_size, width)
        self.layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.post_init()

    @torch.no_grad()
    def start_weights(self, counts: Tensor) -> None:
        """Let rare tokens weigh little; ``counts`` (vocab_size,): how often the training captions have each.

        What they hardly have says nothing: the words of a prompt are often in no caption, and their pieces would pull
        the text in random directions.
        """
        share = (counts.double() + 0.5) / (counts.double() + RARE + 0.5)
        self.embeddings.token_weight.weight.copy_(share.log()[:, None] / SHARPNESS)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers' own initialisers leave alone what a checkpoint has filled
        # and pass over modules without weights of their own, so the two tables are told apart by their width
        if isinstance(module, nn.Embedding) and module.embedding_dim == 1:
            initialization.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, return_dict: bool | None = None, **_: Any
    ) -> Any:
        """``last_hidden_state`` (B, L, hidden_size), the tokens' vectors, and ``pooler_output`` (B, hidden_size).

        Without ``attention_mask`` (1 for tokens, 0 for padding) a text ends with its first end token.
        """
        vectors, weights = self.embeddings(input_ids)
        if attention_mask is None:
            ends = input_ids == self.config.eos_token_id
            attention_mask = (ends.cumsum(dim=1) - ends.long()) == 0
        weights = weights.masked_fill(attention_mask == 0, torch.finfo(weights.dtype).min).softmax(dim=1)
        mean = self.layer_norm((vectors * weights[:, :, None]).sum(dim=1))
        pooled = mean + self.fc2(nn.functional.gelu(self.fc1(mean)))
        output = BaseModelOutputWithPooling(last_hidden_state=vectors, pooler_output=pooled)
        return output.to_tuple() if return_dict is False else output


AutoConfig.register(WordTowerConfig.model_type, WordTowerConfig, exist_ok=True)
AutoModel.register(WordTowerConfig, WordTower, exist_ok=True)
