//! Both matrix products.

use half::{bf16, f16};
use ternax::cuda::kernel::PRODUCTS;
use ternax::cuda::tensor::Dtype;

use crate::common::{Problem, SHAPES, Shape, Values, assert_close};
use crate::device::{Buffer, Number, call, grouped, planned, under_every_schedule};
use crate::machine::{Machine, OPTIONS, Options};

/// Shapes beyond the shared table: groups of several units, contractions of 16 steps, aligned rows, several tiles in each direction.
const MORE: &[Shape] = &[
    Shape { tokens: 2, in_dim: 700, out_dim: 70, group_size: 330 },
    Shape { tokens: 9, in_dim: 400, out_dim: 20, group_size: 1000 },
    Shape { tokens: 20, in_dim: 400, out_dim: 140, group_size: 48 },
    Shape { tokens: 130, in_dim: 192, out_dim: 136, group_size: 64 },
    Shape { tokens: 40, in_dim: 528, out_dim: 136, group_size: 264 },
    Shape { tokens: 1, in_dim: 4096, out_dim: 66, group_size: 32 },
    Shape { tokens: 1, in_dim: 1120, out_dim: 258, group_size: 32 },
    Shape { tokens: 2, in_dim: 2111, out_dim: 41, group_size: 32 },
    Shape { tokens: 2, in_dim: 60, out_dim: 9, group_size: 30 },
    Shape { tokens: 16, in_dim: 2080, out_dim: 40, group_size: 32 },
    Shape { tokens: 18, in_dim: 1600, out_dim: 8, group_size: 160 },
];

pub fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.iter().chain(MORE).copied()
}

struct Case<'a, X> {
    problem: &'a Problem<X>,
    /// Scales rounded to bfloat16, where the call takes those.
    narrow: bool,
    options: Options,
}

impl<X: Number> Case<'_, X> {
    fn scale(&self) -> Buffer<'static> {
        let (Shape { out_dim, .. }, groups) = (self.problem.shape, self.problem.layout.groups());
        let scale = &self.problem.scale;
        if self.narrow {
            let rounded: Vec<bf16> = scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
            return Buffer::of(Machine::get(), &rounded, &[out_dim, groups]);
        }
        Buffer::of(Machine::get(), scale, &[out_dim, groups])
    }

    fn product<Y: Number>(&self, forward: bool) -> Vec<Y> {
        let (machine, Shape { tokens, in_dim, out_dim, group_size }) = (Machine::get(), self.problem.shape);
        let layout = self.problem.layout;
        let trits = Buffer::of(machine, &self.problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
        let (operation, data, from, to) =
            if forward { ("matmul", &self.problem.x, in_dim, out_dim) } else { ("matmul_transposed", &self.problem.dy, out_dim, in_dim) };
        let data = Buffer::of(machine, data, &[tokens, from]);
        let result = Buffer::result(machine, Y::DTYPE, &[tokens, to]);
        call(machine, operation, grouped(group_size), &[&data, &trits, &self.scale()], &[&result], self.options);
        result.values::<Y>().to_vec()
    }
}

/// A problem whose scales are bfloat16 values where `narrow`.
fn problem<X: Number>(shape: Shape, values: Values, narrow: bool) -> Problem<X> {
    let mut problem = Problem::new(shape, values);
    if narrow {
        problem.scale.iter_mut().for_each(|scale| *scale = bf16::from_f32(*scale).to_f32());
    }
    problem
}

fn agrees<X: Number, Y: Number>(forward: bool, narrow: bool) {
    for shape in shapes() {
        let exact = problem::<X>(shape, Values::Dyadic, narrow);
        let rounded = problem::<X>(shape, Values::Uniform, narrow);
        let (wanted, bounds) =
            if forward { (exact.matmul(), rounded.matmul()) } else { (exact.matmul_transposed(), rounded.matmul_transposed()) };
        let wanted: Vec<Y> = wanted.iter().map(|sum| Y::from_f32(sum.value as f32)).collect();
        let length = if forward { shape.in_dim } else { shape.out_dim };
        under_every_schedule(|options| {
            let what = format!("{} to {}, forward {forward}, narrow {narrow}, {shape:?}, {options:?}", X::NAME, Y::NAME);
            let found = Case { problem: &exact, narrow, options }.product::<Y>(forward);
            assert!(found == wanted, "{what}: sums that float32 holds are exact");
            assert_close(&Case { problem: &rounded, narrow, options }.product::<Y>(forward), &bounds, length, &what);
        });
    }
}

#[test]
fn float32_products_are_of_float32_grade() {
    agrees::<f32, f32>(true, false);
}

#[test]
fn float32_gradients_are_of_float32_grade() {
    agrees::<f32, f32>(false, false);
}

#[test]
fn bfloat16_products_with_bfloat16_scales_are_rounded_once() {
    agrees::<bf16, bf16>(true, true);
}

#[test]
fn bfloat16_gradients_with_bfloat16_scales_are_rounded_once() {
    agrees::<bf16, bf16>(false, true);
}

#[test]
fn bfloat16_products_with_float32_scales_and_results_are_of_float32_grade() {
    agrees::<bf16, f32>(true, false);
}

#[test]
fn bfloat16_gradients_with_float32_scales_and_results_are_of_float32_grade() {
    agrees::<bf16, f32>(false, false);
}

#[test]
fn float16_products_are_rounded_once() {
    agrees::<f16, f16>(true, false);
}

#[test]
fn float16_gradients_are_rounded_once() {
    agrees::<f16, f16>(false, false);
}

#[test]
fn float16_gradients_with_float32_results_are_of_float32_grade() {
    agrees::<f16, f32>(false, false);
}

#[test]
fn float16_gradients_survive_scales_of_any_size() {
    // The largest scale decides what all are divided by: here 2^-100 and 2^100, with others down to 2^-17 of it.
    for size in [-100, -30, 30, 100] {
        let mut problem = Problem::<f16>::new(Shape { tokens: 20, in_dim: 96, out_dim: 40, group_size: 32 }, Values::Uniform);
        for (index, scale) in problem.scale.iter_mut().enumerate() {
            *scale *= 2f32.powi(size - (index * 7 % 18) as i32);
        }
        let found = Case { problem: &problem, narrow: false, options: OPTIONS[0] }.product::<f32>(false);
        assert_close(&found, &problem.matmul_transposed(), 40, &format!("scales about 2^{size}"));
    }
}

#[test]
fn operands_that_lie_anywhere_have_the_same_products() {
    let machine = Machine::get();
    for tokens in [1, 2, 3, 20] {
        let shape = Shape { tokens, in_dim: 64, out_dim: 40, group_size: 32 };
        let problem = problem::<bf16>(shape, Values::Dyadic, true);
        let scale: Vec<bf16> = problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
        let trits = Buffer::of(machine, &problem.packed, &[40, 2, 7]);
        let scale = Buffer::of(machine, &scale, &[40, 2]);
        for (operation, data, from, to, wanted) in
            [("matmul", &problem.x, 64, 40, problem.matmul()), ("matmul_transposed", &problem.dy, 40, 64, problem.matmul_transposed())]
        {
            let wanted: Vec<bf16> = wanted.iter().map(|sum| bf16::from_f32(sum.value as f32)).collect();
            for skips in [1, 4, 7] {
                let data = Buffer::beside(machine, data, &[tokens, from], skips);
                let result = Buffer::result_beside(machine, Dtype::Bfloat16, &[tokens, to], 8 - skips);
                let (plan, _scratch) = planned(machine, operation, grouped(32), &[&data, &trits, &scale], &[&result]);
                let hopper = plan.hopper.expect("16 bits");
                assert!(hopper.mapped.is_none(), "no tensor map begins there");
                for launches in [&plan.launches, &hopper.launches] {
                    machine.run(launches, OPTIONS[1]);
                    assert!(result.values::<bf16>() == wanted, "{operation}, {tokens} tokens, {skips} elements from an aligned address");
                }
            }
        }
    }
}

/// Lengths of groups that meet every specialisation between them.
pub const LENGTHS: [usize; 10] = [8, 12, 16, 24, 40, 64, 80, 120, 160, 256];

/// A shape of groups of one length, the last of which is cut, and so is the last tile of longer ones.
pub fn of_group(tokens: usize, group_size: usize) -> Shape {
    Shape { tokens, in_dim: 2 * group_size + 8, out_dim: 40, group_size }
}

/// Groups of one length in each kernel of products but Hopper's.
fn of_length<X: Number>(group_size: usize, narrow: bool) {
    for (tokens, forward) in [(1, true), (8, true), (16, true), (20, true), (20, false)] {
        let problem = problem::<X>(of_group(tokens, group_size), Values::Dyadic, narrow);
        let wanted = if forward { problem.matmul() } else { problem.matmul_transposed() };
        let wanted: Vec<X> = wanted.iter().map(|sum| X::from_f32(sum.value as f32)).collect();
        under_every_schedule(|options| {
            let found = Case { problem: &problem, narrow, options }.product::<X>(forward);
            assert!(found == wanted, "{tokens} tokens, groups of {group_size}, {options:?}");
        });
    }
}

#[test]
fn every_kind_of_length_of_groups_is_right_in_every_type() {
    for (group_size, types) in LENGTHS.into_iter().flat_map(|group| PRODUCTS.map(|types| (group, types))) {
        match types {
            (Dtype::Float32, _) => of_length::<f32>(group_size, false),
            (Dtype::Float16, _) => of_length::<f16>(group_size, false),
            (_, scale) => of_length::<bf16>(group_size, scale == Dtype::Bfloat16),
        }
    }
}

#[test]
fn the_order_of_the_threads_never_changes_a_bit() {
    for tokens in [1, 2, 3, 40] {
        let problem = Problem::<f32>::new(Shape { tokens, in_dim: 640, out_dim: 70, group_size: 32 }, Values::Uniform);
        for forward in [true, false] {
            // The second and third option differ in their order alone.
            let [one, other] = [1, 2].map(|index| {
                let options = OPTIONS[index];
                let product = Case { problem: &problem, narrow: false, options }.product::<f32>(forward);
                product.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(one == other, "{tokens} tokens, forward {forward}");
        }
    }
}

#[test]
fn infinities_and_the_largest_numbers_survive_the_cut_into_limbs() {
    for (tokens, group_size) in [(1, 32), (2, 32), (1, 40), (20, 40)] {
        let shape = Shape { tokens, in_dim: 40, out_dim: 3, group_size };
        let mut problem = Problem::<f32>::new(shape, Values::Dyadic);
        problem.trits.fill(1);
        problem.packed.fill(242);
        problem.scale.fill(1.0);
        problem.x.fill(0.0);
        let product = |problem: &Problem<f32>| Case { problem, narrow: false, options: OPTIONS[0] }.product::<f32>(true);
        for value in [f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 3.4e38] {
            problem.x[7] = value;
            assert_eq!(product(&problem)[..3], [value; 3], "{tokens} tokens, groups of {group_size}");
        }
        problem.x[7] = f32::NAN;
        assert!(product(&problem)[..3].iter().all(|y| y.is_nan()), "{tokens} tokens");
    }
}

/// Products of activations times `2^data` with scales times `2^scales`, which are exact.
fn at_size<X: Number>(shape: Shape, forward: bool, data: i32, scales: i32) {
    let mut problem = Problem::<X>::new(shape, Values::Dyadic);
    let from = if forward { shape.in_dim } else { shape.out_dim };
    // By halves, since the power of the smallest is not one of `powi`'s.
    let times = |value: f32, power: i32| value * 2f32.powi(power / 2) * 2f32.powi(power - power / 2);
    // The first of several tokens stays of ordinary size.
    let first = if shape.tokens > 1 { from } else { 0 };
    for values in [&mut problem.x, &mut problem.dy] {
        values.iter_mut().skip(first).for_each(|x| *x = X::from_f32(times(x.to_f32(), data)));
    }
    problem.scale.iter_mut().for_each(|scale| *scale = times(*scale, scales));
    let wanted = if forward { problem.matmul() } else { problem.matmul_transposed() };
    let wanted: Vec<f32> = wanted.iter().map(|sum| sum.value as f32).collect();
    assert!(wanted.iter().filter(|&&sum| sum != 0.0).count() > wanted.len() / 2);
    let found = Case { problem: &problem, narrow: false, options: OPTIONS[1] }.product::<f32>(forward);
    assert!(found == wanted, "{shape:?}, forward {forward}, 2^{data}, scales 2^{scales}: {found:?}, wanted {wanted:?}");
}

#[test]
fn products_of_the_smallest_and_the_largest_numbers_are_exact() {
    for (tokens, group_size) in [(1, 32), (2, 32), (1, 40), (3, 32), (9, 24), (20, 32), (20, 24)] {
        let shape = Shape { tokens, in_dim: 100, out_dim: 9, group_size };
        // Multiples of 2^-149, numbers around the first that was cut short, and such that their sums are finite only as they are.
        for (data, scales) in [(-147, 30), (-147, 20), (-120, 10), (-110, 0), (60, 0), (100, 0), (100, 10)] {
            at_size::<f32>(shape, true, data, scales);
            if tokens > 9 {
                at_size::<f32>(shape, false, data, scales);
            }
        }
    }
    let shape = Shape { tokens: 20, in_dim: 100, out_dim: 40, group_size: 32 };
    for (data, scales) in [(20, -140), (10, -120), (0, 100)] {
        at_size::<f32>(shape, false, data, scales);
        at_size::<bf16>(shape, false, data, scales);
    }
}

#[test]
fn bytes_that_are_no_packed_trits_stay_harmless() {
    for tokens in [1, 2, 3, 20] {
        let mut problem = Problem::<f32>::new(Shape { tokens, in_dim: 70, out_dim: 9, group_size: 32 }, Values::Uniform);
        for (index, byte) in problem.packed.iter_mut().enumerate() {
            *byte = 243 + (index % 13) as u8;
        }
        for forward in [true, false] {
            let found = Case { problem: &problem, narrow: false, options: OPTIONS[0] }.product::<f32>(forward);
            assert!(found.iter().all(|value| value.abs() <= 2.0 * 1.5 * 70.0), "{tokens} tokens, forward {forward}");
        }
    }
}

/// What is hardest for sums in fixed point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Extreme {
    /// Activations from 2^-20 to 2^20 in every group.
    Spread,
    /// The same under few trits that are not 0, so that errors have nothing to hide behind.
    Sparse,
    /// Activations as large as they get, all trits 1: the largest sums.
    Largest,
}

fn extreme(shape: Shape, extreme: Extreme) -> Problem<f32> {
    let mut problem = Problem::<f32>::new(shape, Values::Uniform);
    for (index, x) in problem.x.iter_mut().enumerate() {
        *x = if extreme == Extreme::Largest { f32::from_bits(0x3FFF_FFFF) } else { *x * 2f32.powi((index * 37 % 41) as i32 - 20) };
    }
    for (index, trit) in problem.trits.iter_mut().enumerate() {
        match extreme {
            Extreme::Spread => {}
            Extreme::Sparse => *trit *= i8::from(index % 29 == 0),
            Extreme::Largest => *trit = 1,
        }
    }
    let layout = problem.layout;
    for (row, bytes) in problem.trits.chunks_exact(shape.in_dim).zip(problem.packed.chunks_exact_mut(layout.row_bytes())) {
        ternax::trits::pack_row(row, layout, bytes);
    }
    problem
}

#[test]
fn bit_planes_err_by_a_part_in_2_to_the_26_of_the_largest_activation_of_each_group() {
    let cases = [Extreme::Spread, Extreme::Sparse, Extreme::Largest].into_iter().flat_map(|kind| [(1, kind), (2, kind)]);
    for (tokens, kind) in cases {
        let shape = Shape { tokens, in_dim: 300, out_dim: 40, group_size: 32 };
        let problem = extreme(shape, kind);
        let groups = problem.layout.groups();
        let found = Case { problem: &problem, narrow: false, options: OPTIONS[0] }.product::<f32>(true);
        for (at, (found, wanted)) in found.iter().zip(problem.matmul()).enumerate() {
            let (token, row) = (at / shape.out_dim, at % shape.out_dim);
            let fixed_point: f64 = (0..groups)
                .map(|group| {
                    let inputs = group * 32..shape.in_dim.min(group * 32 + 32);
                    let size = inputs.clone().map(|input| problem.x[token * shape.in_dim + input].abs()).fold(0.0, f32::max);
                    let terms = inputs.filter(|&input| problem.trits[row * shape.in_dim + input] != 0).count();
                    f64::from(problem.scale[row * groups + group]) * f64::from(size) * terms as f64 * 2f64.powi(-26)
                })
                .sum();
            // A sum of groups, each rounded to float32 and multiplied by its scale.
            let allowed = fixed_point + (groups as f64 + 2.0) * 2f64.powi(-24) * (wanted.size + fixed_point);
            assert!((f64::from(*found) - wanted.value).abs() <= allowed, "{tokens} tokens, {kind:?}, {at}: {found}, {wanted:?}");
        }
    }
}

#[test]
fn a_row_whose_scales_are_not_a_number_leaves_the_others_alone() {
    for tokens in [1, 2, 3, 20] {
        let shape = Shape { tokens, in_dim: 170, out_dim: 9, group_size: 32 };
        let mut problem = Problem::<f32>::new(shape, Values::Dyadic);
        let wanted = problem.matmul();
        problem.scale[24..30].fill(f32::NAN);
        let found = Case { problem: &problem, narrow: false, options: OPTIONS[0] }.product::<f32>(true);
        for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let right = if at % 9 == 4 { found.is_nan() } else { f64::from(*found) == wanted.value };
            assert!(right, "{tokens} tokens, {at}: {found}, {wanted:?}");
        }
    }
}
