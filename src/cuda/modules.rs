//! Loaded kernels of every context: compiled and loaded in the initialize stage, only looked up in the execute stage.
//!
//! Modules stay loaded for the life of the process, since CUDA graphs outlive the programs that recorded them.

use std::collections::HashMap;
use std::hash::Hash;
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUresult};

use super::cache::Cache;
use super::compile;
use super::device::{Current, check};
use super::kernel::Kernel;
use crate::error::{Error, Result};

/// Shared memory that a block may use without asking.
const DEFAULT_SHARED: u32 = 48 << 10;
/// First driver that has a call to load a function ahead of its launch; those before load it where it is looked up.
const LOADS_FUNCTIONS: i32 = 12_040;

/// A kernel in one context; the number is the driver's `CUfunction`.
#[derive(Clone, Copy, Debug)]
struct Loaded {
    function: usize,
    shared: u32,
}

/// What is made once for each key and kept, under a lock of its own, so that making one holds up no other.
type Slots<K, V> = RwLock<HashMap<K, Slot<V>>>;
type Slot<V> = Arc<Mutex<Option<V>>>;

/// Kernels by context and class.
static LOADED: LazyLock<Slots<(usize, String), Loaded>> = LazyLock::new(RwLock::default);
/// Machine code by architecture and class: cards of one kind compile it once.
static CUBINS: LazyLock<Slots<(String, String), Arc<[u8]>>> = LazyLock::new(RwLock::default);

fn known<K: Eq + Hash, V>(slots: &Slots<K, V>, key: &K) -> Option<Slot<V>> {
    slots.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
}

fn slot<K: Eq + Hash, V>(slots: &Slots<K, V>, key: K) -> Slot<V> {
    known(slots, &key).unwrap_or_else(|| slots.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone())
}

fn lock<V>(slot: &Mutex<Option<V>>) -> MutexGuard<'_, Option<V>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees to it that a kernel is loaded in the current context, with room for `shared` bytes of shared memory. Idempotent: XLA initialises
/// before every execution.
pub fn prepare(current: &Current, kernel: &Kernel, shared: u32) -> Result<()> {
    let slot = slot(&LOADED, (current.key(), kernel.class.clone()));
    let mut held = lock(&slot);
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

/// Compiles a kernel for an architecture, or takes it from the cache.
fn cubin(kernel: &Kernel, architecture: String) -> Result<Arc<[u8]>> {
    let slot = slot(&CUBINS, (architecture.clone(), kernel.class.clone()));
    let mut held = lock(&slot);
    if let Some(cubin) = &*held {
        return Ok(cubin.clone());
    }
    let cubin: Arc<[u8]> = compile::cubin(kernel, &architecture, &Cache::of_user())?.into();
    Ok(held.insert(cubin).clone())
}

/// Loads a kernel in the current context.
fn load(current: &Current, kernel: &Kernel) -> Result<CUfunction> {
    let cubin = cubin(kernel, current.architecture()?)?;
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
        // Loaded at its first launch, as newer drivers do, it would fail inside a stream capture.
        // SAFETY: the function was found.
        check(&format!("load {}", kernel.class), unsafe { sys::cuFuncLoad(function) })?;
    }
    function.expose_provenance();
    Ok(function)
}

/// The function of a kernel that was prepared in the current context.
pub fn find(current: &Current, kernel: &Kernel) -> Result<CUfunction> {
    let held = known(&LOADED, &(current.key(), kernel.class.clone())).and_then(|slot| *lock(&slot));
    held.map(|loaded| ptr::with_exposed_provenance_mut(loaded.function))
        .ok_or_else(|| Error::Gpu(format!("{} was not initialised before it ran", kernel.class)))
}
