"""Starting a script of this folder on several processes with torchrun, and what each does then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist

HERE = Path(__file__).parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Else processes started again find the addresses of the dead in torch 2.13's store.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def torchrun(
    script: str | Path,
    *arguments: object,
    processes: int,
    restarts: int = 0,
    environment: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> str:
    """Run a script, of this folder unless the path is absolute; what it printed.

    Raises:
        AssertionError: a process failed; the message has the end of what it printed.
    """
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(HERE / script)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    # What torchrun has to say of a failure comes last, and says nothing of its cause.
    assert done.returncode == 0, done.stdout.partition("torch/distributed/elastic")[0][-6000:]
    return done.stdout


def in_group(work: Callable[[torch.device], None]) -> None:
    """Call `work` in the process group of torchrun, with the device of this process, and leave."""
    local = int(os.environ["LOCAL_RANK"])
    # Several processes cannot share a GPU under NCCL.
    gpu = torch.cuda.device_count() >= int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if gpu else "gloo")
    work(device)
    dist.barrier()
    dist.destroy_process_group()
    # All checks are done; gloo's threads now and then abort in the interpreter's shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
