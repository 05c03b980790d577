//! NVRTC: from a kernel's source to a cubin for one architecture. Needs no GPU.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use super::cache::{Cache, fingerprint};
use super::kernel::{HEADERS, Kernel};
use super::library::{self, Nvrtc};
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
struct Program {
    nvrtc: &'static Nvrtc,
    handle: library::Program,
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is ours and not used again.
        let _ = unsafe { (self.nvrtc.destroy)(&raw mut self.handle) };
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("sources and options hold no NUL")
}

impl Program {
    fn new(source: &str) -> Result<Self> {
        let nvrtc = library::nvrtc()?;
        let (source, name) = (text(source), text("ternax.cu"));
        let (names, texts): (Vec<CString>, Vec<CString>) = HEADERS.iter().map(|(name, header)| (text(name), text(header))).unzip();
        let pointers = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).collect::<Vec<*const c_char>>();
        let (names_at, texts_at) = (pointers(&names), pointers(&texts));
        let mut program = Self { nvrtc, handle: ptr::null_mut() };
        // SAFETY: all strings end with a NUL and live through the call, which copies them.
        let code = unsafe {
            (nvrtc.create)(
                &raw mut program.handle,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                texts_at.as_ptr(),
                names_at.as_ptr(),
            )
        };
        nvrtc.check("take the source", code).map(|()| program)
    }

    fn compile(&self, what: &str, options: &[&str]) -> Result<()> {
        let options: Vec<CString> = options.iter().copied().map(text).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program lives, and so do the options.
        self.nvrtc.check(what, unsafe { (self.nvrtc.compile)(self.handle, pointers.len() as i32, pointers.as_ptr()) })
    }

    /// What one pair of NVRTC's functions gives: a number of bytes, and these.
    fn bytes(
        &self,
        what: &str,
        size: unsafe extern "C" fn(library::Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(library::Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program lives and the number is writable.
        self.nvrtc.check(what, unsafe { size(self.handle, &raw mut length) })?;
        let mut bytes = vec![0_u8; length];
        // SAFETY: the buffer is as long as NVRTC said.
        self.nvrtc.check(what, unsafe { get(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn log(&self) -> String {
        let log = self.bytes("give its log", self.nvrtc.log_size, self.nvrtc.log).unwrap_or_default();
        String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned()
    }
}

/// The first line of a log that names an error, or all of it.
fn first_error(log: &str) -> &str {
    log.lines().find(|line| line.contains("error")).unwrap_or(log)
}

/// Compiles a source for one architecture, as in `sm_90a`.
pub fn compile_source(source: &str, architecture: &str) -> Result<Compiled> {
    let program = Program::new(source)?;
    let target = format!("--gpu-architecture={architecture}");
    let compiled = program.compile(&format!("compile for {architecture}"), &[&[target.as_str()], &OPTIONS[..]].concat());
    let log = program.log();
    if let Err(error) = compiled {
        let first = first_error(&log);
        return Err(match error {
            Error::Gpu(text) if !first.is_empty() => Error::Gpu(format!("{text}: {first}")),
            error => error,
        });
    }
    Ok(Compiled { cubin: program.bytes("give the cubin", program.nvrtc.cubin_size, program.nvrtc.cubin)?, log })
}

/// Compiles a kernel for one architecture.
pub fn compile(kernel: &Kernel, architecture: &str) -> Result<Compiled> {
    compile_source(&kernel.source(), architecture)
}

/// NVRTC's version and the size of its file: the releases of one version differ by that alone. Its own name for its build is known only to
/// who compiles something, which costs more than to read a cubin.
fn compiler() -> Result<String> {
    let nvrtc = library::nvrtc()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both numbers are writable.
    nvrtc.check("give its version", unsafe { (nvrtc.version)(&raw mut major, &raw mut minor) })?;
    Ok(format!("nvrtc {major}.{minor} of {} bytes", nvrtc.file_size))
}

/// What a compiled kernel depends on: the source, all headers, the options, the architecture and the compiler.
fn key(source: &str, headers: &[(&str, &str)], options: &[&str], architecture: &str, compiler: &str) -> String {
    let headers = headers.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    format!("{compiler}\n{architecture}\n{}\n{:032x}\n{source}", options.join(" "), fingerprint(headers))
}

/// The cubin of a kernel, from the cache where it is there.
pub fn cubin(kernel: &Kernel, architecture: &str, cache: &Cache) -> Result<Vec<u8>> {
    let source = kernel.source();
    cache.get_or_build(&key(&source, HEADERS, &OPTIONS, architecture, &compiler()?), || {
        log::debug!("compiling {} for {architecture}", kernel.class);
        compile_source(&source, architecture).map(|compiled| compiled.cubin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_everything_that_machine_code_depends_on() {
        let (source, other) = (Kernel::pack().source(), Kernel::unpack().source());
        let headers = [("a.cuh", "int a;"), ("b.cuh", "int b;")];
        let keys = [
            key(&source, &headers, &OPTIONS, "sm_80", "build 1"),
            key(&other, &headers, &OPTIONS, "sm_80", "build 1"),
            key(&source, &headers[..1], &OPTIONS, "sm_80", "build 1"),
            key(&source, &[headers[0], ("b.cuh", "int c;")], &OPTIONS, "sm_80", "build 1"),
            key(&source, &[headers[0], ("c.cuh", "int b;")], &OPTIONS, "sm_80", "build 1"),
            key(&source, &headers, &OPTIONS[..2], "sm_80", "build 1"),
            key(&source, &headers, &OPTIONS, "sm_90a", "build 1"),
            key(&source, &headers, &OPTIONS, "sm_80", "build 2"),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(keys[index + 1..].iter().all(|other| other != one), "{one}");
        }
        assert_eq!(keys[0], key(&source, &headers, &OPTIONS, "sm_80", "build 1"));
    }

    #[test]
    fn of_a_long_log_the_first_error_is_shown() {
        assert_eq!(first_error("a.cuh(3): warning: w\nb.cuh(4): error: wrong\nc: error: more"), "b.cuh(4): error: wrong");
        assert_eq!(first_error("no such word"), "no such word");
    }
}
