//! The two stages of a call: kernels are loaded before, and launched on XLA's stream. Launching allocates no device memory, waits for
//! nothing and reads nothing, so that XLA can record it into a CUDA graph.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{self, CUstream, CUtensorMap};

use super::call::Launch;
use super::device::{Current, check};
use super::plan::Plan;
use super::tensor_map::{MOST, TensorMap};
use super::{library, modules};
use crate::error::Result;

/// What the current context's card launches.
fn chosen<'a>(plan: &'a Plan, current: &Current) -> Result<&'a [Launch]> {
    // Asked only where it matters: this runs before every execution.
    if plan.hopper.is_some() { Ok(plan.on(&current.architecture()?, library::encodes_tensor_maps())) } else { Ok(&plan.launches) }
}

/// What the driver makes of tensor maps: the second parameter of the kernels that take any.
fn encoded(maps: &[TensorMap]) -> Result<[CUtensorMap; MOST]> {
    let mut encoded = [CUtensorMap { opaque: [0; 16] }; MOST];
    for (map, to) in maps.iter().zip(&mut encoded) {
        let TensorMap { address, dims, strides, tile, element_strides, rank, dtype, interleave, swizzle, promotion, fill } = map;
        // SAFETY: the arrays are as long as the rank says, or one shorter; the address is not read.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                to,
                *dtype,
                *rank,
                ptr::with_exposed_provenance_mut(*address as usize),
                dims.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                element_strides.as_ptr(),
                *interleave,
                *swizzle,
                *promotion,
                *fill,
            )
        };
        check("encode a tensor map", result)?;
    }
    Ok(encoded)
}

/// Loads what a plan launches.
///
/// # Safety
/// `stream` is a live stream of CUDA's.
pub unsafe fn initialize(plan: &Plan, stream: *mut c_void) -> Result<()> {
    if plan.launches.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let current = unsafe { Current::of(stream) }?;
    chosen(plan, &current)?.iter().try_for_each(|launch| modules::prepare(&current, &launch.kernel, launch.shared))
}

/// Launches a plan.
///
/// # Safety
/// `stream` is a live stream of CUDA's; the addresses in the plan are of buffers that live until the stream has run what is launched here.
pub unsafe fn execute(plan: &Plan, stream: *mut c_void) -> Result<()> {
    if plan.launches.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let current = unsafe { Current::of(stream) }?;
    for launch in chosen(plan, &current)? {
        let function = modules::find(&current, &launch.kernel)?;
        let maps = encoded(&launch.maps)?;
        let mut parameters = [ptr::from_ref(&launch.call).cast_mut().cast::<c_void>(), ptr::from_ref(&maps).cast_mut().cast()];
        let [x, y, z] = if launch.tiles.is_some() { launch.grid_on(current.multiprocessors()?) } else { launch.grid };
        // SAFETY: the function takes a `Call` and perhaps tensor maps, which the driver copies; the rest is the caller's promise.
        let result = unsafe {
            let stream = stream as CUstream;
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                launch.kernel.threads,
                1,
                1,
                launch.shared,
                stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(&format!("launch {}", launch.kernel.class), result)?;
    }
    Ok(())
}
