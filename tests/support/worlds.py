"""Worlds of several processes for tests: a function called on every rank, forked from a server that
knows torch.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any

import torch

from rlvr.distributed.world import init_world
from support.processes import PRELOAD, _importable


def in_world(size: int, function: Callable[..., Any], *args: Any, joined: bool = True) -> list[Any]:
    """What `function(world, *args)` returns on each rank of a world of so many processes; not
    `joined` it is called without the world, which it then finds itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    place = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place["MASTER_PORT"] = str(found.getsockname()[1])
    pipes, processes = [], []
    with _importable():
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            own = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(
                context.Process(target=_call, args=(theirs, own, function, args, joined))
            )
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
    answers = [_answer(pipe) if pipe.poll(600) else (False, "no answer") for pipe in pipes]
    for process in processes:
        process.join(20)
    for good, answer in answers:
        assert good, answer
    return [answer for _, answer in answers]


def _call(
    pipe: Connection,
    place: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    joined: bool,
) -> None:
    os.environ |= place
    try:
        with init_world() if joined else nullcontext() as world:
            answer = (True, function(world, *args) if joined else function(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    content = io.BytesIO()  # tensors sent as they are would need this process to live on
    torch.save(answer, content)
    pipe.send_bytes(content.getvalue())


def _answer(pipe: Connection) -> tuple[bool, Any]:
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
    except EOFError:
        return False, "the process died"
