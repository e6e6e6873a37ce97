"""A plain PyTorch model as a task: `gradmem compare plain_task.py:my_task` in this folder.

Whoever has a model, data and a loss needs no more than this.
"""

import torch
from torch import nn

from gradmem.lab.tasks import SimpleTask

points = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
inside = (points.square().sum(dim=1) < 0.5).long()  # which points lie in a circle

my_task = SimpleTask(
    model=lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)),
    train=(points, inside),  # validation and test are held out of it, unless given as this is
    loss=nn.functional.cross_entropy,
    target=0.98,  # accuracy that counts as "got there"
    epochs=20,
    batch_size=32,
    title="points in a circle, network 2-16-2 with ReLU",
)
