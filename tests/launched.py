"""The command line in several processes, as `torchrun` starts them."""

import os
import socket
import subprocess
import sys

PROCESS = "import sys; from titok_hf.cli import app; app(sys.argv[1:])"


def run_processes(arguments: list[str], count: int, program: tuple[str, ...] = ("-c", PROCESS)) -> list[str]:
    """
    The outputs of the processes of `titok-hf`, or of another `program` of Python, as a launcher starts them, by rank;
    all of them have to succeed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *program, *arguments],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    return [out for out, _ in outputs]
