"""Versions of jax: what is private lives in one module, and a newer jax that lacks it gets one warning instead of a failure."""

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import ternax as tx

PACKAGE = pathlib.Path(tx.__file__).parent

PROGRAM = textwrap.dedent(
    """
    import sys, types, warnings
    import jax, jax.extend.core, jax.experimental.custom_partitioning
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    warnings.simplefilter("always")
    owner, name = sys.modules[sys.argv[1]], sys.argv[2]
    lacking = types.ModuleType(owner.__name__)
    lacking.__dict__.update({k: v for k, v in vars(owner).items() if k != name})
    if name == "ShapedArray":
        lacking.ShapedArray = lambda *_: object()
        jax.core = lacking
    sys.modules[owner.__name__] = lacking
    with warnings.catch_warnings(record=True) as seen:
        import ternax as tx
        import ternax._compat
    sys.modules[owner.__name__] = owner
    if name == "ShapedArray":
        jax.core = owner

    import numpy as np, jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    random = np.random.default_rng(0)
    w = tx.from_trits(random.integers(-1, 2, (16, 64)), exponent=np.zeros((16, 2), int))
    x = random.integers(-2, 3, (8, 64)).astype(np.float32)
    step = lambda w, x, **options: tx.update(w, tx.grad(lambda w: jnp.sum(tx.linear(w, x, **options) ** 2))(w), votes=1)
    want = step(w, x).corr_int64()
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
        with jax.set_mesh(mesh):
            for rule in (P(), P("model"), P(None, "model")):
                placed = tx.shard(w, mesh, rule), jax.device_put(x, NamedSharding(mesh, P("data", *rule[1:])))
                assert np.array_equal(jax.jit(step)(*placed).corr_int64(), want), (kind, rule)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    inside = lambda w, x: step(w, x, axis_name="d")
    spread = jax.shard_map(inside, mesh=mesh, in_specs=(P(), P("d")), out_specs=P(), check_vma=False)
    assert np.array_equal(jax.jit(spread)(w, x).corr_int64(), want)
    print([str(w.message) for w in seen if "ternax" in str(w.message)], tx._compat.CAN_PARTITION)
    """
)


@pytest.mark.parametrize(
    ("module", "name", "consequence", "can_partition"),
    [
        ("jax._src.dispatch", "prim_requires_devices_during_lowering", "sharded operands are gathered", False),
        ("jax.experimental.custom_partitioning", "SdyShardingRule", "sharded operands are gathered", False),
        ("jax.core", "ShapedArray", "use check_vma=False and give axis_name", True),
    ],
)
def test_an_unknown_newer_jax_warns_once_and_stays_right(module, name, consequence, can_partition):
    """Failing at import would shut users out of every new jax; silence would hide gathers, or scores of one device's part."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, module, name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (warning,) = re.findall(r"^\[(['\"]ternax: jax .*)\] (?:True|False)$", result.stdout, re.MULTILINE)
    assert warning.count("ternax: jax") == 1
    assert consequence in warning
    assert result.stdout.rstrip().endswith(str(can_partition))


def test_private_and_experimental_names_of_jax_live_in_one_module():
    found = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"jax\._src|jax\.experimental|jax\.__version__", path.read_text())}
    assert found == {"_compat.py"}


def test_this_jax_lacks_nothing():
    program = "import warnings; warnings.simplefilter('error'); import ternax._compat; assert ternax._compat.CAN_PARTITION"
    subprocess.run([sys.executable, "-c", program], check=True)
