"""What `make gpu-check` reads out of profiles and dumps, on profiles and dumps that need no GPU."""

import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
import bench
import check
import choose
import programs
import timing

# Two runs of two kernels, of 10 and 20 and of 11 and 21 us, out of order and on two streams; XLA's operations hold the time again.
CARD = """
planes {
  name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "ternax_kernel" } }
  event_metadata { key: 2 value { id: 2 name: "reduce" } }
  lines { name: "Stream #13(Kernel,Memset)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 500000000 duration_ps: 11000000 }
    events { metadata_id: 1 offset_ps: 100000000 duration_ps: 10000000 }
    events { metadata_id: 2 offset_ps: 600000000 duration_ps: 21000000 } }
  lines { name: "Stream #14(Kernel)" timestamp_ns: 1000 events { metadata_id: 2 offset_ps: 200000000 duration_ps: 20000000 } }
  lines { name: "XLA Ops" timestamp_ns: 1000 events { metadata_id: 1 offset_ps: 100000000 duration_ps: 30000000 } }
  lines { name: "CUPTI overhead" timestamp_ns: 1000 events { metadata_id: 2 offset_ps: 100000000 duration_ps: 90000000 } }
}
planes {
  name: "/host:CPU"
  event_metadata { key: 1 value { id: 1 name: "launch" } }
  lines { name: "Stream #13 of the host" timestamp_ns: 1000 events { metadata_id: 1 duration_ps: 70000000 } }
}
"""


def test_kernels_of_a_card_are_found_in_order_and_once():
    ran = timing.events(ProfileData.from_serialized_xspace(ProfileData.text_proto_to_serialized_xspace(CARD)))
    assert [(event.name, event.duration) for event in ran] == [
        *(("ternax_kernel", 10e3), ("reduce", 20e3), ("ternax_kernel", 11e3), ("reduce", 21e3)),
    ]
    assert timing.each_run(ran, 2) == pytest.approx([30e-6, 32e-6])
    assert timing.each_run(ran, 3) == pytest.approx([62e-6 / 3])  # no whole number of events in each run: their mean
    assert timing.each_run([], 2) == []


def test_a_profile_that_jax_writes_here_is_read():
    """On a CPU there are no kernels; what the host did lies on lines of its own, and lasts as long as it lasted."""

    def wait():
        with jax.profiler.TraceAnnotation("nap"):
            time.sleep(0.01)
        return jnp.zeros(())

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    profile = timing.profile(wait, 3, options)
    naps = [event for event in timing.events(profile, "/host:CPU", "") if event.name == "nap"]
    assert len(naps) == 3
    assert all(0.009 < seconds < 1 for seconds in timing.each_run(naps, 3))
    assert timing.events(profile) == []
    times = timing.contest({"sine": lambda: jnp.sin(1.0)}, 0.001)["sine"]
    assert times.kernels is None
    assert times.seconds == times.wall > 0


def test_a_card_s_time_is_that_of_its_kernels():
    row = functools.partial(bench.row, "forward", count=4, aim=9.0)
    slow, fast = timing.Timing(9e-3, 8e-6, ("a",)), timing.Timing(1e-3, 2e-6, ("ternax_kernel", "b"))
    assert row({"ternax": fast, "dense": slow}, must=3.0)["ratio"] == pytest.approx(4)
    assert row({"ternax": fast, "dense": slow}, must=3.0)["dense"]["kernels"] == pytest.approx(2e-6)
    assert row({"ternax": timing.Timing(1e-3, None, ()), "dense": timing.Timing(2e-3, None, ())}, must=1.0)["ratio"] == pytest.approx(2)
    with pytest.raises(RuntimeError, match="no kernel of ternax ran, but a"):
        row({"ternax": slow, "dense": slow}, must=1.0)


# As XLA writes them: the thunks of a command buffer are indented on the lines after it.
THUNKS = """000: kCommandBuffer\t
  001: kCustomCall\t
  002: kKernel    \t, kernel=loop_add

003: kCustomCall   \t
000: kCommandBuffer\t
  004: kSequential\t
    005: kCustomCall\t
"""


def test_custom_calls_in_graphs_are_told_from_those_outside():
    assert programs.recorded(THUNKS) == (2, 1)
    assert programs.recorded("001: kCustomCall\t\n002: kKernel    \t\n") == (0, 1)


def test_custom_calls_in_graphs_are_found_in_hlo_too():
    call = '  a = f32[] custom-call(b), custom_call_target="ternax_scale"\n'
    text = f"HloModule jit_step\n\n%command_buffer (p: f32[]) -> f32[] {{\n{call}{call}}}\n\nENTRY %main {{\n{call}}}\n"
    assert programs.recorded_in_hlo(text) == 2


def test_the_kernel_stays_below_what_was_measured():
    assert choose.thresholds([(32, "fused"), (128, "fused"), (512, "dense"), (1024, "dense"), (2048, "fused")]) == [
        *([1, "fused"], [512, "dense"], [2048, "fused"]),
    ]
    assert choose.thresholds([(32, "dense"), (128, "dense")]) == [[1, "fused"], [32, "dense"]]
    assert choose.thresholds([]) == [[1, "fused"]]


@pytest.mark.parametrize(
    ("code", "seconds", "without", "outcome"),
    [
        ("print('fine')", 60, "", "passed"),
        ("print('NOT RUN: no card')", 60, "", "passed; NOT RUN: no card"),
        ("raise SystemExit(3)", 60, "", "FAILED: exit code 3"),
        ("import time; print('a', flush=True); time.sleep(60)", 0.5, "", "FAILED: not done after 0 s"),
        ("print('fine')", 60, "needs a GPU", "NOT RUN: needs a GPU"),
        ("print('fine')", -1, "", "NOT RUN: out of time"),
    ],
)
def test_a_step_says_how_it_ended(tmp_path, code, seconds, without, outcome):
    step = check.Step("a step", [sys.executable, "-c", code], without=without)
    assert check.run(step, tmp_path / "a.log", {}, seconds)["outcome"] == outcome


def test_every_test_file_is_run_or_named_as_left_out():
    files = {path.stem.removeprefix("test_") for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    left_out = {name for names in check.WITHOUT for name in names.split(", ")}
    assert files == left_out | set(check.TESTS)
    assert not left_out & set(check.TESTS)


def test_the_measurements_and_the_checks_share_the_deadline(tmp_path):
    limits = [limit for _, limit in check.measurements(tmp_path, False)]
    assert sum(limits) + 200 < check.DEADLINE < 480
    for step, limit in check.measurements(tmp_path, False):
        assert float(step.command[step.command.index("--limit") + 1]) < limit
