//! The command `ternax`: `inspect`, `verify` and `convert` checkpoints.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser, ValueExt};
use serde_json::json;

use crate::checkpoint::{self, Contents, File, Layer, Layout};

/// All is well.
pub const SUCCESS: u8 = 0;
/// The checkpoint is wrong, or could not be read or written.
pub const FAILURE: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;

const HELP: &str = "\
ternax: looks into, checks and converts checkpoints of ternary layers (safetensors files)

Usage:
  ternax inspect FILE [--json] [--group-size N]
  ternax verify FILE [--group-size N]
  ternax convert IN OUT --to torch|ternax [--group-size N]
  ternax --help | --version

Commands:
  inspect   shows each layer's shape, group size, gain, bits per weight in the file, step, mean correlation
            (mean over the groups of corr / (step * group_size)) and share of -1, 0 and +1
  verify    checks every invariant: dtypes, shapes, offsets, packed bytes at most 242, padding,
            step >= 0, |corr| <= step * group_size
  convert   writes the same layers in the other layout: torch, the PyTorch reference's state_dict,
            or ternax, where every group starts on a byte. OUT is replaced only once it is complete

Options:
  --json           inspect: prints JSON
  --to LAYOUT      convert: the layout to write
  --group-size N   inputs per group, for a file whose metadata does not hold it
  -h, --help       prints this
  -V, --version    prints the version

Exit code: 0 if all is well, 1 if a checkpoint is wrong or cannot be read or written, 2 for a wrong command line.
";

/// What a command line asks for.
enum Request {
    Help,
    Version,
    Inspect { file: PathBuf, json: bool, group_size: Option<usize> },
    Verify { file: PathBuf, group_size: Option<usize> },
    Convert { input: PathBuf, output: PathBuf, layout: Layout, group_size: Option<usize> },
}

/// Runs the command with `arguments`, the program's name not among them, and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let request = match parse(Parser::from_args(arguments)) {
        Ok(request) => request,
        Err(error) => {
            say(err, &format!("ternax: {error}\nTry 'ternax --help'.\n"));
            return USAGE;
        }
    };
    match answer(&request) {
        Ok((code, text)) => match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has seen enough, as `head` does.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                say(err, &format!("ternax: standard output: {error}\n"));
                FAILURE
            }
            _ => code,
        },
        Err(error) => {
            say(err, &format!("ternax: {error}\n"));
            FAILURE
        }
    }
}

/// Writes a message; where even that fails, the exit code alone has to tell.
fn say(err: &mut impl Write, text: &str) {
    let _ = err.write_all(text.as_bytes());
}

fn parse(mut parser: Parser) -> Result<Request, lexopt::Error> {
    let (mut words, mut json, mut to, mut group_size) = (Vec::new(), false, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Request::Help),
            Arg::Short('V') | Arg::Long("version") => return Ok(Request::Version),
            Arg::Long("json") => json = true,
            Arg::Long("to") => to = Some(parser.value()?.parse_with(layout)?),
            Arg::Long("group-size") => group_size = Some(parser.value()?.parse_with(positive)?),
            Arg::Value(word) => words.push(word),
            other => return Err(other.unexpected()),
        }
    }
    let mut words = words.into_iter();
    let command = words.next().ok_or("a command is missing: inspect, verify or convert")?.string()?;
    let mut file = |what: &str| words.next().map(PathBuf::from).ok_or(format!("{command}: {what} is missing"));
    let request = match &command[..] {
        "inspect" => Request::Inspect { file: file("FILE")?, json, group_size },
        "verify" => Request::Verify { file: file("FILE")?, group_size },
        "convert" => {
            let (input, output) = (file("IN")?, file("OUT")?);
            Request::Convert { input, output, layout: to.ok_or("convert: --to torch or --to ternax is missing")?, group_size }
        }
        _ => return Err(format!("{command:?} is no command: inspect, verify or convert").into()),
    };
    if let Some(word) = words.next() {
        return Err(format!("{command}: {word:?} is one argument too many").into());
    }
    match (&request, json, to) {
        (Request::Verify { .. } | Request::Convert { .. }, true, _) => Err(format!("{command}: --json belongs to inspect").into()),
        (Request::Inspect { .. } | Request::Verify { .. }, _, Some(_)) => Err(format!("{command}: --to belongs to convert").into()),
        _ => Ok(request),
    }
}

fn layout(text: &str) -> Result<Layout, String> {
    let known = [Layout::Torch, Layout::Ternax].into_iter().find(|layout| layout.name() == text);
    known.ok_or(format!("--to must be torch or ternax, found {text:?}"))
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..) => Ok(size),
        _ => Err(format!("--group-size must be a whole number of at least 1, found {text:?}")),
    }
}

/// The exit code and the text to print.
fn answer(request: &Request) -> checkpoint::Result<(u8, String)> {
    match request {
        Request::Help => Ok((SUCCESS, HELP.into())),
        Request::Version => Ok((SUCCESS, format!("ternax {}\n", env!("CARGO_PKG_VERSION")))),
        Request::Inspect { file, json, group_size } => {
            let open = File::open(file)?;
            let contents = open.contents(*group_size)?;
            contents.check().map_err(|fault| fault.of(file))?;
            Ok((SUCCESS, if *json { as_json(file, &contents) } else { as_table(file, &contents) }))
        }
        Request::Verify { file, group_size } => {
            let open = File::open(file)?;
            let contents = open.contents(*group_size)?;
            Ok(verify(file, &contents))
        }
        Request::Convert { input, output, layout, group_size } => {
            let open = File::open(input)?;
            let contents = open.contents(*group_size)?;
            checkpoint::save(output, &contents, *layout)?;
            Ok((SUCCESS, format!("{}: {} layout, {}\n", output.display(), layout.name(), count(&contents))))
        }
    }
}

/// One line per layer, with the first invariant that it breaks.
fn verify(file: &Path, contents: &Contents<'_>) -> (u8, String) {
    let mut text = String::new();
    let mut broken = 0;
    for layer in &contents.layers {
        let verdict = match layer.check().and_then(|()| layer.check_correlations()) {
            Ok(()) => "sound".into(),
            Err(fault) => {
                broken += 1;
                format!("BROKEN: {fault}")
            }
        };
        let _ = writeln!(text, "{}: {verdict}", shown(&layer.name));
    }
    let _ = match broken {
        0 => writeln!(text, "{}: sound, {}", file.display(), count(contents)),
        _ => writeln!(text, "{}: BROKEN, {broken} of {}", file.display(), count(contents)),
    };
    (if broken == 0 { SUCCESS } else { FAILURE }, text)
}

fn as_json(file: &Path, contents: &Contents<'_>) -> String {
    let layer = |layer: &Layer<'_>| {
        let (shape, statistics) = (&layer.shape, layer.statistics());
        let [minus, zero, plus] = statistics.trits;
        json!({
            "name": layer.name,
            "ensemble": shape.ensemble,
            "out_dim": shape.out_dim,
            "in_dim": shape.layout.in_dim(),
            "group_size": shape.layout.group_size(),
            "gain": shape.gain,
            "bias": layer.bias.map(|(dtype, _)| dtype.to_string()),
            "bits_per_weight": statistics.bits_per_weight,
            "step": layer.steps(),
            "mean_correlation": statistics.mean_correlation,
            "trits": { "-1": minus, "0": zero, "+1": plus },
        })
    };
    let dense = contents.dense.iter().map(|(name, view)| {
        let dtype = contents.dtypes.get(name).cloned().unwrap_or_else(|| view.dtype().to_string());
        json!({ "name": name, "dtype": dtype, "shape": view.shape() })
    });
    let report = json!({
        "file": file.display().to_string(),
        "layout": contents.layout.name(),
        "layers": contents.layers.iter().map(layer).collect::<Vec<_>>(),
        "dense": dense.collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}

fn as_table(file: &Path, contents: &Contents<'_>) -> String {
    let mut text = format!("{}: {} layout, {}\n", file.display(), contents.layout.name(), count(contents));
    if !contents.layers.is_empty() {
        let heads = ["layer", "out x in", "group size", "gain", "bias", "bits/weight", "step", "mean correlation", "-1", "0", "+1"];
        let mut rows = vec![heads.map(String::from)];
        rows.extend(contents.layers.iter().map(row));
        align(&mut text, &rows);
    }
    if !contents.dense.is_empty() {
        text.push('\n');
        let mut rows = vec![["dense tensor", "dtype", "shape"].map(String::from)];
        rows.extend(contents.dense.iter().map(|(name, view)| {
            let dtype = contents.dtypes.get(name).cloned().unwrap_or_else(|| view.dtype().to_string());
            [shown(name), dtype, format!("{:?}", view.shape())]
        }));
        align(&mut text, &rows);
    }
    text
}

fn row(layer: &Layer<'_>) -> [String; 11] {
    let (shape, statistics) = (&layer.shape, layer.statistics());
    let ensemble: String = shape.ensemble.iter().map(|dim| format!("{dim} x ")).collect();
    let steps = layer.steps();
    let step = match (steps.iter().min(), steps.iter().max()) {
        (Some(first), Some(last)) if first != last => format!("{first}..{last}"),
        (Some(step), _) => step.to_string(),
        _ => "-".into(),
    };
    let share = |count: u64| match shape.weights() {
        0 => "-".into(),
        weights => format!("{:.1} %", 100.0 * count as f64 / weights as f64),
    };
    let [minus, zero, plus] = statistics.trits.map(share);
    [
        shown(&layer.name),
        format!("{ensemble}{} x {}", shape.out_dim, shape.layout.in_dim()),
        shape.layout.group_size().to_string(),
        shape.gain.to_string(),
        layer.bias.map_or("-".into(), |(dtype, _)| dtype.to_string()),
        statistics.bits_per_weight.map_or("-".into(), |bits| format!("{bits:.3}")),
        step,
        format!("{:.6}", statistics.mean_correlation),
        minus,
        zero,
        plus,
    ]
}

/// Appends `rows` as a table: the first column to the left, the others to the right.
fn align<const COLUMNS: usize>(text: &mut String, rows: &[[String; COLUMNS]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    for row in rows {
        let _ = write!(text, "{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
}

/// A name as a person reads it: control characters escaped, and something for the layer that has none.
fn shown(name: &str) -> String {
    if name.is_empty() { "(unnamed)".into() } else { name.escape_debug().to_string() }
}

fn count(contents: &Contents<'_>) -> String {
    let weights: usize = contents.layers.iter().map(|layer| layer.shape.weights()).sum();
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (layers, dense) = (counted(contents.layers.len(), "layer"), counted(contents.dense.len(), "dense tensor"));
    format!("{layers} of {}, {dense}", counted(weights, "weight"))
}
