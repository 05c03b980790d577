//! The driver's side: contexts of streams, architectures, and errors as text.

use std::ffi::{CStr, c_void};
use std::ptr;

use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute as Attribute, CUresult, CUstream};

use super::library;
use crate::error::{Error, Result};

/// Lowest compute capability that the kernels run on: bfloat16 on the tensor cores and asynchronous copies.
pub const LOWEST: (i32, i32) = (8, 0);

/// Turns a code of the driver into an error that says what failed.
pub fn check(what: &str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = ptr::null();
    // SAFETY: the pointer is writable; the text is a constant of the driver's.
    let reason = match unsafe { sys::cuGetErrorString(result, &raw mut text) } {
        // SAFETY: the driver gave a string.
        CUresult::CUDA_SUCCESS => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        _ => "an unknown error".into(),
    };
    let text = format!("the driver fails to {what}: {reason} ({result:?})");
    Err(if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY { Error::OutOfMemory(text) } else { Error::Gpu(text) })
}

/// A stream's context, current on this thread until this is dropped: XLA's own scopes rely on finding the one they left.
#[derive(Debug)]
pub struct Current {
    context: CUcontext,
}

impl Current {
    /// Makes the context of XLA's stream current.
    ///
    /// # Safety
    /// `stream` is a live stream of CUDA's.
    pub unsafe fn of(stream: *mut c_void) -> Result<Self> {
        library::driver()?;
        let mut context = ptr::null_mut();
        // SAFETY: the caller's promise; the pointer is writable.
        check("name the stream's context", unsafe { sys::cuStreamGetCtx(stream.cast::<_>() as CUstream, &raw mut context) })?;
        // SAFETY: a live context of the driver's.
        check("make the context current", unsafe { sys::cuCtxPushCurrent_v2(context) })?;
        Ok(Self { context })
    }

    /// A number that is the context's own as long as it lives.
    pub fn key(&self) -> usize {
        self.context.addr()
    }

    fn attribute(&self, attribute: Attribute) -> Result<i32> {
        let (mut device, mut value) = (0, 0);
        // SAFETY: a context is current; the number is writable.
        check("name the context's device", unsafe { sys::cuCtxGetDevice(&raw mut device) })?;
        // SAFETY: the driver gave the device; the number is writable.
        check(&format!("tell {attribute:?}"), unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
        Ok(value)
    }

    /// The architecture to compile for, as in `sm_90a`.
    pub fn architecture(&self) -> Result<String> {
        architecture(
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        )
    }

    /// Multiprocessors of the card.
    pub fn multiprocessors(&self) -> Result<u32> {
        Ok(self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.unsigned_abs())
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut left = ptr::null_mut();
        // SAFETY: pops what `of` pushed.
        let result = unsafe { sys::cuCtxPopCurrent_v2(&raw mut left) };
        // What the call gave is worth more than a panic here; XLA's next one would say the same.
        if let Err(error) = check("take back the context", result) {
            log::error!("{error}");
        } else if left != self.context {
            log::error!("CUDA: another context was current than the one that ternax had pushed");
        }
    }
}

/// The name of a compute capability's architecture; those from 9.0 on with their own instructions.
fn architecture(major: i32, minor: i32) -> Result<String> {
    if (major, minor) < LOWEST {
        let (lowest_major, lowest_minor) = LOWEST;
        return Err(Error::Gpu(format!(
            "the card has compute capability {major}.{minor}, the kernels need {lowest_major}.{lowest_minor}: use ternax.backend('reference')"
        )));
    }
    Ok(format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_as_nvrtc_wants_them() {
        assert_eq!(architecture(8, 0), Ok("sm_80".into()));
        assert_eq!(architecture(8, 9), Ok("sm_89".into()));
        assert_eq!(architecture(9, 0), Ok("sm_90a".into()));
        assert_eq!(architecture(10, 0), Ok("sm_100a".into()));
    }

    #[test]
    fn an_old_card_is_refused_with_what_to_do() {
        let text = architecture(7, 5).expect_err("too old").to_string();
        assert!(text.contains("7.5") && text.contains("8.0") && text.contains("backend('reference')"), "{text}");
    }
}
