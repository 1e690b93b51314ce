"""A transformer that learns to continue text, character by character, from scratch and without gradients.

    fedmq demo examples/tiny_transformer.py

Four trainers have a quarter of a text each. They send some bytes for each pair of candidates, and never a weight.
"""

import pydoc_data.topics
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedmq import Task, torch_model

TEXT = Path(pydoc_data.topics.__file__)  # the help of Python itself: a text that is on every machine
CONTEXT, WINDOWS, CHARACTERS = 32, 64, 96  # characters of a window; windows of a trainer; printable ASCII and newline


class TinyTransformer(nn.Module):
    """One block of causal attention, with the same weights for characters in and out."""

    def __init__(self, width=24, heads=2):
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.before, self.between, self.after = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, characters):
        x = self.embed(characters) + self.places
        mask = torch.triu(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool), 1)
        y = self.before(x)
        x = x + self.attend(y, y, y, attn_mask=mask, need_weights=False)[0]
        x = x + self.think(self.between(x))
        return self.after(x) @ self.embed.weight.T

    def losses(self, inputs, targets):
        characters = inputs.long()
        logits = self(characters[:, :-1])
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), characters[:, 1:], reduction="none").mean(dim=1)
        return loss, logits[:, -1].argmax(dim=1) == characters[:, -1]


task = Task(
    name="tiny-transformer",
    model=torch_model(TinyTransformer, inputs=CONTEXT + 1),
    loss="own",
    metric="loss",  # nats of a character, summed over the windows
    trainers=4,
    rounds=100,
    algorithm="es",
    parameters={"es": {"pairs": 64, "sigma": 0.01, "learning_rate": 0.01, "weight_decay": 0.0}},
)


def rows(part, parts):
    text = np.clip(np.frombuffer(TEXT.read_bytes(), np.uint8).astype(int) - 31, 0, CHARACTERS - 1)
    share = np.array_split(text, parts)[part - 1]
    starts = np.linspace(0, len(share) - CONTEXT - 1, WINDOWS).astype(int)
    windows = share[starts[:, None] + np.arange(CONTEXT + 1)]
    return windows.astype(float), np.zeros(WINDOWS)
