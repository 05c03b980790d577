//! The command `ternax`: what it prints and which exit code it gives.

mod checkpoint_files;
mod common;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use checkpoint_files::{LayerFile, Piece, opened, safetensors, torch_file};
use common::Random;
use safetensors::Dtype;
use ternax::cli::{FAILURE, SUCCESS, USAGE, run};

/// A folder with checkpoints in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(self, name: &str, file: Vec<u8>) -> Self {
        fs::write(self.path(name), file).unwrap();
        self
    }

    /// Runs the command in words, of which those that start with `@` are files in this folder.
    fn run(&self, line: &str) -> (u8, String, String) {
        let word = |word: &str| word.strip_prefix('@').map_or(OsString::from(word), |name| self.path(name).into());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(line.split_whitespace().map(word), &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }
}

/// A layer whose statistics are known: trits -1 0 1 | 1 0 0 in one group per row, correlations 3 and -9 after 4 steps.
fn known() -> LayerFile {
    LayerFile { corr: vec![3, -9], step: 4, ..LayerFile::of_trits(&[-1, 0, 1, 1, 0, 0], 2, 3, 3) }
}

#[test]
fn inspect_counts_trits_without_the_padding_in_both_layouts() {
    let folder = Folder::new().with("torch", torch_file(&[("fc", &known())], &[("group_size", "3")]));
    assert_eq!(folder.run("convert @torch @ternax --to ternax").0, SUCCESS);
    for name in ["torch", "ternax"] {
        let (code, out, err) = folder.run(&format!("inspect @{name} --json"));
        assert_eq!((code, &err[..]), (SUCCESS, ""));
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["layout"], name);
        let layer = &report["layers"][0];
        assert_eq!(layer["trits"], serde_json::json!({ "-1": 1, "0": 3, "+1": 2 }));
        assert_eq!(
            (&layer["name"], &layer["out_dim"], &layer["in_dim"], &layer["group_size"]),
            (&"fc".into(), &2.into(), &3.into(), &3.into())
        );
        assert_eq!((&layer["step"], &layer["bias"]), (&serde_json::json!([4]), &serde_json::Value::Null));
        // (3 - 9) / (4 steps * 3 inputs) over 2 groups.
        assert_eq!(layer["mean_correlation"], -0.25);
        // Trits: 2 bytes in either layout; exponents 2, correlations 16, step 8; 6 weights.
        assert_eq!(layer["bits_per_weight"], 8.0 * 28.0 / 6.0);
    }
}

#[test]
fn inspect_shows_layers_and_dense_tensors_to_a_person() {
    let mut pieces = known().torch("");
    pieces.push(("embed.weight".into(), Piece::new(Dtype::BF16, &[2, 1], vec![0; 4])));
    let folder = Folder::new().with("file", safetensors(&pieces, &[]));
    let (code, out, _) = folder.run("inspect @file --group-size 3");
    assert_eq!(code, SUCCESS);
    for text in
        ["torch layout, 1 layer of 6 weights, 1 dense tensor", "(unnamed)", "2 x 3", "-0.250000", "16.7 %", "50.0 %", "33.3 %", "BF16"]
    {
        assert!(out.contains(text), "{text:?} is not in\n{out}");
    }
}

#[test]
fn inspect_takes_a_layer_without_weights() {
    let folder = Folder::new().with("file", torch_file(&[("a", &LayerFile::new(0, 7, 4))], &[("group_size", "4")]));
    assert_eq!(folder.run("inspect @file").0, SUCCESS);
    let report: serde_json::Value = serde_json::from_str(&folder.run("inspect @file --json").1).unwrap();
    assert_eq!(report["layers"][0]["bits_per_weight"], serde_json::Value::Null);
}

#[test]
fn verify_tells_sound_layers_from_broken_ones() {
    let sound = LayerFile::random(3, 7, 4, &mut Random::new(1));
    let at_the_limit = LayerFile { corr: vec![12, -12], step: 4, ..known() };
    let beyond = LayerFile { corr: vec![12, -13], step: 4, ..known() };
    let sizes = [("a.group_size", "4"), ("b.group_size", "3"), ("c.group_size", "3")];
    let folder = Folder::new()
        .with("sound", torch_file(&[("a", &sound), ("b", &at_the_limit)], &sizes))
        .with("broken", torch_file(&[("a", &sound), ("b", &at_the_limit), ("c", &beyond)], &sizes));
    let (code, out, _) = folder.run("verify @sound");
    assert_eq!((code, out.lines().count()), (SUCCESS, 3), "{out}");
    let (code, out, _) = folder.run("verify @broken");
    assert_eq!(code, FAILURE);
    assert!(
        out.contains(
            "a: sound\nb: sound\nc: BROKEN: tensor \"c.corr_accum\" must stay within step * group_size = 12, found -13 at index 1"
        ),
        "{out}"
    );
}

#[test]
fn verify_names_what_is_wrong_in_a_layer() {
    let mut layer = known();
    layer.flat[0] = 250;
    let folder = Folder::new().with("file", torch_file(&[("a", &layer)], &[("group_size", "3")])).with("cut", vec![1, 2, 3]);
    let (code, out, _) = folder.run("verify @file");
    assert_eq!(code, FAILURE);
    assert!(out.contains("a: BROKEN: tensor \"a.T_packed\" must hold packed trits, at most 242 each, found 250 at byte 0"), "{out}");
    let (code, out, err) = folder.run("verify @cut");
    assert_eq!((code, &out[..]), (FAILURE, ""));
    assert!(err.contains("a file of 3 bytes"), "{err}");
}

#[test]
fn convert_goes_both_ways_without_loss() {
    let layers = [LayerFile::random(3, 7, 4, &mut Random::new(2)), LayerFile::random(2, 33, 4, &mut Random::new(3))];
    let file = torch_file(&[("a", &layers[0]), ("b.c", &layers[1])], &[]);
    let folder = Folder::new().with("in", file.clone());
    let (code, out, err) = folder.run("convert @in @middle --to ternax --group-size 4");
    assert!(code == SUCCESS && out.contains("ternax layout, 2 layers of 87 weights"), "{out}{err}");
    assert_eq!(folder.run("convert @middle @out --to=torch").0, SUCCESS);
    assert_eq!(opened(&fs::read(folder.path("out")).unwrap(), None), opened(&file, Some(4)));
}

#[test]
fn a_failed_conversion_leaves_the_old_file() {
    let folder = Folder::new().with("in", torch_file(&[("a", &known())], &[])).with("out", b"old".to_vec());
    let (code, _, err) = folder.run("convert @in @out --to ternax");
    assert!(code == FAILURE && err.contains("group_size must be given"), "{err}");
    assert_eq!(fs::read(folder.path("out")).unwrap(), b"old");
}

#[test]
fn a_wrong_command_line_is_told_from_a_wrong_file() {
    let folder = Folder::new().with("file", torch_file(&[("a", &known())], &[("group_size", "3")]));
    for (line, wanted) in [
        ("", "a command is missing"),
        ("look @file", "\"look\" is no command"),
        ("inspect", "FILE is missing"),
        ("inspect @file @file", "one argument too many"),
        ("inspect @file --frob", "invalid option '--frob'"),
        ("verify @file --json", "--json belongs to inspect"),
        ("inspect @file --to torch", "--to belongs to convert"),
        ("convert @file", "OUT is missing"),
        ("convert @file @out", "--to torch or --to ternax is missing"),
        ("convert @file @out --to jax", "--to must be torch or ternax, found \"jax\""),
        ("inspect @file --group-size 0", "--group-size must be a whole number of at least 1, found \"0\""),
        ("inspect @file --group-size", "missing argument"),
    ] {
        let (code, out, err) = folder.run(line);
        assert_eq!((code, &out[..]), (USAGE, ""), "{line}: {err}");
        assert!(err.contains(wanted) && err.contains("--help"), "{line}: {err}");
    }
    let (code, _, err) = folder.run("inspect @none");
    assert!(code == FAILURE && err.contains("none"), "{err}");
}

#[test]
fn help_and_version_are_answers_and_no_errors() {
    let folder = Folder::new();
    for line in ["--help", "-h", "inspect --help", "verify -h"] {
        let (code, out, err) = folder.run(line);
        assert_eq!((code, &err[..]), (SUCCESS, ""));
        assert!(["inspect", "verify", "convert", "--group-size"].iter().all(|word| out.contains(word)), "{out}");
    }
    assert_eq!(folder.run("--version").1, format!("ternax {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ternax")).arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stderr, b"");
}
