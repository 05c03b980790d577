//! What the library asks a driver for, and what it makes of its errors: on a driver without a card, `tests/cuda/driver.c`.

#![cfg(target_os = "linux")]

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::{env, ptr};

use ternax::cuda::launch::{execute, initialize};
use ternax::cuda::plan::{Attributes, Plan, Request, plan};
use ternax::cuda::tensor::{Dtype, Tensor};

#[path = "cuda/compiler.rs"]
mod compiler;

/// A product in bfloat16 of many tokens: on Hopper one launch, with a tensor map.
fn product() -> Plan {
    let tensor = |address, dtype, shape: &[usize]| Tensor { dtype, shape: shape.into(), address };
    let operands = vec![
        tensor(0x10_0000, Dtype::Bfloat16, &[4096, 2048]),
        tensor(0x200_0000, Dtype::Uint8, &[2048, 64, 7]),
        tensor(0x300_0000, Dtype::Bfloat16, &[2048, 64]),
    ];
    let results = vec![tensor(0x400_0000, Dtype::Bfloat16, &[4096, 2048])];
    let attributes = Attributes { group_size: 32, ..Attributes::default() };
    let mut request = Request { operation: "matmul".into(), operands, results, attributes, any_tokens: false };
    let elements = plan(&request).expect("a lawful call").scratch;
    request.results.push(tensor(0x800_0000, Dtype::Float32, &[elements]));
    plan(&request).expect("a lawful call with scratch")
}

/// Runs in a process of its own, whose loader finds the driver of the tests: the driver and the compiler are looked up once.
#[test]
#[ignore = "the other tests start it"]
fn a_call_on_the_driver_of_the_tests() {
    if env::var("FAKE_DRIVER").as_deref() != Ok("no compiler") {
        compiler::find();
    }
    let (plan, stream) = (product(), ptr::without_provenance_mut::<c_void>(0x5000));
    for stage in ["first", "second"] {
        // SAFETY: the driver of the tests takes any stream.
        match unsafe { initialize(&plan, stream) } {
            Ok(()) => println!("{stage} initialize is done"),
            Err(error) => println!("{stage} initialize fails: {error}"),
        }
    }
    // SAFETY: as above, and it launches nothing.
    match unsafe { execute(&plan, stream) } {
        Ok(()) => println!("execute is done"),
        Err(error) => println!("execute fails: {error}"),
    }
}

/// What a call prints where the driver fails in one way, or where there is none.
fn printed(fails: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    if fails != "no driver" {
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/driver.c");
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(folder.path().join("libcuda.so"))
            .arg(source)
            .status();
        assert!(built.expect("a C compiler").success());
    }
    let mut command = Command::new(env::current_exe().expect("this test"));
    command.args(["--ignored", "--exact", "--nocapture", "a_call_on_the_driver_of_the_tests"]);
    command.env("FAKE_DRIVER", fails).env("LD_LIBRARY_PATH", folder.path()).env("XDG_CACHE_HOME", folder.path());
    if fails == "no compiler" {
        command.env("TERNAX_NVRTC", folder.path().join("missing.so"));
    }
    let output = command.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn a_kernel_is_loaded_once_and_launched_with_its_tensor_map() {
    let text = printed("nowhere");
    assert_eq!(
        [count(&text, "load machine code"), count(&text, "find ternax_kernel"), count(&text, "load the function")],
        [1; 3],
        "{text}"
    );
    assert_eq!(
        [count(&text, "first initialize is done"), count(&text, "second initialize is done"), count(&text, "execute is done")],
        [1; 3],
        "{text}"
    );
    // 8: the most dynamic shared memory.
    assert_eq!(count(&text, "attribute 8 is 196672"), 1, "{text}");
    let (before, after) = text.split_once("second initialize is done").expect("both stages");
    assert!(!before.contains("launch"), "{text}");
    let asked: Vec<&str> = after.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
    let launch = "launch 0x3000 on 0x5000: 132 1 1 blocks of 512 1 1, 196672 bytes, map 5A";
    assert_eq!(asked, ["encode a map of rank 3", launch, "contexts left 0", "execute is done"], "{text}");
    assert_eq!(count(&text, "contexts left 0"), count(&text, "contexts left"), "every context is popped: {text}");
}

#[test]
fn errors_say_what_failed_and_leave_the_context_as_it_was() {
    for (fails, words) in [
        ("old", &["initialize fails", "HopperMatmul<bf16, true, 32, true>", "upgrade the driver", "no kernel image"][..]),
        ("memory", &["initialize fails", "load HopperMatmul<bf16, true, 32, true>", "out of memory"]),
        ("shared", &["initialize fails", "196672 bytes of shared memory", "out of memory"]),
        ("volta", &["initialize fails", "compute capability 7.0", "backend('reference')"]),
        ("no compiler", &["initialize fails", "libnvrtc was not found", "missing.so"]),
    ] {
        let text = printed(fails);
        for stage in ["first initialize fails", "second initialize fails", "execute fails"] {
            assert_eq!(count(&text, stage), 1, "{fails}: {text}");
        }
        let first = text.lines().find(|line| line.contains("first initialize fails")).expect("the first error");
        assert!(words.iter().all(|word| first.contains(word)), "{fails}: {text}");
        assert_eq!(count(&text, "contexts left 0"), count(&text, "contexts left"), "{fails}: {text}");
        assert_eq!(count(&text, "launch 0x"), 0, "{fails}: {text}");
    }
    let text = printed("launch");
    assert_eq!([count(&text, "second initialize is done"), count(&text, "execute fails")], [1; 2], "{text}");
    assert!(text.contains("fails to launch HopperMatmul<bf16, true, 32, true>: out of memory"), "{text}");
}

#[test]
fn without_a_driver_every_stage_is_an_error() {
    let text = printed("no driver");
    assert_eq!(count(&text, "fails: CUDA: no CUDA driver was found on this machine"), 3, "{text}");
}
