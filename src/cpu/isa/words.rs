//! Memory of 32-bit words as numbers of another type of that size.

/// A type of 32 bits of which every pattern of bits is a value.
pub trait Plain: Copy + Default + 'static {
    /// The same memory as values of this type.
    fn of(words: &mut [u32]) -> &mut [Self];
}

impl Plain for u32 {
    fn of(words: &mut [u32]) -> &mut [u32] {
        words
    }
}

impl Plain for f32 {
    fn of(words: &mut [u32]) -> &mut [f32] {
        // SAFETY: both types have the same size and alignment, and every pattern of bits is a value of both.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }
}
