"""Selects from rows that are spread over processes, and compares with one process that has all rows.

    torchrun --nproc-per-node 2 examples/select_distributed.py --rows 20000 --k 500

With ``--device cuda``, each process has a GPU, and NCCL joins them.
In an application, each rank has rows that no other rank could hold beside its own.
"""

import argparse
import os

import torch
import torch.distributed as dist

import tokenprune_kernels
from tokenprune_kernels import distributed


def main() -> None:
    """Selects on every rank; rank 0 says whether the result is that of one process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000, help="of each rank")
    parser.add_argument("--depth", type=int, default=128, help="D")
    parser.add_argument("--k", type=int, default=100, help="rows to keep of all ranks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    rank = dist.get_rank()
    x_local = torch.randn(options.rows, options.depth, generator=torch.Generator().manual_seed(rank))
    x_local = x_local.to(options.device)

    selection = distributed.divprune(x_local, options.k)
    kept = x_local[selection.local()]  # this rank's own part of the result

    everything = [torch.empty_like(x_local) for _ in range(dist.get_world_size())]
    dist.all_gather(everything, x_local)
    same = torch.equal(selection.indices, tokenprune_kernels.divprune(torch.cat(everything), options.k))
    if rank == 0:
        megabytes = selection.received_bytes / 1e6
        print(f"{options.k} picks in {selection.collectives} collectives, {megabytes:.1f} MB received by each rank")
        print(f"the same as in one process: {same}")
    print(f"rank {rank} keeps {len(kept)} of its rows")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
