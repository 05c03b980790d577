//! Plans of the calls that work element by element: scales, the state, and trits to bytes and back.

use super::call::{Call, Launch};
use super::ensemble::{Run, runs};
use super::kernel::Kernel;
use super::plan::{Attributes, Plan, base, blocks, layout, scratch_address};
use super::tensor::{Dtype, Tensor};
use crate::error::Result;
use Dtype::{Bfloat16, Float16, Float32, Int8, Int32, Uint8};

/// Scores that one block of the check reads, at least.
const CHECKED: usize = 4096;

pub(super) fn scales(exponent: &Tensor, corr: &Tensor, step: &Tensor, scale: &Tensor, attributes: Attributes) -> Result<Plan> {
    const OPERATION: &str = "scale";
    let rank = exponent.leading(OPERATION, "exponent", 2).map(|_| exponent.shape.len() - 2)?;
    let ensemble = &exponent.shape[..rank];
    layout(OPERATION, 1, attributes)?;
    exponent.expect(OPERATION, "exponent", &[Int8], &exponent.shape)?;
    corr.expect(OPERATION, "corr", &[Int32], &[&exponent.shape[..], &[2]].concat())?;
    step.expect(OPERATION, "step", &[Int32], &[ensemble, &[2]].concat())?;
    scale.expect(OPERATION, "scale", &[Float32, Bfloat16], &exponent.shape)?;
    let count: usize = exponent.shape[rank..].iter().product();
    let mut plan = Plan { launches: Vec::new(), scratch: 0, hopper: None };
    if count == 0 {
        return Ok(plan);
    }
    for run in runs(OPERATION, ensemble, &[("exponent", exponent), ("corr", corr), ("step", step)], 1)? {
        let mut call = Call { count: count as i64, group_size: attributes.group_size, gain: attributes.gain, ..Call::default() };
        place_pairs(&mut call, &run, &[(exponent, count, 1), (corr, count, 2), (step, 1, 2)]);
        call.results[0] = scale.address + (run.first * count * scale.dtype.size()) as u64;
        call.result_strides[0] = count as i64;
        let grid = [blocks(OPERATION, count, 256)?, run.members as u32, 1];
        plan.launches.push(Launch::new(Kernel::scale(scale.dtype), grid, call, 0));
    }
    Ok(plan)
}

/// As [`place`], for operands whose elements are `per` values of the tensor: limbs are pairs.
fn place_pairs(call: &mut Call, run: &Run, operands: &[(&Tensor, usize, usize)]) {
    for (index, (tensor, each, per)) in operands.iter().enumerate() {
        call.operands[index] = tensor.address + (run.starts[index] * each * per * tensor.dtype.size()) as u64;
        call.operand_strides[index] = if run.own[index] { *each as i64 } else { 0 };
    }
}

pub(super) fn accumulate(operands: [&Tensor; 4], results: [&Tensor; 2], scratch: &[Tensor], attributes: Attributes) -> Result<Plan> {
    const OPERATION: &str = "accumulate";
    let [corr, step, score, votes] = operands;
    let rank = score.leading(OPERATION, "score", 2).map(|_| score.shape.len() - 2)?;
    let ensemble = &score.shape[..rank];
    layout(OPERATION, 1, attributes)?;
    let limbs = |shape: &[usize]| [shape, &[2]].concat();
    score.expect(OPERATION, "score", &[Float32], &score.shape)?;
    votes.expect(OPERATION, "votes", &[Float32], ensemble)?;
    for (argument, state, shape) in [("corr", corr, &score.shape[..]), ("step", step, ensemble)] {
        state.expect(OPERATION, argument, &[Int32], &limbs(shape))?;
    }
    for (argument, state, shape) in [("new_corr", results[0], &score.shape[..]), ("new_step", results[1], ensemble)] {
        state.expect(OPERATION, argument, &[Int32], &limbs(shape))?;
    }
    let count: usize = score.shape[rank..].iter().product();
    let members: usize = ensemble.iter().product();
    let splits = count.div_ceil(CHECKED).clamp(1, 64);
    let mut plan = Plan { launches: Vec::new(), scratch: (members * splits).max(1), hopper: None };
    let flags = scratch_address(OPERATION, scratch, plan.scratch)?;
    for run in runs(OPERATION, ensemble, &[("corr", corr), ("step", step), ("score", score), ("votes", votes)], 1)? {
        let mut call = Call {
            count: count as i64,
            group_size: attributes.group_size,
            wanted_votes: attributes.wanted_votes,
            splits: splits as i32,
            ..Call::default()
        };
        place_pairs(&mut call, &run, &[(corr, count, 2), (step, 1, 2), (score, count, 1), (votes, 1, 1)]);
        let starts = [(results[0].address, 8 * count), (results[1].address, 8), (flags, 4 * splits)];
        call.results = starts.map(|(address, bytes)| address + (run.first * bytes) as u64);
        call.result_strides = [count as i64, 1, splits as i64];
        let members = run.members as u32;
        let check = Launch::new(Kernel::accumulate_check(), [splits as u32, members, 1], call, 32);
        let grid = [blocks(OPERATION, count.max(1), 256)?, members, 1];
        plan.launches.extend([check, Launch::new(Kernel::accumulate(), grid, call, 0)]);
    }
    Ok(plan)
}

/// The dense weights, by 16 bytes at a time where groups and rows are made of those and lie at multiples of them.
pub(super) fn dequantize(trits: &Tensor, scale: &Tensor, weights: &Tensor, attributes: Attributes) -> Result<Plan> {
    let kernel = |chunks| Kernel::dequantize(scale.dtype, weights.dtype, chunks);
    let mut plan = bytes(kernel(false), "dequantize", trits, weights, Some(scale), (trits, weights), attributes)?;
    let each = 16 / weights.dtype.size();
    let aligned = weights.address.is_multiple_of(16);
    for launch in &mut plan.launches {
        let elements: usize = weights.shape.iter().product();
        if aligned && [launch.call.in_dim, launch.call.group].iter().all(|&size| (size as usize).is_multiple_of(each)) {
            launch.kernel = kernel(true);
            launch.call.count = (elements / each) as i64;
            launch.grid[0] = blocks("dequantize", elements / each, 256)?;
        }
    }
    Ok(plan)
}

/// The kernels that take one packed byte per thread: `packed` and `dense` say the shapes, `ends` what is read and written.
pub(super) fn bytes(
    kernel: Kernel,
    operation: &'static str,
    packed: &Tensor,
    dense: &Tensor,
    scale: Option<&Tensor>,
    ends: (&Tensor, &Tensor),
    attributes: Attributes,
) -> Result<Plan> {
    let rank = dense.leading(operation, "trits", 1).map(|_| dense.shape.len() - 1)?;
    let (rows, in_dim) = (&dense.shape[..rank], dense.shape[rank]);
    let layout = layout(operation, in_dim, attributes)?;
    let matrix = [layout.groups(), layout.group_bytes()];
    packed.expect(operation, "trits", &[Uint8], &[rows, &matrix].concat())?;
    let wanted: &[Dtype] = if scale.is_some() { &[Float32, Bfloat16, Float16] } else { &[Int8] };
    dense.expect(operation, if scale.is_some() { "weights" } else { "trits" }, wanted, &dense.shape)?;
    if let Some(scale) = scale {
        scale.expect(operation, "scale", &[Float32, Bfloat16], &[rows, &matrix[..1]].concat())?;
    }
    let count = rows.iter().product::<usize>() * layout.row_bytes();
    let mut plan = Plan { launches: Vec::new(), scratch: 0, hopper: None };
    if count == 0 {
        return Ok(plan);
    }
    let mut call = Call { count: count as i64, ..base(operation, layout, 0, 0, attributes)? };
    call.operands = [ends.0.address, scale.map_or(0, |scale| scale.address), 0, 0];
    call.results[0] = ends.1.address;
    plan.launches.push(Launch::new(kernel, [blocks(operation, count, 256)?, 1, 1], call, 0));
    Ok(plan)
}
