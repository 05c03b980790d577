"""The console script: the Rust command behind Python's arguments and exit codes."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import ternax as tx
from ternax import _cli


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs the console script in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ternax", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            _cli.main()
        return ended.value.code, *capfd.readouterr()

    return run


def test_inspect_tells_what_the_weight_tells(tmp_path, run):
    w = tx.init(jax.random.key(0), 33, 4, group_size=8)
    tx.save(tmp_path / "file", {"fc": w, "scale": np.ones(3, np.float32)})
    code, out, err = run("inspect", tmp_path / "file", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    (layer,) = report["layers"]
    assert (layer["name"], layer["out_dim"], layer["in_dim"], layer["group_size"], layer["step"]) == ("fc", 4, 33, 8, [0])
    trits = np.asarray(w.unpack())
    assert layer["trits"] == {"-1": (trits == -1).sum(), "0": (trits == 0).sum(), "+1": (trits == 1).sum()}
    # The file holds what the compact weight holds, but for the 4 bytes of `votes`.
    assert layer["bits_per_weight"] == pytest.approx(tx.compact(w).bits_per_weight() - 32 / trits.size)
    assert report["dense"] == [{"name": "scale", "dtype": "F32", "shape": [3]}]


def test_verify_and_convert_give_exit_codes(tmp_path, run):
    w = tx.from_trits(np.ones((2, 3), int), group_size=3, corr=np.array([[3], [-4]]), step=1)
    tx.save(tmp_path / "broken", {"fc": w})
    code, out, _ = run("verify", tmp_path / "broken")
    assert code == 1
    assert 'tensor "fc.corr" must stay within step * group_size = 3, found -4 at index 1' in out
    assert run("convert", tmp_path / "broken", tmp_path / "torch", "--to", "torch")[0] == 0
    np.testing.assert_array_equal(tx.load_torch(tmp_path / "torch")["fc"].corr_int64(), [[3], [-4]])
    assert run("verify", tmp_path / "none")[0] == 1
    assert run("convert", tmp_path / "broken")[0] == 2
    assert run("--help")[0] == 0


def test_a_reader_that_leaves_early_is_no_error():
    program = "from ternax._cli import main; main()"
    child = subprocess.Popen([sys.executable, "-c", program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.wait() == 0
    assert child.stderr.read() == b""
    child.stderr.close()
