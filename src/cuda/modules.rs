//! Loaded kernels of every context: compiled and loaded in the initialize stage, only looked up in the execute stage.
//!
//! Modules stay loaded for the life of the process, since CUDA graphs outlive the programs that recorded them.

use std::collections::HashMap;
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUresult};

use super::cache::Cache;
use super::compile;
use super::device::{Current, check};
use super::kernel::Kernel;
use crate::error::{Error, Result};

/// Shared memory that a block may use without asking.
const DEFAULT_SHARED: u32 = 48 << 10;
/// First driver that can load a function ahead of its launch.
const LOADS_FUNCTIONS: i32 = 12_040;

/// A kernel in one context; the number is the driver's `CUfunction`.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    function: usize,
    shared: u32,
}

/// A lock for each kernel, so that compiling one holds up no other.
type Slot = Arc<Mutex<Option<Loaded>>>;

fn slots() -> &'static RwLock<HashMap<(usize, String), Slot>> {
    static SLOTS: OnceLock<RwLock<HashMap<(usize, String), Slot>>> = OnceLock::new();
    SLOTS.get_or_init(RwLock::default)
}

fn slot(context: usize, kernel: &Kernel) -> Option<Slot> {
    slots().read().unwrap_or_else(PoisonError::into_inner).get(&(context, kernel.class.clone())).cloned()
}

/// Sees to it that a kernel is loaded in the current context, with room for `shared` bytes of shared memory. Idempotent: XLA initialises
/// before every execution.
pub fn prepare(current: &Current, kernel: &Kernel, shared: u32) -> Result<()> {
    let slot = slot(current.key(), kernel).unwrap_or_else(|| {
        let mut slots = slots().write().unwrap_or_else(PoisonError::into_inner);
        slots.entry((current.key(), kernel.class.clone())).or_default().clone()
    });
    let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = match *held {
        Some(loaded) if loaded.shared >= shared => return Ok(()),
        Some(loaded) => loaded,
        None => Loaded { function: load(current, kernel)?.addr(), shared: DEFAULT_SHARED },
    };
    let function = ptr::with_exposed_provenance_mut(loaded.function);
    if shared > loaded.shared {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded in the current context.
        let result = unsafe { sys::cuFuncSetAttribute(function, attribute, shared as i32) };
        check(&format!("give {} {shared} bytes of shared memory", kernel.class), result)?;
    }
    *held = Some(Loaded { shared: shared.max(loaded.shared), ..loaded });
    Ok(())
}

/// Compiles a kernel for the current context's card, or takes it from the cache, and loads it.
fn load(current: &Current, kernel: &Kernel) -> Result<CUfunction> {
    let cubin = compile::cubin(kernel, &current.architecture()?, &Cache::of_user())?;
    let (mut module, mut function, mut version) = (ptr::null_mut(), ptr::null_mut(), 0);
    // SAFETY: a whole cubin, and a context that is current.
    let result = unsafe { sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()) };
    if matches!(
        result,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_IMAGE | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    ) {
        let what = format!(
            "load {}, whose compiler may be newer than this driver: upgrade the driver, or name an older libnvrtc in TERNAX_NVRTC",
            kernel.class
        );
        return Err(check(&what, result).expect_err("a code that is no success"));
    }
    check(&format!("load {}", kernel.class), result)?;
    let entry = std::ffi::CString::new(Kernel::ENTRY).expect("no NUL");
    // SAFETY: the module was loaded; the name ends with a NUL.
    check("find the kernel", unsafe { sys::cuModuleGetFunction(&raw mut function, module, entry.as_ptr()) })?;
    // SAFETY: the number is writable.
    check("tell its version", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    if version >= LOADS_FUNCTIONS {
        // Loaded lazily at its first launch it would fail inside a stream capture.
        // SAFETY: the function was found.
        check(&format!("load {}", kernel.class), unsafe { sys::cuFuncLoad(function) })?;
    }
    function.expose_provenance();
    Ok(function)
}

/// The function of a kernel that was prepared in the current context.
pub fn find(current: &Current, kernel: &Kernel) -> Result<CUfunction> {
    let held = slot(current.key(), kernel).and_then(|slot| *slot.lock().unwrap_or_else(PoisonError::into_inner));
    held.map(|loaded| ptr::with_exposed_provenance_mut(loaded.function))
        .ok_or_else(|| Error::Gpu(format!("{} was not initialised before it ran", kernel.class)))
}
