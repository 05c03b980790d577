"""Lowering for NVIDIA GPUs on a machine that may have none: what is exported, what falls back, and why."""

import ctypes
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ternax as tx
from ternax import _choice, _cuda, _library, ops, reference

GROUP, IN, OUT = 32, 96, 40
GROUPS, BYTES = 3, 7


def of(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


TRITS, SCALE = of((OUT, GROUPS, BYTES), jnp.uint8), of((OUT, GROUPS))
CALLS = {
    "matmul": (lambda *a: tx.ops.matmul(*a, group_size=GROUP), of((20, IN)), TRITS, SCALE),
    "matmul_transposed": (lambda *a: tx.ops.matmul_transposed(*a, in_dim=IN, group_size=GROUP), of((20, OUT)), TRITS, SCALE),
    "correlate": (lambda *a: tx.ops.correlate(*a, group_size=GROUP), of((20, IN)), of((20, OUT)), TRITS),
    "correlate_dense": (lambda *a: tx.ops.correlate_dense(*a, group_size=GROUP), of((OUT, IN)), TRITS),
    "scale": (
        lambda *a: tx.ops.scale(*a, group_size=GROUP),
        of((OUT, GROUPS), jnp.int8),
        of((OUT, GROUPS, 2), jnp.int32),
        of((2,), jnp.int32),
    ),
    "accumulate": (
        lambda *a: tx.ops.accumulate(*a, group_size=GROUP),
        of((OUT, GROUPS, 2), jnp.int32),
        of((2,), jnp.int32),
        of((OUT, GROUPS)),
        of(()),
    ),
    "pack": (lambda *a: tx.ops.pack(*a, group_size=GROUP), of((OUT, IN), jnp.int8)),
    "unpack": (lambda *a: tx.ops.unpack(*a, in_dim=IN, group_size=GROUP), TRITS),
    "dequantize": (lambda *a: tx.ops.dequantize(*a, in_dim=IN, group_size=GROUP), TRITS, SCALE),
}
SCRATCH = {"matmul", "matmul_transposed", "accumulate"}


@pytest.fixture
def no_gpu(monkeypatch):
    """As on a machine without a GPU, whatever this one has."""
    _cuda.problem.cache_clear()
    monkeypatch.setattr(_cuda, "_capabilities", lambda: [])
    yield
    _cuda.problem.cache_clear()


def exported(function, *arguments):
    """The program for CUDA; traced anew, since jax keeps what a function was lowered to."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(target) for target in TARGETS]
    anew = jax.jit(functools.partial(function))
    return jax.export.export(anew, platforms=["cuda"], disabled_checks=checks)(*arguments).mlir_module()


TARGETS = [f"ternax_{name}" for name in ops.OPERATIONS]


def test_every_operation_has_a_cuda_call_of_two_stages():
    for target in TARGETS:
        assert set(_library.functions()["CUDA", target]) == {"initialize", "execute"}


@pytest.mark.parametrize("name", CALLS)
def test_programs_are_lowered_for_cuda_without_a_gpu(name, no_gpu):
    function, *arguments = CALLS[name]
    text = exported(function, *arguments)
    calls = re.findall(rf"@ternax_{name}\(.*-> *(.*)", text)
    assert len(calls) == 1
    assert calls[0].count("tensor<") == ops.OPERATIONS[name].results + (name in SCRATCH), "scratch is a result of the call"


def test_a_training_step_is_lowered_for_cuda_with_its_state_updated_in_place(no_gpu):
    w = tx.init(jax.random.key(0), IN, OUT)

    def step(w, x):
        grads = tx.grad(lambda w: (tx.linear(w, x) ** 2).sum())(w)
        return tx.update(w, grads)

    text = exported(step, w, of((64, IN)))
    for name in ("scale", "matmul", "correlate", "accumulate"):
        assert f"@ternax_{name}(" in text
    assert "output_operand_alias" in text


def test_scales_of_another_width_than_the_kernels_take_are_widened(no_gpu):
    function, x, trits, scale = CALLS["matmul"]
    text = exported(function, x, trits, of(scale.shape, jnp.bfloat16))
    call = next(line for line in text.splitlines() if "@ternax_matmul(" in line)
    assert f"tensor<{OUT}x{GROUPS}xf32>" in call
    text = exported(function, of(x.shape, jnp.bfloat16), trits, of(scale.shape, jnp.bfloat16))
    call = next(line for line in text.splitlines() if "@ternax_matmul(" in line)
    assert f"tensor<{OUT}x{GROUPS}xbf16>" in call


BF16 = jnp.bfloat16
MANY = 4096
# Calls of so many tokens that XLA's dot can be the faster part; for the products the estimates of every architecture say so.
COMPOSED = {
    "matmul": (CALLS["matmul"][0], of((MANY, IN), BF16), TRITS, of((OUT, GROUPS), BF16)),
    "matmul_transposed": (CALLS["matmul_transposed"][0], of((MANY, OUT), BF16), TRITS, of((OUT, GROUPS), BF16)),
    "correlate": (CALLS["correlate"][0], of((MANY, IN), BF16), of((MANY, OUT), BF16), TRITS),
}


@pytest.mark.parametrize("name", ["matmul", "matmul_transposed"])
def test_many_tokens_multiply_a_weight_that_is_unpacked_to_their_dtype(name, no_gpu):
    function, *arguments = COMPOSED[name]
    text = exported(function, *arguments)
    (unpacked,) = re.findall(r"@ternax_dequantize\(.*-> *(.*)", text)
    assert f"tensor<{OUT}x{IN}xbf16>" in unpacked
    assert f"@ternax_{name}(" not in text
    (dot,) = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert re.search(r"-> tensor<[0-9x]*xf32>", dot), "sums are float32"


def test_the_weight_of_the_forward_pass_is_not_kept_for_the_backward_pass(no_gpu):
    def both(x, dy, trits, scale):
        y = tx.ops.matmul(x, trits, scale, group_size=GROUP)
        return y, tx.ops.matmul_transposed(dy, trits, scale, in_dim=IN, group_size=GROUP)

    _, x, trits, scale = COMPOSED["matmul"]
    text = exported(both, x, COMPOSED["matmul_transposed"][1], trits, scale)
    assert len(re.findall("@ternax_dequantize", text)) == 2
    assert "stablehlo.optimization_barrier" in text


@pytest.mark.parametrize("name", ["matmul", "matmul_transposed"])
def test_float32_is_never_multiplied_in_tf32(name, no_gpu):
    function, *arguments = CALLS[name]
    with _choice.forced("dense"):
        text = exported(function, *arguments)
    (dot,) = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert "precision = [HIGHEST, HIGHEST]" in dot


def test_scores_of_many_tokens_come_from_one_block_of_rows_after_the_other(no_gpu, monkeypatch):
    monkeypatch.setattr(_choice, "BLOCK_ELEMENTS", 16 * IN)
    monkeypatch.setattr(_choice, "BLOCK_ROWS", 16)
    function, *arguments = COMPOSED["correlate"]
    with _choice.forced("blocked"):
        text = exported(function, *arguments)
    assert "@ternax_correlate(" not in text
    assert re.findall(r"@ternax_correlate_dense\(.*", text)
    assert "stablehlo.while" in text
    dots = re.findall(r"stablehlo.dot_general.*-> (tensor<.*>)", text)
    assert set(dots) == {f"tensor<16x{IN}xf32>", f"tensor<{OUT % 16}x{IN}xf32>"}, "never the whole gradient"


@pytest.mark.parametrize("name", ["matmul", "matmul_transposed", "correlate"])
def test_few_tokens_keep_their_own_kernels(name, no_gpu):
    function, *arguments = CALLS[name]
    data = [of(a.shape, BF16 if a.dtype == jnp.float32 else a.dtype) for a in arguments]
    assert f"@ternax_{name}(" in exported(function, *data)


def test_a_weight_that_rounding_would_change_is_never_unpacked_for_a_product(no_gpu):
    function, x, trits, scale = COMPOSED["matmul"]
    with _choice.forced("dense"):
        assert "@ternax_matmul(" in exported(function, x, trits, of(scale.shape)), "float32 scales of bfloat16 activations"
        assert "@ternax_matmul(" in exported(function, of(x.shape, jnp.float16), trits, of(scale.shape))


def test_the_choice_is_that_of_the_card_or_of_the_newest_older_one(monkeypatch):
    table = {"sm_80": {"matmul": {"bfloat16": [[1, "fused"], [100, "dense"]]}}, "sm_100": {"matmul": {"bfloat16": [[50, "dense"]]}}}
    monkeypatch.setattr(_choice, "table", lambda: table)
    for capability, tokens, wanted in [
        ((8, 0), 99, "fused"),
        ((8, 9), 100, "dense"),
        ((9, 0), 60, "fused"),
        ((10, 3), 50, "dense"),
        ((10, 3), 49, "fused"),
        ((7, 5), 100, "dense"),
    ]:
        monkeypatch.setattr(_cuda, "_capabilities", lambda capability=capability: [capability])
        assert _choice.named("matmul", np.dtype(BF16), tokens) == wanted, (capability, tokens)
    assert _choice.named("correlate", np.dtype(BF16), 10**6) == "fused", "what the table does not know"


def test_the_committed_table_says_for_every_case_from_how_many_tokens_what_is_chosen():
    known = {"matmul": {"fused", "dense"}, "matmul_transposed": {"fused", "dense"}, "correlate": {"fused", "blocked"}}
    for architecture, found in _choice.table().items():
        assert found["measured"] or "estimate" in found["note"], architecture
        for operation, names in known.items():
            for dtype in ("float32", "bfloat16", "float16"):
                least, chosen = zip(*found[operation][dtype], strict=True)
                assert least[0] == 1
                assert list(least) == sorted(set(least))
                assert set(chosen) <= names


def composed(name, *operands, **params):
    """A composition, run here."""
    with _choice.forced("blocked" if name == "correlate" else "dense"):
        kernel = _choice.kernel(name, [jax.typeof(a) for a in operands])
    return jax.jit(functools.partial(kernel, ops.bind, group_size=GROUP, backend="native", **params))(*operands)


@pytest.mark.parametrize("dtype", [jnp.float32, BF16])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_products_with_an_unpacked_weight_are_those_of_the_reference(dtype, lead):
    random = np.random.default_rng(5)
    members = lead or (1,)
    ternary = jnp.stack(
        [reference.pack(jnp.asarray(random.integers(-1, 2, (OUT, IN)), jnp.int8), group_size=GROUP) for _ in range(members[0])]
    )
    scale = jnp.asarray(random.uniform(0.5, 1.5, (*members, OUT, GROUPS)), dtype)
    trits, scale = ternary.reshape(*lead, OUT, GROUPS, BYTES), scale.reshape(*lead, OUT, GROUPS)
    x, dy = (jnp.asarray(random.normal(size=(*lead, 2, 5, size)), dtype) for size in (IN, OUT))
    for name, data, params in (("matmul", x, {}), ("matmul_transposed", dy, {"in_dim": IN})):
        for result in (None, np.dtype(np.float32)):
            found = composed(name, data, trits, scale, dtype=result, **params)
            wanted = getattr(reference, name)(data, trits, scale, group_size=GROUP, dtype=np.float32, **params)
            assert found.dtype == (result or dtype)
            tolerance = 1e-5 if found.dtype == jnp.float32 else 2**-7
            np.testing.assert_allclose(np.asarray(found, np.float64), np.asarray(wanted), rtol=tolerance, atol=40 * tolerance)


@pytest.mark.parametrize("rows", [8, 16, 64])
def test_scores_by_blocks_of_rows_are_those_of_the_whole(rows, monkeypatch):
    monkeypatch.setattr(_choice, "BLOCK_ELEMENTS", rows * IN)
    monkeypatch.setattr(_choice, "BLOCK_ROWS", rows)
    random = np.random.default_rng(6)
    trits = reference.pack(jnp.asarray(random.integers(-1, 2, (OUT, IN)), jnp.int8), group_size=GROUP)
    x, dy = (jnp.asarray(random.integers(-4, 5, (2, 7, size)) / 4, jnp.float32) for size in (IN, OUT))
    score, votes = composed("correlate", x, dy, trits)
    assert np.array_equal(score, reference.correlate(x, dy, trits, group_size=GROUP)[0])
    assert votes == 1


def test_scratch_holds_one_partial_result_for_each_part_of_the_contraction():
    def elements(tokens, in_dim, out):
        groups = -(-in_dim // GROUP)
        operands = [of((tokens, in_dim)), of((out, groups, BYTES), jnp.uint8), of((out, groups))]
        return _cuda.scratch("matmul", operands, [of((tokens, out))], {"group_size": np.int64(GROUP)})

    assert elements(4096, 4096, 4096) == 1, "enough tiles: nothing is split"
    assert elements(1, 8192, 64) % 64 == 0
    assert elements(1, 8192, 64) > 64


def test_a_wrong_description_is_an_error_that_names_the_argument():
    operands = [of((2, IN)), of((OUT, GROUPS, BYTES + 1), jnp.uint8), SCALE]
    with pytest.raises(ValueError, match="matmul: trits must be"):
        _cuda.scratch("matmul", operands, [of((2, OUT))], {"group_size": np.int64(GROUP)})


@pytest.fixture
def capability(monkeypatch):
    """A card of another compute capability."""
    _cuda.problem.cache_clear()
    monkeypatch.setenv("TERNAX_CUDA", "1")
    yield lambda *found: monkeypatch.setattr(_cuda, "_capabilities", lambda: [*found])
    _cuda.problem.cache_clear()


def test_a_card_that_is_too_old_gets_plain_jax_numpy_and_one_warning(capability):
    capability((9, 0), (7, 5))
    function, *arguments = CALLS["unpack"]
    with pytest.warns(UserWarning, match=r"compute capability 7\.5 is below 8\.0.*plain jax\.numpy"):
        assert "@ternax_" not in exported(function, *arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "@ternax_" not in exported(function, *arguments)


def test_a_new_enough_card_with_a_compiler_gets_the_kernels(capability):
    capability((8, 0))
    function, *arguments = CALLS["unpack"]
    assert "@ternax_unpack" in exported(function, *arguments)


def test_kernels_that_no_card_has_proven_run_only_where_they_are_asked_for(capability, monkeypatch):
    capability((9, 0))
    monkeypatch.delenv("TERNAX_CUDA")
    function, *arguments = CALLS["unpack"]
    with pytest.warns(UserWarning, match=r"not been proven on a card yet; TERNAX_CUDA=1 turns them on.*plain jax\.numpy"):
        assert "@ternax_" not in exported(function, *arguments)


# A layer whose contractions are split where tokens are few: forward, backward and over the tokens.
WIDE, TALL = 2048, 1024
LAYER = of((TALL, WIDE // GROUP, BYTES), jnp.uint8), of((TALL, WIDE // GROUP))
PRODUCTS = {
    "matmul": (CALLS["matmul"][0], (WIDE,), LAYER),
    "matmul_transposed": (lambda *a: tx.ops.matmul_transposed(*a, in_dim=WIDE, group_size=GROUP), (TALL,), LAYER),
    "correlate": (CALLS["correlate"][0], (WIDE, TALL), LAYER[:1]),
}


def activations(name, dtype, *lead):
    """The operands of a call with these leading dimensions."""
    _, widths, weight = PRODUCTS[name]
    return *(of((*lead, width), dtype) for width in widths), *weight


def scratch_of(name, dtype, *lead):
    """Elements that a call with these leading dimensions needs."""
    operands = activations(name, dtype, *lead)
    results = jax.eval_shape(PRODUCTS[name][0], *operands)
    return _cuda.scratch(name, operands, results if isinstance(results, tuple) else (results,), {"group_size": np.int64(GROUP)})


def most_scratch(text, name):
    (call,) = re.findall(rf"@ternax_{name}\(.*-> *(.*)", text)
    assert call.count("tensor<") == ops.OPERATIONS[name].results + 1
    return int(re.findall(r"tensor<(\d+)xf32>", call)[-1])


@pytest.mark.parametrize("dtype", [jnp.float32, BF16, jnp.float16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_calls_of_any_number_of_tokens_have_scratch_for_every_number(name, dtype, no_gpu):
    lead = jax.export.symbolic_shape("batch, length")
    most = most_scratch(exported(PRODUCTS[name][0], *activations(name, dtype, *lead)), name)
    needed = [scratch_of(name, dtype, batch, length) for batch in (1, 2, 13, 128, 1000) for length in (1, 5, 16, 128, 4096)]
    assert 1 < max(needed) <= most < 2**23


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_program_of_any_number_of_tokens_keeps_the_call_and_its_scratch_once_the_number_is_known(name, no_gpu):
    """What XLA does with the program before it compiles it: the sizes are put in."""
    from jax._src.interpreters.mlir import module_to_bytecode
    from jax._src.lib import _jax
    from jax.extend.mlir import ir

    lead = jax.export.symbolic_shape("batch, length")
    checks = [jax.export.DisabledSafetyCheck.custom_call(target) for target in TARGETS]
    anew = jax.jit(functools.partial(PRODUCTS[name][0]))
    program = jax.export.export(anew, platforms=["cuda"], disabled_checks=checks)(*activations(name, jnp.float32, *lead))
    most = most_scratch(program.mlir_module(), name)
    for lead in [(1, 1), (3, 7), (2, 520)]:
        lowered = jax.jit(program.call).trace(*activations(name, jnp.float32, *lead)).lower(lowering_platforms=("cuda",))
        module = lowered.compiler_ir("stablehlo")
        refined = _jax.mlir.refine_polymorphic_shapes(module_to_bytecode(module), True, True)
        with module.context:
            text = str(ir.Module.parse(refined))
        assert "tensor<?" not in text
        assert most_scratch(text, name) == most
        assert scratch_of(name, jnp.float32, *lead) <= most


def test_calls_of_other_symbolic_sizes_are_plain_jax_numpy_where_their_scratch_is_unknown(no_gpu):
    function, x, _, _ = CALLS["matmul"]
    (out,) = jax.export.symbolic_shape("out")
    trits, scale = of((out, GROUPS, BYTES), jnp.uint8), of((out, GROUPS))
    assert "@ternax_" not in exported(function, x, trits, scale)
    assert "@ternax_unpack" in exported(CALLS["unpack"][0], trits), "no scratch"


def test_without_a_compiler_the_reason_is_said_once_and_plain_jax_numpy_runs(tmp_path):
    code = """
import sys, warnings
sys.path.insert(0, "tests/python")
import test_cuda as t
t._cuda._capabilities = lambda: [(9, 0)]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    function, *arguments = t.CALLS["pack"]
    print("@ternax_" in t.exported(function, *arguments), "@ternax_" in t.exported(function, *arguments))
print(*[str(w.message) for w in caught if "ternax" in str(w.message)], sep="\\n")
"""
    environment = {**os.environ, "TERNAX_CUDA": "1", "TERNAX_NVRTC": str(tmp_path / "missing.so")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    native, *messages = result.stdout.splitlines()
    assert native == "False False"
    assert len(messages) == 1
    assert re.search(r"libnvrtc was not found; install nvidia-cuda-nvrtc.*missing\.so.*plain jax\.numpy", messages[0])


STUBS = pathlib.Path(__file__).parents[1] / "cuda" / "stubs"
# Codes of XLA_FFI_Error_Code.
DONE, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL = 0, 3, 8, 13


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """Builds what stands in for a library of CUDA's, or for XLA."""
    folder = tmp_path_factory.mktemp("stubs")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler on Linux")

    def build(source, name, *options):
        library = folder / name
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", f"-Wl,-soname,{name}", f"-isystem{jax.ffi.include_dir()}"]
        subprocess.run([compiler, *flags, *options, str(STUBS / source), "-o", str(library)], check=True)
        return str(library)

    return build


def handler_calls(stub, folder, code, driver=None):
    """What ``code`` prints, which calls the handlers of ``pack`` in a process with a driver's stand-in."""
    before = f"""
import ctypes, sys
driver = {driver!r} and ctypes.CDLL({driver!r}, ctypes.RTLD_GLOBAL)
from ternax import _library
stages = _library.functions()["CUDA", "ternax_pack"]
frame = ctypes.CDLL({stub("frame.cc", "frame.so")!r}).frame_call
def call(stage, group_size={GROUP}):
    message = ctypes.create_string_buffer(2048)
    arguments = ctypes.c_void_p(stages[stage]), {{"initialize": 2, "execute": 3}}[stage], ctypes.c_int64(group_size)
    print(frame(*arguments, message, ctypes.c_size_t(2048)), message.value.decode())
"""
    named = {"TERNAX_NVRTC": stub("nvrtc.cc", "named.so"), "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", before + code], check=False, capture_output=True, text=True, env=os.environ | named)
    assert result.returncode == 0, result.stderr
    found = [line.partition(" ") for line in result.stdout.splitlines()]
    return [(int(answer), message) for answer, _, message in found]


def test_a_cuda_call_that_runs_where_there_is_no_driver_is_an_error_not_an_abort(stub, tmp_path):
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a driver")
    for code, message in handler_calls(stub, tmp_path, "call('initialize'); call('execute')"):
        assert code == INTERNAL
        assert "no CUDA driver was found" in message


def test_every_failure_of_a_cuda_call_has_its_code_and_the_process_lives(stub, tmp_path):
    calls = """
driver.stub_reset(13000, 9, 0, 132)
call("execute")
call("initialize")
call("execute")
call("initialize", 0)
driver.stub_fail(b"launch", 2)
call("execute")
driver.stub_fail(b"launch", 719)
call("execute")
call("execute")
"""
    (early, ready, done, wrong, full, failed, again) = handler_calls(stub, tmp_path, calls, stub("driver.cc", "libcuda.so"))
    assert early[0] == INTERNAL
    assert "not initialised" in early[1]
    assert ready == done == again == (DONE, "")
    assert wrong[0] == INVALID_ARGUMENT
    assert "group_size must be at least 1" in wrong[1]
    assert full[0] == RESOURCE_EXHAUSTED
    assert "out of memory" in full[1]
    assert failed[0] == INTERNAL
    assert "fails to launch Pack" in failed[1]


def test_a_panic_in_a_cuda_call_is_an_internal_error(stub, tmp_path):
    """A driver without one of its functions is a panic where that is looked up."""
    driver = stub("driver.cc", "libcuda.so", "-DcuLaunchKernel=cuLaunchNothing")
    calls = "driver.stub_reset(13000, 9, 0, 132); call('initialize'); call('execute'); call('execute')"
    ready, *panics = handler_calls(stub, tmp_path, calls, driver)
    assert ready == (DONE, "")
    for code, message in panics:
        assert code == INTERNAL
        assert "internal error in a ternax kernel" in message


def test_importing_ternax_looks_up_nothing_of_cuda():
    code = """
import ternax, jax, jax.numpy as jnp
w = ternax.init(jax.random.key(0), 64, 8)
jax.block_until_ready(ternax.linear(w, jnp.ones((2, 64))))
maps = open("/proc/self/maps").read() if __import__("os").path.exists("/proc/self/maps") else ""
print("nvrtc" in maps, "libcuda.so" in maps)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
