//! NVRTC: from a kernel's source to a cubin for one architecture. Needs no GPU.

use std::ffi::{CString, c_char};
use std::ptr;

use cudarc::nvrtc::{result::NvrtcError, sys};

use super::cache::{Cache, fingerprint};
use super::kernel::{HEADERS, Kernel};
use super::library;
use crate::error::{Error, Result};

/// Options beside the architecture. No fast math: denormals, divisions and roundings are those of IEEE 754.
const OPTIONS: [&str; 3] = ["--std=c++17", "-default-device", "--ptxas-options=-v"];

/// A compiled kernel.
#[derive(Debug)]
pub struct Compiled {
    /// The machine code.
    pub cubin: Vec<u8>,
    /// What the compiler and ptxas said: registers and spills among it.
    pub log: String,
}

/// A program that NVRTC holds.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is ours and not used again.
        let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

fn check(what: &str, result: sys::nvrtcResult) -> Result<()> {
    result.result().map_err(|NvrtcError(code)| Error::Gpu(format!("NVRTC fails to {what}: {code:?}")))
}

fn text(text: &str) -> CString {
    CString::new(text).expect("sources and options hold no NUL")
}

impl Program {
    fn new(source: &str) -> Result<Self> {
        let (source, name) = (text(source), text("ternax.cu"));
        let (names, texts): (Vec<CString>, Vec<CString>) = HEADERS.iter().map(|(name, header)| (text(name), text(header))).unzip();
        let pointers = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).collect::<Vec<*const c_char>>();
        let (names_at, texts_at) = (pointers(&names), pointers(&texts));
        let mut program = Self(ptr::null_mut());
        // SAFETY: all strings end with a NUL and live through the call, which copies them.
        let result = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program.0,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                texts_at.as_ptr(),
                names_at.as_ptr(),
            )
        };
        check("take the source", result).map(|()| program)
    }

    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program lives and `size` is writable.
        if check("give its log's size", unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut size) }).is_err() {
            return String::new();
        }
        let mut log = vec![0_u8; size];
        // SAFETY: the buffer is as long as NVRTC said.
        let _ = unsafe { sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) };
        String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program lives and `size` is writable.
        check("give the cubin's size", unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) })?;
        let mut cubin = vec![0_u8; size];
        // SAFETY: the buffer is as long as NVRTC said.
        check("give the cubin", unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) })?;
        Ok(cubin)
    }
}

/// The first line of a log that names an error, or all of it.
fn first_error(log: &str) -> &str {
    log.lines().find(|line| line.contains("error")).unwrap_or(log)
}

/// Compiles a source for one architecture, as in `sm_90a`.
pub fn compile_source(source: &str, architecture: &str) -> Result<Compiled> {
    library::nvrtc()?;
    let program = Program::new(source)?;
    let options: Vec<CString> =
        [format!("--gpu-architecture={architecture}")].iter().map(String::as_str).chain(OPTIONS).map(text).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: the program lives, and so do the options.
    let result = unsafe { sys::nvrtcCompileProgram(program.0, pointers.len() as i32, pointers.as_ptr()) };
    let log = program.log();
    if let Err(error) = check(&format!("compile for {architecture}"), result) {
        let first = first_error(&log);
        return Err(Error::Gpu(format!("{error}{}{first}", if first.is_empty() { "" } else { ": " })));
    }
    Ok(Compiled { cubin: program.cubin()?, log })
}

/// Compiles a kernel for one architecture.
pub fn compile(kernel: &Kernel, architecture: &str) -> Result<Compiled> {
    compile_source(&kernel.source(), architecture)
}

/// NVRTC's version, as in `13.2`.
fn version() -> Result<String> {
    library::nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both numbers are writable.
    check("give its version", unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok(format!("{major}.{minor}"))
}

/// What a compiled kernel depends on: the source, all headers, the options, the architecture and the compiler.
fn key(source: &str, architecture: &str, compiler: &str) -> String {
    let headers = HEADERS.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    format!("nvrtc {compiler}\n{architecture}\n{}\n{:032x}\n{source}", OPTIONS.join(" "), fingerprint(headers))
}

/// The cubin of a kernel, from the cache where it is there.
pub fn cubin(kernel: &Kernel, architecture: &str, cache: &Cache) -> Result<Vec<u8>> {
    let source = kernel.source();
    cache.get_or_build(&key(&source, architecture, &version()?), || {
        log::debug!("compiling {} for {architecture}", kernel.class);
        compile_source(&source, architecture).map(|compiled| compiled.cubin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_source_architecture_and_compiler() {
        let source = Kernel::pack().source();
        let keys = [
            key(&source, "sm_80", "13.0"),
            key(&source, "sm_90a", "13.0"),
            key(&source, "sm_80", "13.1"),
            key(&Kernel::unpack().source(), "sm_80", "13.0"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(keys[index + 1..].iter().all(|other| other != one), "{one}");
        }
        assert_eq!(keys[0], key(&source, "sm_80", "13.0"));
    }

    #[test]
    fn of_a_long_log_the_first_error_is_shown() {
        assert_eq!(first_error("a.cuh(3): warning: w\nb.cuh(4): error: wrong\nc: error: more"), "b.cuh(4): error: wrong");
        assert_eq!(first_error("no such word"), "no such word");
    }
}
