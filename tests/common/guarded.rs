//! Operands that end or begin at a page which may be neither read nor written: one element too far ends the test.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// A copy of a slice that lies against memory without access, with its last byte or with its first one.
pub struct Guarded<T: Copy> {
    mapping: NonNull<u8>,
    mapped: usize,
    data: NonNull<T>,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    /// A copy whose last byte is followed by memory without access.
    pub fn new(values: &[T]) -> Self {
        Self::placed(values, false)
    }

    /// A copy whose first byte follows memory without access.
    pub fn at_start(values: &[T]) -> Self {
        Self::placed(values, true)
    }

    fn placed(values: &[T], at_start: bool) -> Self {
        let page = page_size();
        let bytes = size_of_val(values);
        let inside = bytes.next_multiple_of(page);
        let mapped = inside + 2 * page;
        // SAFETY: a fresh mapping, whose middle is then opened.
        let mapping = unsafe {
            let mapping = mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::empty(), MapFlags::PRIVATE).expect("memory");
            if inside > 0 {
                mprotect(mapping.byte_add(page), inside, MprotectFlags::READ | MprotectFlags::WRITE).expect("access to the middle");
            }
            NonNull::new(mapping.cast::<u8>()).expect("a mapping is not at 0")
        };
        // SAFETY: the data begin or end where the middle does; sizes are multiples of alignments.
        let data = unsafe { mapping.add(page + if at_start { 0 } else { inside - bytes }).cast::<T>() };
        // SAFETY: the middle has room for the values and nobody else has seen it.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), data.as_ptr(), values.len()) };
        Self { mapping, mapped, data, len: values.len() }
    }
}

/// A copy that lies against memory without access, on one side or the other.
pub fn placed<T: Copy>(values: &[T], at_start: bool) -> Guarded<T> {
    if at_start { Guarded::at_start(values) } else { Guarded::new(values) }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote that many values there.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and ends here.
        unsafe { munmap(self.mapping.as_ptr().cast(), self.mapped) }.expect("the mapping is whole");
    }
}
