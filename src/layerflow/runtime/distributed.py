"""Distributed inference: several processes for one video, started by `torchrun`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[tuple[str, bool]]:
    """Join the processes that `torchrun` started, if any.

    Yields the device of this process, and True in the main process, which writes and reports; the output of the others
    is discarded.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device, True
        return
    import torch.distributed as dist

    kind = device.split(":")[0]
    if kind == "cuda":
        import torch

        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        if dist.get_rank() == 0:
            yield device, True
        else:
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                yield device, False
    finally:
        dist.destroy_process_group()
