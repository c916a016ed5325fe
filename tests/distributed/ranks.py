"""Processes of torch.distributed that run functions of these tests, all ranks at once.

They have a GPU each if they are joined by NCCL, and Triton's interpreter where the tests have it.
"""

import datetime
import importlib
import socket
import sys
import traceback

import pytest
import torch
import torch.multiprocessing

from tests.conftest import INTERPRETED

SECONDS = 60.0


class Ranks:
    """So many processes, joined by gloo or NCCL."""

    def __init__(self, size, transport="gloo"):
        self.size = size
        context = torch.multiprocessing.get_context("spawn")
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        self.pipes, self.processes = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, rank, size, port, transport), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def call(self, function, *arguments):
        """Runs function(*arguments, of the rank) everywhere. Returns what each rank returns, or the error it raised.

        Args:
            function: of a module of the tests.
            arguments: a list each, with an element for each rank.
        """
        for rank, pipe in enumerate(self.pipes):
            pipe.send((function.__module__, function.__qualname__, [argument[rank] for argument in arguments]))
        return [self.answer(rank) for rank in range(self.size)]

    def answer(self, rank):
        pipe = self.pipes[rank]
        if not pipe.poll(SECONDS):
            self.end()
            raise TimeoutError(f"rank {rank}: no answer after {SECONDS:.0f} s")
        try:
            return pipe.recv()
        except EOFError:
            return ProcessLookupError(f"rank {rank} has ended")

    def end(self):
        for process in self.processes:
            process.kill()
            process.join()


def everywhere(ranks, function, *arguments):
    """What `Ranks.call` returns, where None is this process alone."""
    if ranks is None:
        return [function(*(argument[0] for argument in arguments))]
    return ranks.call(function, *arguments)


def joined(size):
    """For a fixture: so many ranks, which end with it; None where one process needs no others."""
    if size == 1:
        yield None
        return
    made = Ranks(size)
    yield made
    made.end()


def serve(pipe, rank, size, port, transport):
    torch.set_num_threads(1)
    if transport == "nccl":
        torch.cuda.set_device(rank)
    if INTERPRETED:
        from tests.support.interpreter import make_faster

        make_faster(pytest.MonkeyPatch())
    torch.distributed.init_process_group(
        transport,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=10),
    )
    while True:
        try:
            module, name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(getattr(importlib.import_module(module), name)(*arguments))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            pipe.send(error)
