//! One kernel for each group of machine instructions: what the emulation gives is committed, and a card is compared with it by
//! `make gpu-check`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use ternax::cuda::call::{Call, Launch};
use ternax::cuda::kernel::Kernel;
use ternax::cuda::tensor::Dtype;
use ternax::cuda::tensor_map::TensorMap;

use crate::device::Buffer;
use crate::machine::{Machine, OPTIONS, registry};

/// Classes of `units.cuh`, and the words that each thread writes.
const UNITS: [(&str, usize); 21] = [
    ("UnitConversions", 32),
    ("UnitBytes", 24),
    ("UnitArithmetic", 10),
    ("UnitShuffles", 5),
    ("UnitIntegers", 8),
    ("UnitCopies", 8),
    ("UnitStores", 3),
    ("UnitMatrices<false>", 4),
    ("UnitMatrices<true>", 4),
    ("UnitMultiply<false, 16>", 4),
    ("UnitMultiply<false, 8>", 4),
    ("UnitMultiply<true, 16>", 4),
    ("UnitMultiply<true, 8>", 4),
    ("UnitHopperBarriers", 6),
    ("UnitHopperRegisters", 1),
    ("UnitHopperBoxes", 6),
    ("UnitHopperFences", 4),
    ("UnitHopperMultiply<false, false, false>", 5),
    ("UnitHopperMultiply<false, false, true>", 5),
    ("UnitHopperMultiply<true, true, true>", 5),
    ("UnitHopperMultiply<true, true, false>", 5),
];

/// Threads of a block and bytes of its shared memory.
fn block(class: &str) -> (usize, u32) {
    match class {
        "UnitHopperRegisters" => (512, 1024),
        _ if class.starts_with("UnitHopper") => (128, 192 * 128 + 1024),
        _ => (32, 1024),
    }
}

/// The tensor that a unit copies boxes of, at an address.
fn map(class: &str, address: u64) -> Option<TensorMap> {
    let (dims, rows) = match class {
        "UnitHopperBoxes" => ([72, 8, 2], 16),
        "UnitHopperFences" => ([64, 16, 1], 64),
        _ => return None,
    };
    Some(TensorMap::new(address, Dtype::Float16, dims, rows).expect("a lawful tensor map"))
}

/// Its arguments as the driver's encoder takes them, but for the address, which counts from the start of the buffer.
fn arguments(map: &TensorMap, start: u64) -> String {
    let TensorMap { address, dims, strides, tile, element_strides, rank, dtype, interleave, swizzle, promotion, fill } = map;
    let codes = [*dtype as u32, *rank, *interleave as u32, *swizzle as u32, *promotion as u32, *fill as u32];
    let sizes = [&[address - start], &dims[..], &strides[..]].concat();
    let all = sizes.into_iter().chain([&tile[..], &element_strides[..], &codes[..]].concat().into_iter().map(u64::from));
    all.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda")
}

#[test]
fn the_emulated_instructions_give_what_is_committed_under_every_schedule() {
    let kernels = UNITS.map(|(class, _)| (class.to_owned(), class.to_owned()));
    let text = fs::read_to_string(here().join("units.cuh")).expect("the units");
    let machine = Machine::build("units", &[registry(true, &text.replace("#pragma once", ""), &kernels)], &here().join("../../cpp/cuda"));
    let mut report = String::from(
        "# Class, words of each thread, threads and bytes of shared memory, perhaps a tensor map, then all words: written by tests/cuda/units.rs.\n",
    );
    for (class, words) in UNITS {
        let (threads, shared) = block(class);
        let mut described = String::new();
        let found = OPTIONS.map(|options| {
            // The second half is what units copy from.
            let mut start = vec![0_i32; threads * words];
            start.extend(0..(threads * words) as i32);
            let buffer = Buffer::of(&machine, &start, &[2 * threads * words]);
            let start = buffer.tensor().address;
            let call = Call { results: [start, 0, 0], ..Call::default() };
            let kernel = Kernel { header: "units.cuh", class: class.into(), threads: threads as u32, resident: 1 };
            let map = map(class, start + (size_of::<i32>() * threads * words) as u64);
            described = format!("{class} {words} {threads} {shared}\n");
            map.iter().for_each(|map| described += &format!("map {}\n", arguments(map, start)));
            let maps = map.into_iter().collect();
            machine.launch(class, &Launch { maps, ..Launch::new(kernel, [1, 1, 1], call, shared) }, options).expect(class);
            buffer.values::<i32>()[..threads * words].to_vec()
        });
        assert!(found[1..].iter().all(|other| *other == found[0]), "{class} depends on the schedule");
        report += &described;
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
