//! One kernel for each group of machine instructions: what the emulation gives is committed, and a card is compared with it by
//! `make gpu-check`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use ternax::cuda::call::{Call, Launch};
use ternax::cuda::kernel::Kernel;

use crate::device::Buffer;
use crate::machine::{Machine, OPTIONS, registry};

/// Classes of `units.cuh`, and the words that each thread of a warp writes, or of a warpgroup for those of Hopper.
const UNITS: [(&str, usize); 17] = [
    ("UnitConversions", 32),
    ("UnitBytes", 24),
    ("UnitArithmetic", 10),
    ("UnitShuffles", 5),
    ("UnitIntegers", 8),
    ("UnitCopies", 8),
    ("UnitMatrices<false>", 4),
    ("UnitMatrices<true>", 4),
    ("UnitMultiply<false, 16>", 4),
    ("UnitMultiply<false, 8>", 4),
    ("UnitMultiply<true, 16>", 4),
    ("UnitMultiply<true, 8>", 4),
    ("UnitHopperBarriers", 6),
    ("UnitHopperMultiply<false, false, false>", 9),
    ("UnitHopperMultiply<false, false, true>", 9),
    ("UnitHopperMultiply<true, true, true>", 9),
    ("UnitHopperMultiply<true, true, false>", 9),
];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda")
}

#[test]
fn the_emulated_instructions_give_what_is_committed_under_every_schedule() {
    let kernels = UNITS.map(|(class, _)| (class.to_owned(), class.to_owned()));
    let text = fs::read_to_string(here().join("units.cuh")).expect("the units");
    let machine = Machine::build("units", &[registry(true, &text.replace("#pragma once", ""), &kernels)], &here().join("../../cpp/cuda"));
    let mut report = String::from(
        "# Class and words of each thread, then the words of a warp, or of a warpgroup for UnitHopper: written by tests/cuda/units.rs.\n",
    );
    for (class, words) in UNITS {
        let (threads, shared) = if class.starts_with("UnitHopper") { (128, 192 * 128) } else { (32, 1024) };
        let found = OPTIONS.map(|options| {
            // The second half is what UnitCopies copies from.
            let mut start = vec![0_i32; threads * words];
            start.extend(0..(threads * words) as i32);
            let buffer = Buffer::of(&machine, &start, &[2 * threads * words]);
            let call = Call { results: [buffer.tensor().address, 0, 0], ..Call::default() };
            let kernel = Kernel { header: "units.cuh", class: class.into(), threads: threads as u32, resident: 1 };
            machine.launch(class, &Launch { kernel, grid: [1, 1, 1], call, shared }, options).expect(class);
            buffer.values::<i32>()[..threads * words].to_vec()
        });
        assert!(found[1..].iter().all(|other| *other == found[0]), "{class} depends on the schedule");
        writeln!(report, "{class} {words}").expect("a string grows");
        for line in found[0].chunks(16) {
            writeln!(report, "{}", line.iter().map(|word| format!("{word:08x}")).collect::<Vec<_>>().join(" ")).expect("a string grows");
        }
    }
    let path = here().join("units.txt");
    if env::var_os("TERNAX_WRITE_UNITS").is_some() {
        fs::write(&path, &report).expect("the units are written");
    }
    assert_eq!(report, fs::read_to_string(&path).expect("the committed units"), "TERNAX_WRITE_UNITS=1 writes them anew");
}
