//! Faults seeded into copies of the kernels: the machine or the oracle must catch every one of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, panic};

use half::bf16;
use ternax::cuda::kernel::HEADERS;
use ternax::cuda::plan::Attributes;

use crate::common::{Problem, Shape, Values, assert_close};
use crate::device::{Buffer, Element, Number, grouped, planned};
use crate::machine::{Machine, OPTIONS, Options, includes, registry};

/// A mistake: in a header, one text in place of another, and a call of the kernel that meets it.
struct Fault {
    header: &'static str,
    right: &'static str,
    wrong: &'static str,
    class: &'static str,
    shape: Shape,
}

const fn fault(header: &'static str, right: &'static str, wrong: &'static str, class: &'static str, sizes: [usize; 4]) -> Fault {
    let [tokens, in_dim, out_dim, group_size] = sizes;
    Fault { header, right, wrong, class, shape: Shape { tokens, in_dim, out_dim, group_size } }
}

const FEW: &str = "MatmulFew<float, float, 32, 1>";
const FEW_NARROW: &str = "MatmulFew<bf16, bf16, 32, 8>";
const FEW_ANY: &str = "MatmulFew<float, float, 0, 8>";
const MANY: &str = "MatmulMany<float, float, 32, 32, false>";
const MANY_ASYNC: &str = "MatmulMany<bf16, bf16, 32, 32, true>";
const TRANSPOSED: &str = "MatmulTransposed<float, float, 32, false>";
const TRANSPOSED_ASYNC: &str = "MatmulTransposed<bf16, bf16, 0, true>";
const CORRELATE: &str = "Correlate<float, false>";
const CORRELATE_ASYNC: &str = "Correlate<bf16, true>";
const HOPPER: &str = "HopperMatmul<true, 32>";
const HOPPER_TRANSPOSED: &str = "HopperMatmul<false, 32>";
const HOPPER_ANY: &str = "HopperMatmul<true, 0>";
const HOPPER_CORRELATE: &str = "HopperCorrelate<bf16>";

const FAULTS: &[Fault] = &[
    fault("matmul_few.cuh", "    SyncBlock();\n\n    float sums", "\n    float sums", FEW, [1, 2000, 20, 32]),
    fault("matmul_few.cuh", "WaitForCopies<kStages - 2>();", "WaitForCopies<kStages - 1>();", FEW, [1, 2000, 20, 32]),
    fault("matmul_few.cuh", "SyncWarp();  // the whole", "// the whole", FEW, [1, 4000, 20, 32]),
    fault("matmul_few.cuh", "SyncWarp();\n    for (int i = lane;", "for (int i = lane;", FEW, [1, 64, 20, 32]),
    fault("matmul_few.cuh", "byte0)) & 15;", "byte0)) & 12;", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "& 3));", "& 0));", FEW_NARROW, [2, 96, 20, 32]),
    fault("matmul_few.cuh", "8 * windows + 15, 16)", "8 * windows, 16)", FEW, [1, 1280, 20, 32]),
    fault("matmul_few.cuh", "place < layout.Group() && k < in", "k < in", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "digit = 4 - slot / 4 % 5", "digit = slot / 4 % 5", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "b * 55u", "b * 54u", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "row0 + r >= out || token", "token", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "left < 16 ? uint32_t(left)", "left < 16 ? 16", FEW, [1, 96, 21, 32]),
    fault("matmul_few.cuh", "unit % sizes.units_per_group * kUnitBytes;\n    };", "0;\n    };", FEW_ANY, [3, 700, 20, 350]),
    fault("matmul_few.cuh", "- unit0 / sizes.units_per_group;", "- 0;", FEW_ANY, [3, 3500, 20, 350]),
    fault("matmul_few.cuh", "limbs[1][l]) << 16 | limbs[0][l]", "limbs[0][l]) << 16 | limbs[1][l]", FEW, [1, 96, 20, 32]),
    fault("matmul_few.cuh", "split < call.splits", "split + 1 < call.splits", "Reduce<float>", [1, 2000, 20, 32]),
    fault("tile.cuh", "SyncBlock();  // stage s", "// stage s", MANY, [20, 128, 20, 32]),
    fault("tile.cuh", "WaitForCopies<kStages - 2>();", "WaitForCopies<kStages - 1>();", MANY_ASYNC, [20, 128, 24, 32]),
    fault("tile.cuh", "const int ahead = s + kStages - 1;", "const int ahead = s + kStages;", MANY_ASYNC, [20, 160, 24, 32]),
    fault("tile.cuh", "(s + 1) % kStages) * stage_bytes);", "s % kStages) * stage_bytes);", MANY, [20, 128, 20, 32]),
    fault("tile.cuh", "limb_a + limb_b > kMost", "limb_a + limb_b >= kMost", "MatmulMany<float, float, 0, 16, false>", [20, 8, 20, 8]),
    fault("tile.cuh", "8 * (kIsA ? middle : high)", "8 * (kIsA ? high : middle)", MANY, [20, 96, 20, 32]),
    fault("tile.cuh", "r < window.rows && c + h < window.columns", "r < window.rows", MANY, [20, 100, 20, 32]),
    fault("tile.cuh", "r < window.rows ? Max(0", "true ? Max(0", MANY_ASYNC, [20, 128, 24, 32]),
    fault("tile.cuh", "row >= rows || column", "column", MANY, [20, 96, 20, 32]),
    fault("tile.cuh", "* kPitch + 2 * row)", "* kPitch + row)", TRANSPOSED, [20, 96, 20, 32]),
    fault("tile.cuh", "byte * 55 + 1003", "byte * 55 + 903", MANY, [20, 96, 20, 32]),
    fault("tile.cuh", "low = high ^ 0x8000u;", "low = high;", MANY_ASYNC, [20, 128, 24, 32]),
    fault("matmul_many.cuh", "(inside ? step.length : 0)", "step.length", MANY, [20, 96, 20, 32]),
    fault("matmul_many.cuh", "place >= 0 && place < step.length", "place >= 0", MANY, [20, 100, 20, 32]),
    fault("matmul_many.cuh", "[Product::Column(j, c)];", "[Product::Column(j, 0)];", MANY, [20, 96, 20, 32]),
    fault("matmul_many.cuh", "Min(kK, end - first)", "kK", MANY, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "if (call.in_dim - input0 < kTile)", "if (false)", TRANSPOSED, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "      SyncBlock();\n    }\n    float", "    }\n    float", TRANSPOSED, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "GroupBytes() * 5;", "GroupBytes() * 4;", TRANSPOSED_ASYNC, [20, 300, 24, 48]),
    fault("matmul_transposed.cuh", "inside = row < rows;", "inside = true;", TRANSPOSED, [20, 96, 20, 32]),
    fault("matmul_transposed.cuh", "weights[i] : 0.0f", "weights[0] : 0.0f", TRANSPOSED, [20, 128, 20, 32]),
    fault("correlate.cuh", "SyncBlock();\n      for (int i", "for (int i", CORRELATE, [20, 96, 20, 32]),
    fault("correlate.cuh", "piece ? Load(to) : 0.0f", "0.0f", CORRELATE, [20, 300, 20, 300]),
    fault("correlate.cuh", "(gradient > 0) - (gradient < 0)", "(gradient > 0) - (gradient <= 0)", CORRELATE, [20, 96, 20, 32]),
    fault("correlate.cuh", "call.tokens - s * kK", "kK", CORRELATE_ASYNC, [20, 96, 24, 32]),
    fault("correlate.cuh", "i % here * group)", "0)", CORRELATE, [20, 96, 20, 32]),
    fault("state.cuh", "double(size) <= limit", "double(size) < limit", "AccumulateCheck", [0, 64, 9, 32]),
    fault("state.cuh", "SyncBlock();\n    if (threadIdx.x)", "if (threadIdx.x)", "AccumulateCheck", [0, 64, 9, 32]),
    fault("state.cuh", "uint64_t(corr) - uint64_t(score)", "uint64_t(int64_t(int(corr) - int(score)))", "Accumulate", [0, 64, 9, 32]),
    fault("hopper_tile.cuh", "at >> 3 & 0x70", "at >> 3 & 0x30", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "kSlow ? k * kLine : 2 * k", "2 * k", HOPPER_TRANSPOSED, [20, 96, 70, 32]),
    fault("hopper_tile.cuh", "kSlow ? kBlock / 16 : 1", "1", HOPPER_TRANSPOSED, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "8 * kLine / 16", "kLine / 16", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "block * kBlock", "0", HOPPER, [70, 64, 9, 32]),
    fault("hopper_tile.cuh", "WaitForCopies<1>();", "", HOPPER, [20, 200, 20, 32]),
    fault("hopper_tile.cuh", "WaitForCopies<0>();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "FenceProxies();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "SyncWarp();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "Full(stage), kFillers / 32", "Full(stage), kFillers / 64", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "turn.parity ^ 1", "turn.parity", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "Full(turn.stage), turn.parity)", "Full(turn.stage), turn.parity ^ 1)", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Empty(turn.stage), turn.parity ^ 1);", "", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Full(turn.stage), turn.parity);", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "uint32_t(stage == 0)", "1", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "    owing = true;", "    owing = false;", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "if (s > 0) Release(before);", "", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "if (s > 0) Release(before);", "Release(turn.stage);", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "if (steps > 0) Release(before);", "Release(before), Release(before);", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "WaitForProducts<1>(d);", "WaitForProducts<2>(d);", HOPPER, [20, 1040, 20, 32]),
    fault("hopper_tile.cuh", "WaitForProducts<0>(d);", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "FenceAccumulators();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "Max(0, Min(8, columns))", "8", HOPPER, [20, 352, 24, 32]),
    fault("hopper_decode.cuh", "0x03EB03EBu", "0x038B038Bu", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "held.skip & 4", "held.skip & 1", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "start + 16 <= end", "true", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "|| group >= groups", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "0x71", "0x73", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "known != group", "known < 0", HOPPER_ANY, [20, 72, 20, 24]),
    fault("hopper_matmul.cuh", "hopper::kSteps + line % 64", "hopper::kSteps + line", HOPPER_TRANSPOSED, [20, 96, 100, 32]),
    fault("hopper_matmul.cuh", "if (row >= call.tokens) continue;", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "GiveUpRegisters<hopper::kFillersRegisters>();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "left > 1)", "true)", HOPPER, [20, 96, 21, 32]),
    fault("hopper_correlate.cuh", "SyncBlock();  // the signs", "// the signs", HOPPER_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_correlate.cuh", "SyncBlock();  // before the next", "// before the next", HOPPER_CORRELATE, [20, 600, 20, 600]),
    fault("hopper_correlate.cuh", "first ? Load(to) : 0.0f", "0.0f", HOPPER_CORRELATE, [20, 300, 20, 300]),
    fault("hopper_correlate.cuh", "call.tokens - token, input0", "hopper::kSteps, input0", HOPPER_CORRELATE, [20, 96, 24, 32]),
];

/// The one place of `right` in a header of the repository, with `wrong` there instead.
fn mutated(fault: &Fault) -> String {
    let text = HEADERS.iter().find(|(name, _)| *name == fault.header).expect("a header").1;
    let count = text.matches(fault.right).count();
    assert_eq!(count, 1, "{}: {:?} must stand there once", fault.header, fault.right);
    text.replace(fault.right, fault.wrong)
}

/// Every fault in a namespace of its own, and every class as it should be.
fn machine() -> Machine {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda/faults");
    // Shared by all, so that `struct Call` is one type.
    let common = ["ptx.cuh", "hopper.cuh", "numbers.cuh", "call.cuh"];
    // What a mistake leaves unused is no news.
    let mut prelude =
        String::from("#pragma GCC diagnostic ignored \"-Wunused-variable\"\n#pragma GCC diagnostic ignored \"-Wunused-parameter\"\n");
    prelude += &common.map(|name| format!("#include \"{name}\"\n")).concat();
    prelude += &format!("namespace right {{\n{}}}\n", includes());
    let mut kernels = Vec::new();
    for (index, fault) in FAULTS.iter().enumerate() {
        let own = folder.join(index.to_string());
        fs::create_dir_all(&own).expect("a folder for the fault");
        for (name, text) in HEADERS.iter().filter(|(name, _)| !common.contains(name)) {
            let text = if *name == fault.header { mutated(fault) } else { (*text).into() };
            // Copies must differ, or `#pragma once` takes them for one file.
            fs::write(own.join(name), format!("{text}// fault {index}\n")).expect("a header");
        }
        let defining = includes_of(fault.class).unwrap_or(fault.header);
        prelude += &format!("namespace fault_{index} {{\n#include \"{}\"\n}}\n", own.join(defining).display());
        kernels.push((name(index), format!("fault_{index}::{}", fault.class)));
    }
    let right: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.class).chain(["Accumulate", "AccumulateCheck", "Reduce<bf16>"]).collect();
    kernels.extend(right.into_iter().map(|class| (class.to_owned(), format!("right::{class}"))));
    let text = FAULTS.iter().map(|fault| format!("// {}", fault.wrong.replace('\n', " "))).collect::<Vec<_>>().join("\n");
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp/cuda");
    Machine::build("faults", &[registry(true, &prelude, &kernels) + &text], &headers)
}

fn name(index: usize) -> String {
    format!("fault {index}")
}

/// The header that defines a class, where it may not be the one with the fault.
fn includes_of(class: &str) -> Option<&'static str> {
    let headers = [
        ("MatmulMany<", "matmul_many.cuh"),
        ("MatmulTransposed<", "matmul_transposed.cuh"),
        ("Correlate<", "correlate.cuh"),
        ("HopperMatmul<", "hopper_matmul.cuh"),
        ("HopperCorrelate<", "hopper_correlate.cuh"),
    ];
    headers.iter().find(|(start, _)| class.starts_with(start)).map(|&(_, header)| header)
}

/// What became of a call in which `fault` stands for its class, or of the right call where there is no fault.
struct Trial<'a> {
    machine: &'a Machine,
    fault: &'a Fault,
    seeded: Option<usize>,
    options: Options,
}

impl Trial<'_> {
    fn call(&self, operation: &str, attributes: Attributes, operands: &[&Buffer<'_>], results: &[&Buffer<'_>]) -> Result<(), String> {
        let (plan, _scratch) = planned(self.machine, operation, attributes, operands, results);
        let on_hopper = self.fault.class.starts_with("Hopper");
        let launches = if on_hopper { plan.hopper.expect("a kernel on warpgroups").launches } else { plan.launches };
        let meets = launches.iter().any(|launch| launch.kernel.class == self.fault.class);
        assert!(meets, "{} of {:?} does not run {}", operation, self.fault.shape, self.fault.class);
        for launch in &launches {
            let seeded = self.seeded.filter(|_| launch.kernel.class == self.fault.class);
            let name = seeded.map_or(launch.kernel.class.clone(), name);
            self.machine.launch(&name, launch, self.options)?;
        }
        Ok(())
    }

    /// An error of the machine, or one that says where the results are wrong.
    fn outcome(&self) -> Result<(), String> {
        if self.fault.header == "state.cuh" {
            return self.state();
        }
        if self.fault.class.contains("bf16") || self.fault.class.starts_with("Hopper") {
            self.values::<bf16>(true)
        } else {
            self.values::<f32>(false)
        }
    }

    fn values<X: Number>(&self, narrow: bool) -> Result<(), String> {
        for values in [Values::Dyadic, Values::Uniform] {
            let mut problem = Problem::<X>::new(self.fault.shape, values);
            if narrow {
                problem.scale.iter_mut().for_each(|scale| *scale = bf16::from_f32(*scale).to_f32());
            }
            let correct = match self.fault.class.split('<').next() {
                Some("MatmulTransposed") => self.product(&problem, false, narrow)?,
                Some("Correlate" | "HopperCorrelate") => self.scores(&problem, values)?,
                _ if self.fault.class == HOPPER_TRANSPOSED => self.product(&problem, false, narrow)?,
                _ => self.product(&problem, true, narrow)?,
            };
            if !correct {
                return Err("wrong values".into());
            }
        }
        Ok(())
    }

    fn product<X: Number>(&self, problem: &Problem<X>, forward: bool, narrow: bool) -> Result<bool, String> {
        let (machine, layout) = (self.machine, problem.layout);
        let Shape { tokens, in_dim, out_dim, group_size } = problem.shape;
        let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
        let rounded: Vec<bf16> = problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
        let shape = [out_dim, layout.groups()];
        let scale = if narrow { Buffer::of(machine, &rounded, &shape) } else { Buffer::of(machine, &problem.scale, &shape) };
        let (operation, data, from, to) =
            if forward { ("matmul", &problem.x, in_dim, out_dim) } else { ("matmul_transposed", &problem.dy, out_dim, in_dim) };
        let data = Buffer::of(machine, data, &[tokens, from]);
        let result = Buffer::result(machine, X::DTYPE, &[tokens, to]);
        self.call(operation, grouped(group_size), &[&data, &trits, &scale], &[&result])?;
        let wanted = if forward { problem.matmul() } else { problem.matmul_transposed() };
        let close = || assert_close(result.values::<X>(), &wanted, from, "seeded");
        Ok(panic::catch_unwind(panic::AssertUnwindSafe(close)).is_ok())
    }

    fn scores<X: Number>(&self, problem: &Problem<X>, values: Values) -> Result<bool, String> {
        let (machine, layout) = (self.machine, problem.layout);
        let Shape { tokens, in_dim, out_dim, group_size } = problem.shape;
        let x = Buffer::of(machine, &problem.x, &[tokens, in_dim]);
        let dy = Buffer::of(machine, &problem.dy, &[tokens, out_dim]);
        let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
        let score = Buffer::result(machine, f32::DTYPE, &[out_dim, layout.groups()]);
        let votes = Buffer::result(machine, f32::DTYPE, &[]);
        self.call("correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes])?;
        let near = |(found, (wanted, undecided)): (&f32, (f32, f32))| {
            (found - wanted).abs() <= if values == Values::Dyadic { 0.0 } else { 2.0 * undecided }
        };
        Ok(score.values::<f32>().iter().zip(problem.scores()).all(near))
    }

    /// Two honest votes and scores at their limit.
    fn state(&self) -> Result<(), String> {
        let (machine, Shape { out_dim, group_size, .. }) = (self.machine, self.fault.shape);
        let shape = [out_dim, 2];
        let corr = Buffer::of(machine, &[1, 5].repeat(2 * out_dim), &[out_dim, 2, 2]);
        let step = Buffer::of(machine, &[7, 0], &[2]);
        let score = Buffer::of(machine, &vec![2.0 * group_size as f32; 2 * out_dim], &shape);
        let votes = Buffer::of(machine, &[2.0_f32], &[]);
        let attributes = Attributes { group_size: group_size as i64, gain: 0.0, wanted_votes: -1 };
        self.call("accumulate", attributes, &[&corr, &step, &score, &votes], &[&corr, &step])?;
        let wanted = [1 - 2 * group_size as i32, 4].repeat(2 * out_dim);
        if corr.values::<i32>() == wanted && step.values::<i32>() == [9, 0] { Ok(()) } else { Err("wrong state".into()) }
    }
}

#[test]
fn every_seeded_fault_is_caught() {
    let machine = machine();
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let (mut missed, mut broken) = (Vec::new(), Vec::new());
    for (index, fault) in FAULTS.iter().enumerate() {
        let trial = |seeded, options| Trial { machine: &machine, fault, seeded, options }.outcome();
        let described = format!("{}: {:?} for {:?}", fault.header, fault.wrong, fault.right);
        if let Err(error) = OPTIONS.iter().try_for_each(|&options| trial(None, options)) {
            broken.push(format!("{described}: {error}"));
        }
        if OPTIONS.iter().all(|&options| trial(Some(index), options).is_ok()) {
            missed.push(described);
        }
    }
    panic::set_hook(quiet);
    assert!(broken.is_empty(), "without the fault these calls should be right:\n{}", broken.join("\n"));
    assert!(missed.is_empty(), "not caught:\n{}", missed.join("\n"));
}
