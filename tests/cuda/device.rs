//! Device memory of the emulated machine, and calls on it.

use half::{bf16, f16};
use ternax::cuda::plan::{Attributes, Plan, Request, plan};
use ternax::cuda::tensor::{Dtype, Tensor};
use ternax::float::Activation;

use crate::machine::{Machine, OPTIONS, Options};

/// A type of elements.
pub trait Element: Copy {
    const DTYPE: Dtype;
}
macro_rules! elements {
    ($($type:ty = $dtype:ident),+) => { $(impl Element for $type { const DTYPE: Dtype = Dtype::$dtype; })+ };
}
elements!(i8 = Int8, u8 = Uint8, i32 = Int32, f16 = Float16, bf16 = Bfloat16, f32 = Float32);

/// An activation type that can lie in a buffer.
pub trait Number: Activation + Element {}
impl<T: Activation + Element> Number for T {}

/// A buffer as XLA gives them: aligned, of a shape, and known to the machine to the byte.
pub struct Buffer<'m> {
    machine: &'m Machine,
    words: Vec<u128>,
    /// Bytes before the first element.
    skipped: usize,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl<'m> Buffer<'m> {
    fn with_words(machine: &'m Machine, words: Vec<u128>, skipped: usize, shape: &[usize], dtype: Dtype) -> Self {
        let buffer = Self { machine, words, skipped, shape: shape.into(), dtype };
        machine.register(buffer.start().cast(), shape.iter().product::<usize>() * dtype.size());
        buffer
    }

    fn start(&self) -> *const u8 {
        self.words.as_ptr().cast::<u8>().wrapping_add(self.skipped)
    }

    /// An operand.
    pub fn of<T: Element>(machine: &'m Machine, values: &[T], shape: &[usize]) -> Self {
        Self::beside(machine, values, shape, 0)
    }

    /// An operand that lies so many elements behind an aligned address.
    pub fn beside<T: Element>(machine: &'m Machine, values: &[T], shape: &[usize], skipped: usize) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let skipped = skipped * size_of::<T>();
        // Never empty, so that every buffer has an address of its own.
        let mut words = vec![0u128; (skipped + size_of_val(values)).div_ceil(16).max(1)];
        let to = words.as_mut_ptr().cast::<u8>().wrapping_add(skipped);
        // SAFETY: the words have room for the values, and every bit pattern is a number.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), to, size_of_val(values)) };
        Self::with_words(machine, words, skipped, shape, T::DTYPE)
    }

    /// A result: every bit is 1, which no kernel should leave behind.
    pub fn result(machine: &'m Machine, dtype: Dtype, shape: &[usize]) -> Self {
        Self::result_beside(machine, dtype, shape, 0)
    }

    /// A result that lies so many elements behind an aligned address.
    pub fn result_beside(machine: &'m Machine, dtype: Dtype, shape: &[usize], skipped: usize) -> Self {
        let (skipped, bytes) = (skipped * dtype.size(), shape.iter().product::<usize>() * dtype.size());
        Self::with_words(machine, vec![u128::MAX; (skipped + bytes).div_ceil(16).max(1)], skipped, shape, dtype)
    }

    /// What it holds.
    pub fn values<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype);
        // SAFETY: the words hold that many elements; every bit pattern is a number.
        unsafe { std::slice::from_raw_parts(self.start().cast(), self.shape.iter().product()) }
    }

    /// Its description for a call.
    pub fn tensor(&self) -> Tensor {
        Tensor { dtype: self.dtype, shape: self.shape.clone(), address: self.start() as u64 }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.machine.forget(self.start().cast());
    }
}

/// The plan of a call with its scratch, if it needs any.
pub fn planned<'m>(
    machine: &'m Machine,
    operation: &str,
    attributes: Attributes,
    operands: &[&Buffer<'m>],
    results: &[&Buffer<'m>],
) -> (Plan, Option<Buffer<'m>>) {
    let tensors = |buffers: &[&Buffer<'m>]| buffers.iter().map(|buffer| buffer.tensor()).collect::<Vec<_>>();
    let mut request =
        Request { operation: operation.into(), operands: tensors(operands), results: tensors(results), attributes, any_tokens: false };
    let elements = plan(&request).expect("a lawful call").scratch;
    let scratch = (elements > 0).then(|| Buffer::result(machine, Dtype::Float32, &[elements]));
    request.results.extend(scratch.as_ref().map(Buffer::tensor));
    (plan(&request).expect("a lawful call with scratch"), scratch)
}

/// Runs one call.
pub fn call<'m>(
    machine: &'m Machine,
    operation: &str,
    attributes: Attributes,
    operands: &[&Buffer<'m>],
    results: &[&Buffer<'m>],
    options: Options,
) {
    let (plan, _scratch) = planned(machine, operation, attributes, operands, results);
    machine.run(&plan.launches, options);
}

/// Attributes of a call that has a group size alone.
pub fn grouped(group_size: usize) -> Attributes {
    Attributes { group_size: group_size as i64, ..Attributes::default() }
}

/// Calls `test` for every schedule and rounding.
pub fn under_every_schedule(test: impl FnMut(Options)) {
    OPTIONS.into_iter().for_each(test);
}
