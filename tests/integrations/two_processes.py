"""An example on two processes, which must end with equal parameters and memories.

`two_processes.py NAME ARGUMENTS...` is started on both by torchrun, or by lightning itself.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from programs import example, tensors


def main(name: str, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    program = example(name)
    dist.destroy_process_group = lambda *_: None  # accelerate's end_training calls it
    made = program.main(program.parsed(arguments))
    if name == "accelerate_loop":
        _, model, optimizer = made
    elif name == "transformers_trainer":
        model, optimizer = made.model, made.optimizer
    else:
        model, optimizer = made.lightning_module, made.optimizers[0]
    count = 0
    for value in [*tensors(optimizer), *(p.detach() for p in model.parameters())]:
        both = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(both, value.contiguous())
        assert torch.equal(*both)
        count += 1
    assert count > 100
    sys.stdout.write(f"rank {dist.get_rank()} of {dist.get_world_size()} is equal\n")
    sys.stdout.flush()
    dist.barrier()
    os._exit(0)  # gloo's threads now and then abort in the interpreter's shutdown


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
