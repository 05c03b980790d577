//! Ensembles: each member as if it were called alone.

use half::bf16;

use crate::common::{Problem, Shape, Values};
use crate::device::{Buffer, Element, call, grouped, under_every_schedule};
use crate::machine::Machine;

/// Two weights and three batches of activations: x [1, 3, ...], weights [2, 1, ...].
#[test]
fn members_share_operands_and_own_their_results() {
    let machine = Machine::get();
    for (tokens, group_size) in [(1, 32), (2, 24), (2, 32), (20, 24), (520, 24)] {
        let shape = Shape { tokens, in_dim: 72, out_dim: 24, group_size };
        let problems: Vec<Problem<bf16>> =
            (0..3).map(|extra| Problem::new(Shape { tokens: tokens + 100 * extra, ..shape }, Values::Dyadic)).collect();
        let layout = problems[0].layout;
        let x: Vec<bf16> = problems.iter().flat_map(|problem| problem.x[..tokens * 72].to_vec()).collect();
        let dy: Vec<bf16> = problems.iter().flat_map(|problem| problem.dy[..tokens * 24].to_vec()).collect();
        let packed: Vec<u8> = problems[..2].iter().flat_map(|problem| problem.packed.clone()).collect();
        let scale: Vec<f32> = problems[..2].iter().flat_map(|problem| problem.scale.clone()).collect();
        let x = Buffer::of(machine, &x, &[1, 3, tokens, 72]);
        let dy = Buffer::of(machine, &dy, &[1, 3, tokens, 24]);
        let trits = Buffer::of(machine, &packed, &[2, 1, 24, layout.groups(), layout.group_bytes()]);
        let scale = Buffer::of(machine, &scale, &[2, 1, 24, layout.groups()]);
        under_every_schedule(|options| {
            let y = Buffer::result(machine, f32::DTYPE, &[2, 3, tokens, 24]);
            call(machine, "matmul", grouped(group_size), &[&x, &trits, &scale], &[&y], options);
            let score = Buffer::result(machine, f32::DTYPE, &[2, 3, 24, layout.groups()]);
            let votes = Buffer::result(machine, f32::DTYPE, &[2, 3]);
            call(machine, "correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes], options);
            assert_eq!(votes.values::<f32>(), [1.0; 6]);
            for (member, (weight, batch)) in (0..2).flat_map(|weight| (0..3).map(move |batch| (weight, batch))).enumerate() {
                let mut alone = Problem::<bf16>::new(shape, Values::Dyadic);
                alone.packed.clone_from(&problems[weight].packed);
                alone.trits.clone_from(&problems[weight].trits);
                alone.scale.clone_from(&problems[weight].scale);
                alone.x = problems[batch].x[..tokens * 72].to_vec();
                alone.dy = problems[batch].dy[..tokens * 24].to_vec();
                let wanted: Vec<f32> = alone.matmul().iter().map(|sum| sum.value as f32).collect();
                assert_eq!(y.values::<f32>()[member * wanted.len()..][..wanted.len()], wanted, "member {member}");
                let wanted: Vec<f32> = alone.scores().iter().map(|score| score.0).collect();
                assert_eq!(score.values::<f32>()[member * wanted.len()..][..wanted.len()], wanted, "member {member}");
            }
        });
    }
}
