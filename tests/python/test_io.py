"""Checkpoints from Python: the reference's bytes, whole trees, and errors that leave the old file whole."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import ternax as tx
from ternax import limbs

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "golden.safetensors"
SHAPES = [(1, 1, 1), (1, 1, 32), (3, 7, 4), (5, 9, 100), (4, 6, 1), (2, 33, 32), (0, 8, 4), (17, 40, 8), (12, 101, 24)]


def flat_pack(trits):
    """SPEC 1 to 3: one run over the matrix, least significant first, digit 0 behind it."""
    digits = trits.reshape(-1).astype(int) + 1
    return (np.pad(digits, (0, -digits.size % 5)).reshape(-1, 5) @ [1, 3, 9, 27, 81]).astype(np.uint8)


def state_dict(trits, group_size, corr, step, exponent, prefix=""):
    """What the reference's buffers hold."""
    groups = trits.shape[0] * -(-trits.shape[1] // group_size)
    assert corr.size == exponent.size == groups
    buffers = {
        "T_packed": flat_pack(trits),
        "_T_shape": np.array(trits.shape, np.int64),
        "_T_pad": np.array(-trits.size % 5, np.int64),
        "E": exponent.reshape(-1),
        "corr_accum": corr.reshape(-1),
        "step_counter": np.array([step], np.int64),
    }
    return {prefix + name: value for name, value in buffers.items()}


def random_state(out_dim, in_dim, group_size, seed=0):
    r = np.random.default_rng(seed)
    groups = -(-in_dim // group_size)
    step = int(r.integers(1, 1 << 40))
    corr = r.integers(-step, step + 1, (out_dim, groups)) * group_size
    return r.integers(-1, 2, (out_dim, in_dim)), group_size, corr, step, r.integers(-128, 128, (out_dim, groups)).astype(np.int8)


def weight_of(trits, group_size, corr, step, exponent):
    return tx.from_trits(trits, group_size=group_size, corr=corr, step=step, exponent=exponent)


def assert_equal(found, wanted):
    def plain(leaf):
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (keys, leaf), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        assert type(leaf) is type(other), keys
        assert getattr(leaf, "dtype", None) == getattr(other, "dtype", None), keys
        values, others = np.asarray(plain(leaf)), np.asarray(plain(other))
        assert values.shape == others.shape, keys
        assert values.tobytes() == others.tobytes(), keys


# ------------------------------------------------------------------------------------------------- the reference's files
@pytest.mark.parametrize("shape", SHAPES)
def test_save_torch_writes_the_reference_s_bytes_and_load_torch_reads_them(tmp_path, shape):
    state = random_state(*shape)
    w = weight_of(*state)
    tx.save_torch(tmp_path / "ours", {"model.fc": w})
    wanted = state_dict(*state, prefix="model.fc.")
    found = safetensors.numpy.load_file(tmp_path / "ours")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape, found[name].tobytes()) == (value.dtype, value.shape, value.tobytes()), name
    with safetensors.safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata()["group_size"] == str(shape[2])

    safetensors.numpy.save_file(wanted, tmp_path / "theirs")
    assert_equal(tx.load_torch(tmp_path / "theirs", group_size=shape[2]), {"model.fc": w})
    assert_equal(tx.load_torch(tmp_path / "ours"), {"model.fc": w})


def test_one_weight_alone_has_no_prefix_and_comes_back_alone(tmp_path):
    state = random_state(3, 7, 4)
    tx.save_torch(tmp_path / "file", weight_of(*state))
    assert safetensors.numpy.load_file(tmp_path / "file").keys() == state_dict(*state).keys()
    assert_equal(tx.load_torch(tmp_path / "file"), weight_of(*state))


def test_tensors_beside_the_layers_come_along_as_numpy_arrays(tmp_path):
    dense = {"embed.weight": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3), "count": np.array(1 << 40)}
    weights = {"a": weight_of(*random_state(3, 7, 4)), "b.norm": tx.init_norm(jax.random.key(0), 13, group_size=4), **dense}
    tx.save_torch(tmp_path / "file", weights)
    assert_equal(tx.load_torch(tmp_path / "file"), weights)


def test_every_layer_may_have_a_group_size_of_its_own(tmp_path):
    weights = {"a": weight_of(*random_state(3, 7, 4)), "b": weight_of(*random_state(3, 7, 5))}
    tx.save_torch(tmp_path / "file", weights)
    assert_equal(tx.load_torch(tmp_path / "file"), weights)


def test_golden_layers_of_the_reference_come_back_byte_for_byte(tmp_path):
    golden = safetensors.numpy.load_file(GOLDEN)
    names = [name.removesuffix("/T_packed") for name in golden if name.endswith("/T_packed") and name.replace("T_packed", "xs") in golden]
    assert len(names) > 5
    with safetensors.safe_open(GOLDEN, "np") as file:
        cases = json.loads(file.metadata()["cases"])
    for name in names:
        case = cases[name]
        shape = [case["out_dim"], case["in_dim"]]
        state = {
            "T_packed": golden[f"{name}/T_packed"],
            "_T_shape": np.array(shape, np.int64),
            "_T_pad": np.array(-np.prod(shape) % 5, np.int64),
            "E": golden[f"{name}/E"],
            "corr_accum": golden[f"{name}/corr_in"],
            "step_counter": golden[f"{name}/step_in"],
        }
        if f"{name}/bias" in golden:
            state["bias"] = golden[f"{name}/bias"]
        safetensors.numpy.save_file(state, tmp_path / "theirs")
        tx.save_torch(tmp_path / "ours", tx.load_torch(tmp_path / "theirs", group_size=case["group_size"]))
        found = safetensors.numpy.load_file(tmp_path / "ours")
        assert found.keys() == state.keys()
        for part, value in state.items():
            assert (found[part].dtype, found[part].shape, found[part].tobytes()) == (value.dtype, value.shape, value.tobytes()), (
                name,
                part,
            )


def test_a_group_size_that_is_missing_or_wrong_is_named(tmp_path):
    safetensors.numpy.save_file(state_dict(*random_state(3, 7, 4), prefix="fc."), tmp_path / "file")
    with pytest.raises(ValueError, match=r'file: group_size must be given for layer "fc".*from 4 to 6 fits'):
        tx.load_torch(tmp_path / "file")
    with pytest.raises(ValueError, match=r'"fc.E" must have 3 x ceil\(7 / group_size 7\) = 3 elements, found 6'):
        tx.load_torch(tmp_path / "file", group_size=7)
    for size in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"group_size must be a whole number of at least 1, got {size}"):
            tx.load_torch(tmp_path / "file", group_size=size)


def test_what_the_reference_does_not_have_is_refused(tmp_path):
    w = weight_of(*random_state(3, 7, 4))
    stack = jax.tree.map(lambda leaf: leaf[None], w)
    for wrong, why in (
        (stack, "one matrix"),
        (dataclasses.replace(w, gain=2.0), "gain 4"),
        (dataclasses.replace(w, bias=jnp.zeros(3)), "int32 bias"),
    ):
        with pytest.raises(ValueError, match=why):
            tx.save_torch(tmp_path / "file", wrong)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------- whole trees
class Moments(NamedTuple):
    count: jax.Array
    mean: dict


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    linear: tx.TernaryWeight
    scale: jax.Array


def whole_tree():
    key = jax.random.key(3)
    with_bias = dataclasses.replace(weight_of(*random_state(4, 9, 4)), bias=jnp.arange(4, dtype=jnp.bfloat16))
    dtypes = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8, jnp.int16, jnp.int32, jnp.uint8, jnp.uint16, jnp.uint32, jnp.bool_]
    dtypes += [jnp.complex64, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e4m3b11fnuz, jnp.int4, jnp.uint4]
    return {
        "blocks": [Block(weight_of(*random_state(3, 7, 4)), jnp.ones((2, 3), jnp.bfloat16)), Block(with_bias, jnp.float32(2.5))],
        "norm": tx.init_norm(key, 13),
        "compact": tx.compact(tx.init(key, 8, 2, bias=True)),
        "stack": jax.vmap(lambda k: tx.init(k, 10, 3, group_size=5, gain=2.0))(jax.random.split(key, 4)),
        "optimizer": Moments(jnp.int32(7), {"a": None, "b": jnp.zeros((0, 3))}),
        "dtypes": [jnp.arange(-3, 3).astype(dtype).reshape(2, 3) for dtype in dtypes],
        "host": (np.array([1 << 40, -1]), np.float64(0.1).reshape(()), np.arange(6.0).reshape(2, 3).T, np.array([1 + 2j])),
        "python": [True, 3, 0.25],
        "keys": (key, jax.random.split(key, 3), jax.random.key(1, impl="rbg")),
        "empty": {},
    }


def blank(leaf):
    """A leaf of the same kind that holds none of the values."""
    if isinstance(leaf, bool | int | float):
        return type(leaf)(0)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else np.zeros_like(leaf)


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = whole_tree()
    tx.save(tmp_path / "file", tree)
    assert_equal(tx.load(tmp_path / "file", jax.tree.map(blank, tree)), tree)


def test_shapes_without_values_are_enough_to_load(tmp_path):
    tree = {"w": weight_of(*random_state(3, 7, 4)), "b": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(5)}
    tx.save(tmp_path / "file", tree)
    assert_equal(tx.load(tmp_path / "file", jax.eval_shape(lambda: tree)), tree)


def test_the_same_tree_gives_the_same_file(tmp_path):
    tx.save(tmp_path / "a", whole_tree())
    tx.save(tmp_path / "b", whole_tree())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_state_is_stored_as_true_int64_and_zeros_are_not_stored(tmp_path):
    state = random_state(3, 7, 4)
    tx.save(tmp_path / "file", {"w": weight_of(*state)})
    found = safetensors.numpy.load_file(tmp_path / "file")
    assert found.keys() == {"w.trits", "w.exponent", "w.corr", "w.step"}
    assert found["w.corr"].dtype == np.int64
    np.testing.assert_array_equal(found["w.corr"], state[2])
    assert found["w.step"] == state[3]


def test_score_leaves_come_back_as_like_has_them(tmp_path):
    w = weight_of(*random_state(3, 7, 4))
    tx.save(tmp_path / "file", w)
    assert tx.load(tmp_path / "file", tx.compact(w)).score is None
    tx.save(tmp_path / "file", tx.compact(w))
    assert_equal(tx.load(tmp_path / "file", w), w)


def test_leaves_come_back_with_the_sharding_of_like(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("rows",))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    w = weight_of(*random_state(8, 7, 4))
    sharded = jax.tree.map(lambda leaf: jax.device_put(leaf, by_rows if leaf.shape[:1] == (8,) else everywhere), w)
    tx.save(tmp_path / "file", sharded)
    loaded = tx.load(tmp_path / "file", sharded)
    assert_equal(loaded, sharded)
    assert loaded.corr.sharding == loaded.score.sharding == by_rows
    assert loaded.step.sharding == everywhere


def test_a_file_of_the_reference_loads_into_a_tree_too(tmp_path):
    weights = {"a": weight_of(*random_state(3, 7, 4)), "b": [weight_of(*random_state(2, 9, 4))]}
    tx.save_torch(tmp_path / "file", weights)
    assert_equal(tx.load(tmp_path / "file", weights), weights)


def test_all_differences_from_like_are_named_at_once(tmp_path):
    w = weight_of(*random_state(3, 7, 4))
    tx.save(tmp_path / "file", {"w": w, "v": w, "x": jnp.ones(3), "y": jnp.ones(2), "more": [w]})
    like = {"w": dataclasses.replace(w, gain=2.0), "v": weight_of(*random_state(3, 7, 5)), "x": jnp.ones(3, jnp.bfloat16), "z": 1, "u": w}
    with pytest.raises(ValueError, match="does not hold a tree like") as error:
        tx.load(tmp_path / "file", like)
    for line in (
        "w.gain: found 4.0, wanted 2.0",
        "v.group_size: found 4, wanted 5",
        "x: found float32 [3], wanted bfloat16 [3]",
        "z: missing, wanted int64 []",
        "u: missing, wanted a ternary weight",
        "y: extra",
        "more.0: extra, a ternary weight",
    ):
        assert line in str(error.value), error.value


def test_an_int64_that_jax_would_cut_is_an_error(tmp_path):
    tx.save(tmp_path / "file", {"n": np.array([1 << 40])})
    with pytest.raises(ValueError, match="which jax cuts to int32 while x64 is off"):
        tx.load(tmp_path / "file", {"n": jax.ShapeDtypeStruct((1,), np.int64)})


# ------------------------------------------------------------------------------------------------------------------- errors
def test_a_state_that_no_layer_can_have_is_not_saved_and_the_old_file_stays(tmp_path):
    w = weight_of(*random_state(3, 7, 4))
    tx.save(tmp_path / "file", {"w": w})
    old = (tmp_path / "file").read_bytes()
    refused = dataclasses.replace(w, step=jnp.asarray(limbs.from_host(np.int64(-1))))
    bytes_243 = dataclasses.replace(w, trits=w.trits.at[0, 0, 0].set(243))
    padding = dataclasses.replace(w, trits=w.trits.at[0, 1, 0].set(0))
    cast = dataclasses.replace(w, corr=w.corr.astype(jnp.float32))
    for wrong, kind, why in (
        (refused, ValueError, r'"w.step" must not be negative'),
        (bytes_243, ValueError, r'w.trits"? must hold packed trits, at most 242 each, found 243'),
        (padding, ValueError, r'"w.trits" must hold trit 0 after the 3 trits'),
        (cast, TypeError, r"w.corr must be int32"),
    ):
        with pytest.raises(kind, match=why):
            tx.save(tmp_path / "file", {"w": wrong})
    with pytest.raises(TypeError, match="'f': a leaf must be a ternary weight, an array or a number, got builtin_function_or_method"):
        tx.save(tmp_path / "file", {"f": print})
    with pytest.raises(TypeError, match="'t': arrays of dtype <U1 cannot be stored"):
        tx.save(tmp_path / "file", {"t": np.array("x")})
    with pytest.raises(ValueError, match=r"two leaves of the tree have the path 'a\.b'"):
        tx.save(tmp_path / "file", {"a": {"b": 1}, "a.b": 2})
    assert (tmp_path / "file").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_the_system_s_refusals_are_its_own_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        tx.load_torch(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder"):
        tx.save(tmp_path / "folder" / "file", {"a": 1})
    with pytest.raises(ValueError, match="must be a regular file"):
        tx.load_torch(tmp_path)


def test_a_damaged_file_is_refused_by_both_loaders(tmp_path):
    w = weight_of(*random_state(3, 7, 4))
    tx.save(tmp_path / "whole", {"w": w})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-1])
    for load in (tx.load_torch, lambda path: tx.load(path, {"w": w})):
        with pytest.raises(ValueError, match=r"cut: tensor .* was the file cut"):
            load(tmp_path / "cut")


def test_a_stored_dtype_that_does_not_exist_is_refused(tmp_path):
    for name in ("int5", "finfo", "__version__", "object", "float32"):
        manifest = f'{{"version": 1, "layers": {{}}, "dtypes": {{"a": "{name}"}}}}'
        safetensors.numpy.save_file({"a": np.zeros((2, 4), np.uint8)}, tmp_path / "file", metadata={"ternax": manifest})
        with pytest.raises(ValueError, match=f"tensor 'a' must hold the bytes of {name}"):
            tx.load_torch(tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits the size of files")
def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    program = """
        import resource, signal, sys
        import numpy as np
        import ternax as tx

        path = sys.argv[1]
        tx.save(path, {"a": np.zeros(10)})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        try:
            tx.save(path, {"a": np.zeros(1 << 20)})
        except OSError as error:
            print("refused:", error.errno, error)
    """
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], capture_output=True, text=True, check=True)
    assert "refused: 27" in done.stdout, done
    np.testing.assert_array_equal(tx.load(path, {"a": np.zeros(10)})["a"], np.zeros(10))
    assert list(tmp_path.iterdir()) == [path]
