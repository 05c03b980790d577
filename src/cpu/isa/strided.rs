//! Copies of a column: the same few elements of rows that lie far apart.

/// Elements that stand for themselves, whatever their bits.
pub trait Plain: Copy + 'static {}
impl Plain for u8 {}
impl Plain for f32 {}
impl Plain for [u32; 2] {}

/// `to[row]` is the value at element `first + row * stride` of `from`, made of as many elements as it has room for.
///
/// # Panics
/// Where the last value ends beyond `from`.
#[inline(always)]
pub fn copy_column<S: Plain, T: Plain>(from: &[S], first: usize, stride: usize, to: &mut [T]) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<S>())) };
    let Some(last) = to.len().checked_sub(1) else { return };
    let end = first + last * stride + size_of::<T>() / size_of::<S>();
    assert!(end <= from.len(), "a column that ends at element {end} of {}", from.len());
    for (row, to) in to.iter_mut().enumerate() {
        // SAFETY: the end of the last value was just checked, and every bit pattern is a `T`.
        *to = unsafe { from.as_ptr().add(first + row * stride).cast::<T>().read_unaligned() };
    }
}
