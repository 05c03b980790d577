"""Two processes of two devices reach the integers of one process of four, through JAX's own distributed runtime."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "python" / "examples" / "multi_process.py"
LIMIT = 300


def start(*arguments):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(EXAMPLE), "--steps", "20", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def results(processes):
    """What the processes printed; all are ended, whatever happens to one."""
    try:
        printed = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, printed, strict=True):
        assert process.returncode == 0, errors[-2000:]
    return [re.findall(r"(\d) processes, (\d) devices, 20 steps: loss (\S+), integers (\w{64})\n", output) for output, _ in printed]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("model", [1, 2], ids=["data", "data × column × row"])
def test_the_integers_of_twenty_steps_do_not_depend_on_the_processes(model):
    """Were each process to score its own part of the batch, or to count its own votes, the digests would part at the first step."""
    (((processes, devices, loss, digest),),) = results([start("--cpu-devices", 4, "--model", model)])
    assert (processes, devices) == ("1", "4")
    shared = "--cpu-devices", 2, "--model", model, "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process"
    first, second = results([start(*shared, number) for number in range(2)])
    assert first == [("2", "4", loss, digest)]
    assert second == [], "only the first process prints"
