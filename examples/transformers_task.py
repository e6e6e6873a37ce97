"""A transformers model as a task: `gradmem compare transformers_task.py:my_task` here.

The model is made from a configuration, so nothing is downloaded: two layers of GPT-2 that have to
name the most frequent token of a sequence. Needs `pip install transformers`.
"""

import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from gradmem.lab.tasks import SimpleTask

LENGTH, TOKENS = 16, 6
config = GPT2Config(
    vocab_size=TOKENS + 1,
    pad_token_id=TOKENS,
    bos_token_id=None,
    eos_token_id=None,
    n_positions=LENGTH,
    n_embd=32,
    n_layer=2,
    n_head=2,
    num_labels=TOKENS,
)

tokens = torch.randint(TOKENS, (3000, LENGTH), generator=torch.Generator().manual_seed(0))
most_frequent = tokens.mode(dim=1).values  # the smallest of several

my_task = SimpleTask(
    model=lambda: GPT2ForSequenceClassification(config),
    train=({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, most_frequent),
    forward=lambda model, inputs: model(**inputs).logits,
    loss=nn.functional.cross_entropy,
    target=0.85,
    epochs=8,
    batch_size=32,
    clip_norm=1.0,
    title="most frequent token of 16, GPT-2 with 2 layers of 32",
)
