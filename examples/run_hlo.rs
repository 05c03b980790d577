//! Runs programs that `ternax.export.write_program` wrote, without Python, and compares the results with those of jax.
//!
//! `make xla-rs` sets up an XLA to link, writes two programs and runs `run_hlo FOLDER...` on them. Integers must be equal bit for bit;
//! floats may differ by rounding, since another version of XLA compiles the program.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use xla::{ElementType, HloModuleProto, Literal, PjRtClient, XlaComputation};

/// The largest difference of floats, as a share of the largest float in the tensor.
const TOLERANCE: f64 = 1e-5;

/// The tensors `name.0`, `name.1`, ...
fn numbered<'a>(values: &'a SafeTensors<'_>, name: &str) -> Vec<TensorView<'a>> {
    (0..).map_while(|index| values.tensor(&format!("{name}.{index}")).ok()).collect()
}

fn literal(tensor: &TensorView<'_>) -> Result<Literal, Box<dyn Error>> {
    let element = match tensor.dtype() {
        Dtype::BOOL => ElementType::Pred,
        Dtype::I8 => ElementType::S8,
        Dtype::U8 => ElementType::U8,
        Dtype::I32 => ElementType::S32,
        Dtype::U32 => ElementType::U32,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::F32 => ElementType::F32,
        other => return Err(format!("operands of {other:?} are not supported").into()),
    };
    Ok(Literal::create_from_shape_and_untyped_data(element, tensor.shape(), tensor.data())?)
}

/// The numbers of a float tensor; None for integers.
fn floats(dtype: Dtype, data: &[u8]) -> Option<Vec<f64>> {
    let halves = || data.chunks_exact(2).map(|bytes| [bytes[0], bytes[1]]);
    match dtype {
        Dtype::F16 => Some(halves().map(|bytes| f16::from_le_bytes(bytes).to_f64()).collect()),
        Dtype::BF16 => Some(halves().map(|bytes| bf16::from_le_bytes(bytes).to_f64()).collect()),
        Dtype::F32 => Some(data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into()).collect()),
        _ => None,
    }
}

/// Says how `found` differs from what jax computed; an error if it differs more than it may.
fn compare(wanted: &TensorView<'_>, found: &Literal) -> Result<String, Box<dyn Error>> {
    let mut data = vec![0; wanted.data().len()];
    found.copy_untyped_to(&mut data)?;
    if data == wanted.data() {
        return Ok("equal".into());
    }
    let (Some(wanted), Some(found)) = (floats(wanted.dtype(), wanted.data()), floats(wanted.dtype(), &data)) else {
        let count = wanted.data().iter().zip(&data).filter(|(a, b)| a != b).count();
        return Err(format!("{count} of {} bytes differ", data.len()).into());
    };
    let largest = wanted.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let differences = || wanted.iter().zip(&found).map(|(a, b)| (a - b).abs());
    let text = format!("differs by at most {:.1e}, the largest being {largest:.3}", differences().fold(0.0, f64::max));
    // A NaN on one side only is no small difference.
    if differences().all(|difference| difference <= TOLERANCE * largest) { Ok(text) } else { Err(text.into()) }
}

/// Runs the program in `folder` on the operands that lie beside it; returns how many results are wrong.
fn run(client: &PjRtClient, folder: &Path) -> Result<usize, Box<dyn Error>> {
    let path = folder.join("values.safetensors");
    let file = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let values = SafeTensors::deserialize(&file)?;
    let program = HloModuleProto::from_proto_file(folder.join("program.hlo.pb"), true)?;
    let executable = client.compile(&XlaComputation::from_proto(&program))?;
    let operands = numbered(&values, "operand").iter().map(literal).collect::<Result<Vec<_>, _>>()?;
    let results = executable.execute::<Literal>(&operands)?;
    let results = results.iter().flatten().map(|buffer| buffer.to_literal_sync()).collect::<Result<Vec<_>, _>>()?;
    let wanted = numbered(&values, "result");
    println!("{}: {} operands, {} results", folder.display(), operands.len(), results.len());
    if results.len() != wanted.len() {
        return Err(format!("jax had {} results", wanted.len()).into());
    }
    let mut wrong = 0;
    for (index, (wanted, found)) in wanted.iter().zip(&results).enumerate() {
        let verdict = compare(wanted, found).unwrap_or_else(|error| {
            wrong += 1;
            format!("WRONG: {error}")
        });
        println!("  result {index:2}  {:<4} {:<12} {verdict}", format!("{:?}", wanted.dtype()), format!("{:?}", wanted.shape()));
    }
    Ok(wrong)
}

fn main() -> Result<(), Box<dyn Error>> {
    ternax::xla::bridge::register()?;
    let client = PjRtClient::cpu()?;
    println!("XLA on {}, without Python", client.platform_name());
    let mut wrong = 0;
    for folder in env::args_os().skip(1) {
        wrong += run(&client, folder.as_ref())?;
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} results are wrong").into()) }
}
