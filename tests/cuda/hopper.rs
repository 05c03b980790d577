//! The kernels on Hopper's warpgroups, at every shape, whether or not they would be chosen there.

use cudarc::driver::sys::CUtensorMapSwizzle;
use half::{bf16, f16};
use ternax::cuda::call::Launch;
use ternax::cuda::kernel::HOPPER_GROUPS;
use ternax::cuda::plan::Plan;
use ternax::cuda::tensor_map::TensorMap;

use crate::common::{Problem, SHAPES, Shape, Values, assert_close};
use crate::device::{Buffer, Element, Number, grouped, planned, under_every_schedule};
use crate::machine::{Machine, OPTIONS, Options};

/// Shapes beyond the shared table: more stages than the ring has, several tiles, aligned rows, packed rows of every alignment.
const MORE: &[Shape] = &[
    Shape { tokens: 70, in_dim: 704, out_dim: 264, group_size: 32 },
    Shape { tokens: 20, in_dim: 352, out_dim: 330, group_size: 32 },
    Shape { tokens: 40, in_dim: 528, out_dim: 136, group_size: 264 },
];

fn sized([tokens, in_dim, out_dim, group_size]: [usize; 4]) -> Shape {
    Shape { tokens, in_dim, out_dim, group_size }
}

/// What a card launches with tensor maps, where the operands can have any, or without.
fn launches(plan: Plan, maps: bool) -> Vec<Launch> {
    plan.hopper.map(|alternative| alternative.mapped.filter(|_| maps).unwrap_or(alternative.launches)).unwrap_or_default()
}

/// A problem whose scales are what the kernel takes: bfloat16 values beside bfloat16 activations.
fn problem<X: Number>(shape: Shape, values: Values) -> Problem<X> {
    let mut problem = Problem::<X>::new(shape, values);
    if X::DTYPE == bf16::DTYPE {
        problem.scale.iter_mut().for_each(|scale| *scale = bf16::from_f32(*scale).to_f32());
    }
    problem
}

fn product<X: Number, Y: Number>(problem: &Problem<X>, forward: bool, maps: bool, options: Options) -> Vec<Y> {
    let (machine, Shape { tokens, in_dim, out_dim, group_size }) = (Machine::get(), problem.shape);
    let layout = problem.layout;
    let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
    let narrow: Vec<bf16> = problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
    let shape = [out_dim, layout.groups()];
    let scale = if X::DTYPE == bf16::DTYPE { Buffer::of(machine, &narrow, &shape) } else { Buffer::of(machine, &problem.scale, &shape) };
    let (operation, data, from, to) =
        if forward { ("matmul", &problem.x, in_dim, out_dim) } else { ("matmul_transposed", &problem.dy, out_dim, in_dim) };
    let data = Buffer::of(machine, data, &[tokens, from]);
    let result = Buffer::result(machine, Y::DTYPE, &[tokens, to]);
    let (plan, _scratch) = planned(machine, operation, grouped(group_size), &[&data, &trits, &scale], &[&result]);
    assert!(plan.hopper.is_some() || tokens * to == 0, "a product in 16 bits has an alternative");
    machine.run(&launches(plan, maps), options);
    result.values::<Y>().to_vec()
}

fn agrees<X: Number, Y: Number>(shapes: impl Iterator<Item = Shape>, forward: bool) {
    for shape in shapes {
        let [exact, rounded] = [Values::Dyadic, Values::Uniform].map(|values| problem::<X>(shape, values));
        let sums = |problem: &Problem<X>| if forward { problem.matmul() } else { problem.matmul_transposed() };
        let wanted: Vec<Y> = sums(&exact).iter().map(|sum| Y::from_f32(sum.value as f32)).collect();
        let bounds = sums(&rounded);
        let length = if forward { shape.in_dim } else { shape.out_dim };
        under_every_schedule(|options| {
            let what = format!("{} to {}, forward {forward}, {shape:?}, {options:?}", X::NAME, Y::NAME);
            assert!(product::<X, Y>(&exact, forward, true, options) == wanted, "{what}: sums that float32 holds are exact");
            assert_close(&product::<X, Y>(&rounded, forward, false, options), &bounds, length, &what);
        });
    }
}

pub fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.iter().chain(MORE).copied()
}

#[test]
fn bfloat16_products_on_warpgroups_are_rounded_once() {
    agrees::<bf16, bf16>(shapes(), true);
}

#[test]
fn bfloat16_gradients_on_warpgroups_are_rounded_once() {
    agrees::<bf16, bf16>(shapes(), false);
}

#[test]
fn float16_products_on_warpgroups_are_rounded_once() {
    agrees::<f16, f16>(shapes(), true);
}

#[test]
fn float16_gradients_on_warpgroups_are_rounded_once() {
    agrees::<f16, f16>(shapes(), false);
}

#[test]
fn products_on_warpgroups_with_float32_results_are_of_float32_grade() {
    let shapes = || [[15, 64, 33, 32], [20, 352, 330, 32], [20, 500, 70, 80], [1, 5, 3, 5]].map(sized).into_iter();
    for forward in [true, false] {
        agrees::<bf16, f32>(shapes(), forward);
        agrees::<f16, f32>(shapes(), forward);
    }
}

/// Rows that end at every place of a group and of a line, in every length of groups that has a decoder of its own; every other one with
/// tensor maps.
pub fn lengths() -> impl Iterator<Item = (Shape, bool)> {
    let ends = [(0, true), (8, false), (33, false), (64, true), (95, false), (290, false), (296, true)];
    HOPPER_GROUPS
        .into_iter()
        .flat_map(move |group_size| ends.map(|(more, maps)| (sized([5, group_size + more, if maps { 16 } else { 11 }, group_size]), maps)))
}

fn every_length_is_right<X: Number>() {
    for (shape, maps) in lengths() {
        let exact = problem::<X>(shape, Values::Dyadic);
        for forward in [true, false] {
            let wanted = if forward { exact.matmul() } else { exact.matmul_transposed() };
            let wanted: Vec<f32> = wanted.iter().map(|sum| sum.value as f32).collect();
            under_every_schedule(|options| {
                assert!(product::<X, f32>(&exact, forward, maps, options) == wanted, "{shape:?}, forward {forward}, {options:?}");
            });
        }
    }
}

#[test]
fn bfloat16_rows_of_every_length_in_every_length_of_groups_are_right() {
    every_length_is_right::<bf16>();
}

#[test]
fn float16_rows_of_every_length_in_every_length_of_groups_are_right() {
    every_length_is_right::<f16>();
}

#[test]
fn float16_products_on_warpgroups_survive_scales_of_any_size() {
    // The largest scale of a row, or of a block, decides what all are divided by: others reach down to 2^-17 of it.
    for size in [-100, -30, 30, 100] {
        let mut problem = problem::<f16>(sized([20, 96, 40, 32]), Values::Uniform);
        for (index, scale) in problem.scale.iter_mut().enumerate() {
            *scale *= 2f32.powi(size - (index * 7 % 18) as i32);
        }
        for forward in [true, false] {
            let (wanted, length) = if forward { (problem.matmul(), 96) } else { (problem.matmul_transposed(), 40) };
            let found = product::<f16, f32>(&problem, forward, true, OPTIONS[0]);
            assert_close(&found, &wanted, length, &format!("scales about 2^{size}, forward {forward}"));
        }
    }
}

/// Forward no row's scales touch those of another, however far they lie apart.
#[test]
fn rows_of_float16_weights_are_divided_by_powers_of_their_own() {
    let mut problem = problem::<f16>(sized([20, 96, 40, 32]), Values::Uniform);
    for (index, scale) in problem.scale.iter_mut().enumerate() {
        *scale *= 2f32.powi(5 * (index / 3) as i32 - 100);
    }
    assert_close(&product::<f16, f32>(&problem, true, true, OPTIONS[0]), &problem.matmul(), 96, "rows apart");
}

/// One tile more than a card holds blocks: the first block takes two.
#[test]
fn a_block_takes_one_tile_after_the_other() {
    agrees::<bf16, bf16>([sized([1, 72, 132 * 128 + 1, 32])].into_iter(), true);
    agrees::<bf16, bf16>([sized([1, 132 * 128 + 1, 72, 32])].into_iter(), false);
}

/// Two weights, and two batches of activations or one that they share.
#[test]
fn members_of_an_ensemble_are_as_if_alone() {
    for (own, maps) in [(true, false), (true, true), (false, true)] {
        under_every_schedule(|options| ensemble(own, maps, options));
    }
}

fn ensemble(own: bool, maps: bool, options: Options) {
    let (machine, shape) = (Machine::get(), sized([20, 96, 40, 32]));
    let Shape { tokens, in_dim, out_dim, group_size } = shape;
    let mut members = [0, 1].map(|extra| Problem::<bf16>::new(Shape { tokens: tokens + extra, ..shape }, Values::Dyadic));
    for problem in &mut members {
        problem.shape.tokens = tokens;
        problem.x.truncate(tokens * in_dim);
        problem.dy.truncate(tokens * out_dim);
    }
    if !own {
        members[1].x = members[0].x.clone();
    }
    let join = |part: &dyn Fn(&Problem<bf16>) -> Vec<bf16>| members.iter().flat_map(part).collect::<Vec<_>>();
    let layout = members[0].layout;
    let x = join(&|problem| problem.x.clone());
    let batches = if own { 2 } else { 1 };
    let x = Buffer::of(machine, &x[..batches * tokens * in_dim], &[batches, tokens, in_dim]);
    let scale = join(&|problem| problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect());
    let scale = Buffer::of(machine, &scale, &[2, out_dim, layout.groups()]);
    let packed: Vec<u8> = members.iter().flat_map(|problem| problem.packed.clone()).collect();
    let trits = Buffer::of(machine, &packed, &[2, out_dim, layout.groups(), layout.group_bytes()]);
    let y = Buffer::result(machine, bf16::DTYPE, &[2, tokens, out_dim]);
    let (plan, _scratch) = planned(machine, "matmul", grouped(group_size), &[&x, &trits, &scale], &[&y]);
    machine.run(&launches(plan, maps), options);
    let wanted = join(&|problem| problem.matmul().iter().map(|sum| bf16::from_f32(sum.value as f32)).collect());
    assert!(y.values::<bf16>() == wanted, "own {own}, maps {maps}");
    let dy = Buffer::of(machine, &join(&|problem| problem.dy.clone()), &[2, tokens, out_dim]);
    let score = Buffer::result(machine, f32::DTYPE, &[2, out_dim, layout.groups()]);
    let votes = Buffer::result(machine, f32::DTYPE, &[2]);
    let (plan, _scratch) = planned(machine, "correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes]);
    machine.run(&launches(plan, maps), options);
    let wanted: Vec<f32> = members.iter().flat_map(|problem| problem.scores().into_iter().map(|score| score.0)).collect();
    assert!(score.values::<f32>() == wanted, "own {own}, maps {maps}");
}

/// What the host can get wrong about a tensor map: the driver's encoder refuses it, or the copies meet what they should not.
#[test]
fn tensor_maps_that_break_a_rule_are_caught() {
    let breaks: [(fn(&mut TensorMap), &str); 14] = [
        (|map| map.address += 8, "the address of a tensor map"),
        (|map| map.strides[0] += 8, "a stride of a tensor map"),
        (|map| map.strides[0] -= 16, "the rows of a tensor map overlap"),
        (|map| map.strides[1] += 16, "a stride of a tensor map"),
        (|map| map.dims[1] = 0, "a dimension of a tensor map"),
        (|map| map.tile[0] = 128, "longer than the swizzle"),
        (|map| map.tile[0] = 60, "no multiple of 16 bytes"),
        (|map| map.tile[1] = 257, "a dimension of a box"),
        (|map| map.element_strides[0] = 2, "element strides"),
        (|map| map.rank = 2, "of rank 3"),
        (|map| map.swizzle = CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B, "lines of 128 bytes"),
        (|map| map.tile[1] = 128, "deadlock"),
        (|map| map.dims[1] += 1, "a bulk copy of 128 bytes outside every global buffer"),
        (|map| map.address += 16, "outside every global buffer"),
    ];
    let (machine, problem) = (Machine::get(), Problem::<bf16>::new(sized([20, 64, 24, 32]), Values::Dyadic));
    let x = Buffer::of(machine, &problem.x, &[20, 64]);
    let trits = Buffer::of(machine, &problem.packed, &[24, 2, 7]);
    let scale = Buffer::of(machine, &[bf16::ONE; 48], &[24, 2]);
    let y = Buffer::result(machine, bf16::DTYPE, &[20, 24]);
    let (plan, _scratch) = planned(machine, "matmul", grouped(32), &[&x, &trits, &scale], &[&y]);
    let [launch] = &launches(plan, true)[..] else { panic!("one launch") };
    machine.launch(&launch.kernel.class, launch, OPTIONS[0]).expect("a lawful launch");
    for (index, (wrong, caught)) in breaks.into_iter().enumerate() {
        let mut launch = launch.clone();
        wrong(&mut launch.maps[0]);
        let error = machine.launch(&launch.kernel.class, &launch, OPTIONS[0]).expect_err(caught);
        assert!(error.contains(caught), "{index}: {error}, wanted {caught}");
    }
    let forgotten = Launch { maps: Vec::new(), ..launch.clone() };
    let error = machine.launch(&launch.kernel.class, &forgotten, OPTIONS[0]).expect_err("no map");
    assert!(error.contains("never encoded"), "{error}");
}

fn scores_agree<X: Number>(shapes: impl Iterator<Item = Shape>) {
    let machine = Machine::get();
    for shape in shapes {
        let Shape { tokens, in_dim, out_dim, group_size } = shape;
        for values in [Values::Dyadic, Values::Uniform] {
            let problem = Problem::<X>::new(shape, values);
            let (layout, wanted) = (problem.layout, problem.scores());
            let x = Buffer::of(machine, &problem.x, &[tokens, in_dim]);
            let dy = Buffer::of(machine, &problem.dy, &[tokens, out_dim]);
            let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
            under_every_schedule(|options| {
                let score = Buffer::result(machine, f32::DTYPE, &[out_dim, layout.groups()]);
                let votes = Buffer::result(machine, f32::DTYPE, &[]);
                let (plan, _scratch) = planned(machine, "correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes]);
                assert!(plan.hopper.is_some(), "scores of 16-bit numbers have an alternative");
                machine.run(&launches(plan, values == Values::Dyadic), options);
                assert_eq!(votes.values::<f32>(), [1.0]);
                for (index, (&found, (wanted, undecided))) in score.values::<f32>().iter().zip(&wanted).enumerate() {
                    let allowed = if values == Values::Dyadic { 0.0 } else { 2.0 * undecided };
                    let what = format!("{} {values:?} {shape:?} {options:?} group {index}: {found}, wanted {wanted}", X::NAME);
                    assert!((found - wanted).abs() <= allowed, "{what}");
                }
            });
        }
    }
}

#[test]
fn bfloat16_scores_on_warpgroups_err_only_where_float32_cannot_decide_a_sign() {
    scores_agree::<bf16>(shapes());
}

#[test]
fn float16_scores_on_warpgroups_err_only_where_float32_cannot_decide_a_sign() {
    scores_agree::<f16>(shapes());
}
