//! Plans of calls of every size: what a card can hold, and what must be refused.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use ternax::cuda::call::Launch;
use ternax::cuda::kernel::{Kernel, PRODUCTS};
use ternax::cuda::plan::{Attributes, Plan, Request, plan, scratch};
use ternax::cuda::tensor::{Dtype, Tensor};
use ternax::cuda::tensor_map::TensorMap;

use crate::common::{Random, Shape};
use crate::device::grouped;
use crate::{hopper, products, scores};

/// Dynamic shared memory of one block on the smallest card: sm_86 and sm_89.
const SMALLEST_CARD: u32 = 99 << 10;

fn tensor(dtype: Dtype, shape: &[usize]) -> Tensor {
    Tensor { dtype, shape: shape.into(), address: 0 }
}

fn planned(operation: &str, operands: Vec<Tensor>, results: Vec<Tensor>, attributes: Attributes) -> Result<Plan, String> {
    plan(&Request { operation: operation.into(), operands, results, attributes, any_tokens: false }).map_err(|error| error.to_string())
}

/// Dynamic shared memory of one block on Hopper.
const HOPPER: u32 = 227 << 10;

/// Trits and scales of a weight.
fn weight(in_dim: usize, out: usize, group_size: usize, scale: Dtype) -> [Tensor; 2] {
    let groups = in_dim.div_ceil(group_size);
    [tensor(Dtype::Uint8, &[out, groups, group_size.min(in_dim).div_ceil(5)]), tensor(scale, &[out, groups])]
}

/// Plans of the products and scores of one layer.
fn layer(tokens: usize, in_dim: usize, out: usize, group_size: usize, x: Dtype, scale: Dtype) -> [Plan; 3] {
    let [trits, scale] = weight(in_dim, out, group_size, scale);
    let (wide, narrow) = (tensor(x, &[tokens, in_dim]), tensor(x, &[tokens, out]));
    let score = tensor(Dtype::Float32, &scale.shape);
    let votes = tensor(Dtype::Float32, &[]);
    let attributes = grouped(group_size);
    let forward = planned("matmul", vec![wide.clone(), trits.clone(), scale.clone()], vec![narrow.clone()], attributes);
    let backward = planned("matmul_transposed", vec![narrow.clone(), trits.clone(), scale], vec![wide.clone()], attributes);
    let scores = planned("correlate", vec![wide, narrow, trits], vec![score, votes], attributes);
    [forward, backward, scores].map(|plan| plan.expect("a lawful layer"))
}

#[test]
fn every_launch_fits_the_smallest_card_and_runs_a_kernel_that_is_compiled_and_emulated() {
    let all: HashSet<Kernel> = Kernel::all().into_iter().collect();
    for group_size in [1, 5, 7, 16, 24, 31, 32, 40, 64, 80, 100, 128, 160, 256, 1000, 100_000] {
        for tokens in [1, 2, 8, 16, 17, 128, 1000, 100_000] {
            for (in_dim, out) in [(1, 1), (333, 77), (4096, 4096), (8192, 28_672), (28_672, 8192)] {
                for (x, scale) in [
                    (Dtype::Float32, Dtype::Float32),
                    (Dtype::Float16, Dtype::Float32),
                    (Dtype::Bfloat16, Dtype::Float32),
                    (Dtype::Bfloat16, Dtype::Bfloat16),
                ] {
                    let plans = layer(tokens, in_dim, out, group_size, x, scale);
                    let alternatives = || plans.iter().filter_map(|plan| plan.hopper.as_ref());
                    let mapped = alternatives().filter_map(|plan| plan.mapped.as_ref()).flatten();
                    let on_hopper = alternatives().flat_map(|plan| &plan.launches).chain(mapped);
                    let launches = plans.iter().flat_map(|plan| &plan.launches).map(|launch| (launch, SMALLEST_CARD));
                    for (launch, most) in launches.chain(on_hopper.map(|launch| (launch, HOPPER))) {
                        let what = format!("{tokens} tokens, {out}x{in_dim} in groups of {group_size}: {launch:?}");
                        assert!(launch.shared <= most, "{what}");
                        assert!(all.contains(&launch.kernel), "{what}");
                        let [x, y, z] = launch.grid;
                        assert!(x >= 1 && i32::try_from(x).is_ok() && (1..=65_535).contains(&y) && (1..=65_535).contains(&z), "{what}");
                    }
                }
            }
        }
    }
}

/// The launches of a layer that [`layer`] plans, on cards of any architecture.
fn everywhere(plan: &Plan) -> impl Iterator<Item = &Launch> {
    let hopper = plan.hopper.iter();
    plan.launches.iter().chain(hopper.flat_map(|plan| plan.launches.iter().chain(plan.mapped.iter().flatten())))
}

#[test]
fn the_shapes_that_are_run_under_every_schedule_meet_every_kernel() {
    let mut met = HashSet::new();
    let mut meet = |launches: &mut dyn Iterator<Item = &Launch>| met.extend(launches.map(|launch| launch.kernel.clone()));
    let lengths =
        || products::LENGTHS.into_iter().flat_map(|group_size| [1, 8, 16, 20].map(|tokens| products::of_group(tokens, group_size)));
    let of = |Shape { tokens, in_dim, out_dim, group_size }: Shape, (x, scale)| layer(tokens, in_dim, out_dim, group_size, x, scale);
    for types in PRODUCTS {
        for shape in products::shapes().chain(lengths()) {
            of(shape, types)[..2].iter().for_each(|plan| meet(&mut plan.launches.iter()));
        }
        scores::shapes().for_each(|shape| meet(&mut of(shape, types)[2].launches.iter()));
        for shape in hopper::shapes() {
            of(shape, types).iter().filter_map(|plan| plan.hopper.as_ref()).for_each(|plan| {
                meet(&mut plan.launches.iter().chain(plan.mapped.iter().flatten()));
            });
        }
        for (shape, maps) in hopper::lengths() {
            for plan in of(shape, types)[..2].iter().filter_map(|plan| plan.hopper.as_ref()) {
                meet(&mut plan.mapped.as_ref().filter(|_| maps).unwrap_or(&plan.launches).iter());
            }
        }
    }
    // Those of tests/cuda/state.rs, and the scores of a dense gradient, which have no tokens.
    let narrow = [Dtype::Float32, Dtype::Bfloat16];
    met.extend(narrow.map(Kernel::scale));
    let weights = [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16];
    for (scale, weights) in narrow.into_iter().flat_map(|scale| weights.map(|weights| (scale, weights))) {
        met.extend([false, true].map(|chunks| Kernel::dequantize(scale, weights, chunks)));
    }
    met.extend([Kernel::correlate_dense(), Kernel::accumulate_check(), Kernel::accumulate(), Kernel::pack(), Kernel::unpack()]);
    let missed: Vec<String> = Kernel::all().into_iter().filter(|kernel| !met.contains(kernel)).map(|kernel| kernel.class).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Bytes of dynamic shared memory by class: the most that any launch asks for.
fn shared_limits() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(shared_file()).expect("the committed limits");
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(' ').expect("two parts"));
    lines.map(|(bytes, class)| (class.to_owned(), bytes.parse().expect("a number of bytes"))).collect()
}

fn shared_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/shared.txt")
}

#[test]
fn shared_memory_stays_within_its_limits_which_every_card_has() {
    let mut found = BTreeMap::new();
    for group_size in [1, 2, 5, 7, 8, 12, 16, 24, 31, 32, 40, 64, 80, 100, 120, 128, 160, 256, 1000, 100_000] {
        for tokens in [1, 2, 8, 16, 17, 128, 1000, 100_000] {
            for (in_dim, out) in [(1, 1), (333, 77), (4096, 4096), (8192, 28_672), (28_672, 8192), (100_000, 64)] {
                for (x, scale) in PRODUCTS {
                    for plan in &layer(tokens, in_dim, out, group_size, x, scale) {
                        for launch in everywhere(plan) {
                            let most = found.entry(launch.kernel.class.clone()).or_insert(0);
                            *most = launch.shared.max(*most);
                            let of_card = if launch.kernel.is_of_hopper() { HOPPER } else { SMALLEST_CARD };
                            assert!(launch.shared <= of_card, "{launch:?}");
                        }
                    }
                }
            }
        }
    }
    if env::var_os("TERNAX_WRITE_LIMITS").is_some() {
        let head = "# Bytes of dynamic shared memory by kernel: the most that a launch asks for, from tests/cuda/plans.rs.\n".to_owned();
        let text = found.iter().fold(head, |text, (class, bytes)| text + &format!("{bytes} {class}\n"));
        fs::write(shared_file(), text).expect("the limits are written");
    }
    assert_eq!(found, shared_limits(), "TERNAX_WRITE_LIMITS=1 writes them anew");
    let without: Vec<_> = Kernel::all().into_iter().filter(|kernel| kernel.threads != 256 || kernel.resident != 4).collect();
    assert!(without.iter().all(|kernel| found.contains_key(&kernel.class)), "every kernel but those that work element by element");
}

#[test]
fn warpgroups_are_for_hopper_alone_and_for_many_tokens_in_16_bits() {
    let of_hopper = |launches: &[Launch]| launches.iter().filter(|launch| launch.kernel.header.starts_with("hopper")).count();
    let chosen = |architecture: &str, tokens: usize, group_size: usize, x: Dtype, scale: Dtype| {
        layer(tokens, 4096, 4096, group_size, x, scale).map(|plan| of_hopper(plan.on(architecture, true)))
    };
    let (narrow, half) = ((Dtype::Bfloat16, Dtype::Bfloat16), (Dtype::Float16, Dtype::Float32));
    assert_eq!(chosen("sm_90a", 4096, 32, narrow.0, narrow.1), [1, 1, 1]);
    for architecture in ["sm_80", "sm_89", "sm_100a", "sm_120a"] {
        assert_eq!(chosen(architecture, 4096, 32, narrow.0, narrow.1), [0, 0, 0], "{architecture}");
    }
    assert_eq!(chosen("sm_90a", 16, 32, narrow.0, narrow.1), [0, 0, 0], "few tokens");
    assert_eq!(chosen("sm_90a", 4096, 24, narrow.0, narrow.1), [0, 0, 1], "groups whose weights are stored one by one");
    assert_eq!(chosen("sm_90a", 4096, 40, narrow.0, narrow.1), [1, 1, 1], "groups that are decoded by words");
    assert_eq!(chosen("sm_90a", 4096, 32, half.0, half.1), [1, 1, 1]);
    assert_eq!(chosen("sm_90a", 4096, 32, Dtype::Bfloat16, Dtype::Float32), [0, 0, 1], "products in three limbs");
    assert_eq!(chosen("sm_90a", 4096, 32, Dtype::Float32, Dtype::Float32), [0, 0, 0]);
}

#[test]
fn tensor_maps_are_for_drivers_that_encode_them_and_operands_of_whole_sixteen_bytes() {
    let narrow = (Dtype::Bfloat16, Dtype::Bfloat16);
    let mapped = |in_dim: usize, out: usize, maps: bool| {
        layer(4096, in_dim, out, 32, narrow.0, narrow.1).map(|plan| plan.on("sm_90a", maps).iter().any(|launch| !launch.maps.is_empty()))
    };
    assert_eq!(mapped(4096, 4096, true), [true; 3]);
    assert_eq!(mapped(4096, 4096, false), [false; 3], "an old driver");
    assert_eq!(mapped(4100, 4096, true), [false, true, false], "rows of x that are no multiple of 16 bytes");
    assert_eq!(mapped(4096, 4100, true), [true, false, false], "rows of dy that are no multiple of 16 bytes");
    let of = |address, dtype, dims| TensorMap::new(address, dtype, dims, 256);
    let lawful = of(48, Dtype::Float16, [72, 20, 3]).expect("a lawful tensor map");
    assert_eq!((lawful.dims, lawful.strides, lawful.tile), ([72, 20, 3], [144, 2880], [64, 256, 1]));
    for (address, dtype, dims) in [
        (8, Dtype::Float16, [72, 20, 3]),
        (48, Dtype::Float32, [72, 20, 3]),
        (48, Dtype::Float16, [68, 20, 3]),
        (48, Dtype::Float16, [72, 0, 3]),
        (48, Dtype::Float16, [72, 1 << 33, 1]),
        (48, Dtype::Float16, [1 << 20, 1 << 20, 1]),
    ] {
        assert_eq!(of(address, dtype, dims), None, "{address} {dtype:?} {dims:?}");
    }
    assert_eq!(TensorMap::new(48, Dtype::Float16, [72, 20, 3], 257), None, "a box of 257 rows");
}

#[test]
fn scratch_is_asked_for_only_where_the_contraction_is_split_and_has_to_be_that_size() {
    let [trits, scale] = weight(8192, 64, 32, Dtype::Float32);
    let operands = vec![tensor(Dtype::Float32, &[1, 8192]), trits, scale];
    let y = tensor(Dtype::Float32, &[1, 64]);
    let size = planned("matmul", operands.clone(), vec![y.clone()], grouped(32)).expect("a lawful call").scratch;
    assert!(size > 64 && size.is_multiple_of(64), "{size}");
    let with = |scratch: usize| planned("matmul", operands.clone(), vec![y.clone(), tensor(Dtype::Float32, &[scratch])], grouped(32));
    assert_eq!(with(size).expect("the right scratch").launches.len(), 2, "the parts, and their sum");
    assert_eq!(with(size + 1).expect("more than enough").launches.len(), 2);
    assert!(with(size - 1).expect_err("too little").contains("matmul: scratch must be"));
}

#[test]
fn scratch_for_any_number_of_tokens_is_enough_for_every_number_and_no_more_than_one_of_them_needs() {
    let mut random = Random::new(5);
    let widths = [1, 64, 77, 256, 333, 1000, 4096];
    for (index, &out) in widths.iter().enumerate() {
        let (in_dim, group_size) = (widths[(index * 3 + 2) % widths.len()], [8, 24, 32, 256][index % 4]);
        for (x, scale) in PRODUCTS {
            for (operation, members) in [("matmul", 1), ("matmul_transposed", 1), ("correlate", 1), ("matmul", 3), ("correlate", 3)] {
                let request = |tokens: usize, any_tokens| {
                    let lead = |shape: &[usize]| [&[members], shape].concat();
                    let own = |tensor: Tensor| Tensor { shape: lead(&tensor.shape), ..tensor };
                    let [trits, scale] = weight(in_dim, out, group_size, scale).map(own);
                    let (wide, narrow) = (tensor(x, &lead(&[tokens, in_dim])), tensor(x, &lead(&[tokens, out])));
                    let score = tensor(Dtype::Float32, &scale.shape);
                    let (operands, results) = match operation {
                        "matmul" => (vec![wide, trits, scale], vec![narrow]),
                        "matmul_transposed" => (vec![narrow, trits, scale], vec![wide]),
                        _ => (vec![wide, narrow, trits], vec![score, tensor(Dtype::Float32, &[members])]),
                    };
                    Request { operation: operation.into(), operands, results, attributes: grouped(group_size), any_tokens }
                };
                let what = format!("{operation} of {out}x{in_dim} in groups of {group_size}, {members} members, {x:?} {scale:?}");
                let most = scratch(&request(1, true)).expect("a bound");
                assert!(most * size_of::<f32>() <= 32 << 20, "{what}: {most}");
                let mut needed = 0;
                for tokens in (0..300).chain((0..300).map(|_| random.integer(1, 100_000) as usize)).chain((1..530).map(|tiles| tiles * 128))
                {
                    let mut request = request(tokens, false);
                    let elements = scratch(&request).expect("a lawful call");
                    assert!(elements <= most, "{what}, {tokens} tokens: {elements} of {most}");
                    needed = elements.max(needed);
                    request.results.push(tensor(Dtype::Float32, &[most]));
                    assert_eq!(plan(&request).expect("enough scratch").scratch, elements, "{what}, {tokens} tokens");
                }
                assert_eq!(most, needed.max(1), "{what}");
            }
        }
    }
}

#[test]
fn scores_are_split_over_the_tokens_only_where_there_are_few_tiles_and_many_tokens() {
    let scores = |tokens: usize, width: usize| {
        let operands = vec![
            tensor(Dtype::Float32, &[tokens, width]),
            tensor(Dtype::Float32, &[tokens, width]),
            weight(width, width, 32, Dtype::Float32)[0].clone(),
        ];
        let results = vec![tensor(Dtype::Float32, &[width, width / 32]), tensor(Dtype::Float32, &[])];
        planned("correlate", operands, results, grouped(32)).expect("a lawful call")
    };
    for (tokens, width) in [(4096, 4096), (100_000, 2048), (64, 256)] {
        let plan = scores(tokens, width);
        assert_eq!((plan.launches.len(), plan.scratch), (1, 0), "{tokens} tokens, width {width}");
    }
    let plan = scores(100_000, 256);
    assert_eq!(plan.launches.len(), 2, "the parts, and the signs of their sum");
    assert_eq!(plan.scratch, plan.launches[0].call.splits as usize * 256 * 256);
    assert!(plan.scratch * size_of::<f32>() < 32 << 20, "never much memory");
}

#[test]
fn no_launch_is_empty_where_a_dimension_is() {
    let mut launches = 0;
    for (tokens, in_dim, out) in [(0, 64, 64), (512, 64, 0), (100_000, 8, 0), (1, 64, 0), (0, 64, 0), (512, 1, 0)] {
        for (x, scale) in PRODUCTS {
            let plans = layer(tokens, in_dim, out, 32, x, scale);
            let alternatives = plans.iter().filter_map(|plan| plan.hopper.as_ref());
            for launch in plans.iter().flat_map(|plan| &plan.launches).chain(alternatives.flat_map(|plan| &plan.launches)) {
                assert!(launch.grid.iter().all(|&blocks| blocks > 0), "{tokens} tokens, {out}x{in_dim}: {launch:?}");
                launches += 1;
            }
        }
    }
    assert!(launches > 0);
}

#[test]
fn weights_that_no_grid_covers_are_refused_by_their_dimension() {
    let wide = 128 * 65_535;
    let calls = |in_dim: usize, out: usize| {
        let [trits, scale] = weight(in_dim, out, 32, Dtype::Bfloat16);
        let (x, y) = (tensor(Dtype::Bfloat16, &[20, in_dim]), tensor(Dtype::Bfloat16, &[20, out]));
        let score = tensor(Dtype::Float32, &scale.shape);
        [
            planned("matmul", vec![x.clone(), trits.clone(), scale.clone()], vec![y.clone()], grouped(32)),
            planned("matmul_transposed", vec![y.clone(), trits.clone(), scale], vec![x.clone()], grouped(32)),
            planned("correlate", vec![x, y, trits], vec![score, tensor(Dtype::Float32, &[])], grouped(32)),
        ]
        .map(|plan| plan.err())
    };
    assert_eq!(calls(32, wide), [None, None, None]);
    assert_eq!(calls(wide, 32), [None, None, None]);
    let [forward, backward, scores] = calls(32, wide + 1);
    assert!(forward.expect("too wide").contains("matmul: out_dim must be at most 8388480, found 8388481"));
    assert_eq!((backward, scores), (None, None));
    let [forward, backward, scores] = calls(wide + 32, 32);
    assert_eq!(forward, None);
    for error in [backward, scores] {
        assert!(error.expect("too wide").contains("in_dim must be at most 8388480, found 8388512"));
    }
}

#[test]
fn blocks_that_share_tiles_are_as_many_as_the_card_has_multiprocessors() {
    let plan = |tokens| layer(tokens, 4096, 4096, 32, Dtype::Bfloat16, Dtype::Bfloat16);
    let (many, fewer) = (plan(4096), plan(256));
    for product in &many[..2] {
        let launch = &product.on("sm_90a", true)[0];
        for (card, wanted) in [(132, 132), (114, 114), (1, 1), (1000, 512)] {
            assert_eq!(launch.grid_on(card), [wanted, 1, 1], "16 by 32 tiles");
        }
    }
    let parts = &fewer[0].on("sm_90a", true)[0];
    assert_eq!((parts.grid_on(132), parts.grid_on(114), parts.grid_on(60)), ([32, 1, 4], [28, 1, 4], [15, 1, 4]), "32 tiles in 4 parts");
    let scores = &many[2].on("sm_90a", true)[0];
    assert_eq!(scores.grid_on(1), scores.grid, "each block has its own tile");
}

#[test]
fn wrong_operands_are_refused_by_name() {
    let refused = |operation: &str, operands: Vec<Tensor>, results: Vec<Tensor>, group_size: i64| {
        planned(operation, operands, results, Attributes { group_size, ..Attributes::default() }).expect_err("a wrong call")
    };
    let [trits, scale] = weight(64, 8, 32, Dtype::Float32);
    let (x, y) = (tensor(Dtype::Float32, &[3, 64]), tensor(Dtype::Float32, &[3, 8]));
    let call = || vec![x.clone(), trits.clone(), scale.clone()];
    assert!(refused("matmul", call(), vec![y.clone()], 0).contains("group_size must be at least 1"));
    assert!(refused("matmul", call(), vec![y.clone()], 16).contains("matmul: trits must be"));
    assert!(refused("matmul", call(), vec![tensor(Dtype::Int32, &[3, 8])], 32).contains("matmul: y must be"));
    let mut operands = call();
    operands[2] = tensor(Dtype::Bfloat16, &[8, 2]);
    assert!(refused("matmul", operands, vec![y.clone()], 32).contains("matmul: scale must be [Float32]"));
    let huge = vec![tensor(Dtype::Float32, &[3_000_000_000, 64]), trits.clone(), scale.clone()];
    let result = vec![tensor(Dtype::Float32, &[3_000_000_000, 8])];
    assert!(refused("matmul", huge, result, 32).contains("tokens must have dimensions below"));
    assert!(refused("multiply", call(), vec![y], 32).contains("multiply of 3 operands and 1 results"));
}
