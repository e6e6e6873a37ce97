"""The machine, as far as times depend on it: no name of host or user, no path."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

import gradmem


@dataclass(frozen=True)
class Machine:
    """What ran it, and with which versions."""

    processor: str
    cores: int
    system: str
    python: str
    torch: str
    gradmem: str
    accelerator: str | None

    def describe(self, threads: int) -> str:
        """In a line."""
        named = f"{self.processor}, {self.cores} cores, {threads} threads"
        if self.accelerator:
            named = f"{self.accelerator}; host {named}"
        return f"{named}; {self.system}, Python {self.python}, torch {self.torch}"


def this_machine(device: torch.device) -> Machine:
    """The one this runs on; the accelerator only if it is measured."""
    return Machine(
        processor=_processor(),
        cores=_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        gradmem=gradmem.__version__,
        accelerator=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def _cores() -> int:
    """Those this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Its model where the system tells it, else its kind."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_with() -> float | None:
    """Processes that wanted a processor in the last minute, if more than half a one; else None."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    return load if load > 0.5 else None


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device, None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    listed = Path("/proc/meminfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
