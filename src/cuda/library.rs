//! The libraries of CUDA, looked up when they are first used: nothing is linked, and a machine without them loads ternax just as well.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{env, fs};

use libloading::Library;

use crate::error::{Error, Result};

/// Names that libnvrtc has, the newest first.
const NVRTC: [&str; 2] = if cfg!(windows) { ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"] } else { ["libnvrtc.so.13", "libnvrtc.so.12"] };

/// Folders that hold pip's packages of NVIDIA, each a folder `nvidia` of some site-packages.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Adds folders `nvidia` that libnvrtc is looked for in.
pub fn search_in(folders: impl IntoIterator<Item = PathBuf>) {
    let mut known = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    for folder in folders {
        if !known.contains(&folder) {
            known.push(folder);
        }
    }
}

/// Where libnvrtc may lie, the likeliest first: `TERNAX_NVRTC`, pip's folders, then wherever the system looks.
fn candidates(given: Option<PathBuf>, folders: &[PathBuf]) -> Vec<PathBuf> {
    if let Some(given) = given {
        return vec![given];
    }
    let mut found = Vec::new();
    for folder in folders {
        // cu13/lib in the packages of CUDA 13, cuda_nvrtc/lib in those before.
        let inside = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let mut libraries: Vec<PathBuf> = inside.flat_map(|package| ["lib", "bin"].map(|kind| package.join(kind))).collect();
        libraries.sort();
        for name in NVRTC {
            found.extend(libraries.iter().map(|library| library.join(name)).filter(|path| path.is_file()));
        }
    }
    found.extend(NVRTC.map(PathBuf::from));
    found
}

/// Declares the functions of NVRTC that are used; each returns a code, 0 where nothing went wrong.
macro_rules! nvrtc {
    ($($(#[$about:meta])* $field:ident = $name:literal ($($argument:ty),*);)+) => {
        /// Functions of one libnvrtc, which stays open for the life of the process.
        #[derive(Clone, Copy, Debug)]
        pub struct Nvrtc {
            $($(#[$about])* pub $field: unsafe extern "C" fn($($argument),*) -> c_int,)+
            /// The text of a code.
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            /// Bytes of the library's file; 0 where only the system knows which file it is.
            pub file_size: u64,
        }

        impl Nvrtc {
            fn of(library: &Library, file_size: u64) -> std::result::Result<Self, libloading::Error> {
                // SAFETY: functions of these names have had these signatures in every release.
                unsafe { Ok(Self { $($field: *library.get($name)?,)+ error_string: *library.get(b"nvrtcGetErrorString")?, file_size }) }
            }

            /// Turns a code into an error that says what failed.
            pub fn check(&self, what: &str, code: c_int) -> Result<()> {
                if code == 0 {
                    return Ok(());
                }
                // SAFETY: any number may be asked for; the text is a constant of the library's.
                let reason = unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy();
                Err(Error::Gpu(format!("NVRTC fails to {what}: {reason}")))
            }
        }
    };
}

nvrtc! {
    /// Its version, in two numbers.
    version = b"nvrtcVersion" (*mut c_int, *mut c_int);
    /// Takes a source, its name, and headers with theirs.
    create = b"nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    /// Frees a program.
    destroy = b"nvrtcDestroyProgram" (*mut Program);
    /// Compiles it with options.
    compile = b"nvrtcCompileProgram" (Program, c_int, *const *const c_char);
    /// Bytes of what the compiler said.
    log_size = b"nvrtcGetProgramLogSize" (Program, *mut usize);
    /// What it said.
    log = b"nvrtcGetProgramLog" (Program, *mut c_char);
    /// Bytes of the machine code.
    cubin_size = b"nvrtcGetCUBINSize" (Program, *mut usize);
    /// The machine code.
    cubin = b"nvrtcGetCUBIN" (Program, *mut c_char);
}

/// `nvrtcProgram`
pub type Program = *mut c_void;

/// NVRTC, opened once: that of the first place where there is one. The error says where it was looked for.
pub fn nvrtc() -> Result<&'static Nvrtc> {
    static OPENED: OnceLock<Nvrtc> = OnceLock::new();
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let opened = open(&candidates(env::var_os("TERNAX_NVRTC").map(PathBuf::from), &folders))?;
    Ok(OPENED.get_or_init(|| opened))
}

/// Opens the first of `candidates` that can be, for the life of the process. Functions are taken from that library: to look for them by
/// the library's name would find whichever was loaded first, jax's own.
fn open(candidates: &[PathBuf]) -> Result<Nvrtc> {
    let mut reasons = Vec::new();
    for path in candidates {
        // SAFETY: NVIDIA's library, whose initialisers only set up its own state.
        let opened = unsafe { Library::new(path) }.and_then(|library| {
            let file_size = fs::metadata(path).map_or(0, |file| file.len());
            Nvrtc::of(&library, file_size).map(|functions| (library, functions))
        });
        match opened {
            Ok((library, functions)) => {
                log::debug!("NVRTC is {}", path.display());
                std::mem::forget(library);
                return Ok(functions);
            }
            Err(error) => reasons.push(format!("{}: {error}", path.display())),
        }
    }
    Err(Error::Gpu(format!(
        "libnvrtc was not found; install nvidia-cuda-nvrtc, or name the library in TERNAX_NVRTC ({})",
        reasons.join("; ")
    )))
}

/// Whether there is a driver of NVIDIA's; an error says what is missing.
pub fn driver() -> Result<()> {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: only opens the library.
    if *PRESENT.get_or_init(|| unsafe { cudarc::driver::sys::is_culib_present() }) {
        return Ok(());
    }
    Err(Error::Gpu("no CUDA driver was found on this machine".into()))
}

/// Whether the driver that is present encodes tensor maps: that of CUDA 12 or later.
pub fn encodes_tensor_maps() -> bool {
    static ENCODES: OnceLock<bool> = OnceLock::new();
    // SAFETY: only looks for the name.
    *ENCODES.get_or_init(|| unsafe { cudarc::driver::sys::culib().get::<unsafe extern "C" fn()>(b"cuTensorMapEncodeTiled").is_ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_either_cuda_are_found_the_newer_first_and_the_system_last() {
        let folder = tempfile::tempdir().expect("a folder");
        for (package, name) in [("cuda_nvrtc", NVRTC[1]), ("cu13", NVRTC[0]), ("cudnn", "libcudnn.so")] {
            let library = folder.path().join(package).join("lib");
            fs::create_dir_all(&library).expect("a folder");
            fs::write(library.join(name), "").expect("a library");
        }
        let found = candidates(None, &[folder.path().into(), folder.path().join("missing")]);
        let expected = ["cu13/lib/".to_owned() + NVRTC[0], "cuda_nvrtc/lib/".to_owned() + NVRTC[1]].map(|end| folder.path().join(end));
        assert_eq!(found, [&expected[..], &NVRTC.map(PathBuf::from)].concat());
    }

    #[test]
    fn a_library_that_is_named_is_the_only_one_tried() {
        assert_eq!(candidates(Some("mine.so".into()), &["elsewhere".into()]), [PathBuf::from("mine.so")]);
    }

    #[test]
    fn the_error_names_every_place_and_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("libnvrtc.so.13");
        fs::write(&text, "no library").expect("a file");
        let error = open(&[text.clone(), folder.path().join("missing.so")]).expect_err("neither is a library").to_string();
        assert!(error.contains("install nvidia-cuda-nvrtc") && error.contains("TERNAX_NVRTC"), "{error}");
        assert!(error.contains(&text.display().to_string()) && error.contains("missing.so"), "{error}");
    }
}
