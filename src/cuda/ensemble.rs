//! Ensembles: one launch covers as many members as have a single stride in every operand.

use super::plan::MOST_BLOCKS;
use super::tensor::Tensor;
use crate::error::{Error, Result};

/// Members that one launch covers, and where each operand and result starts.
#[derive(Debug, PartialEq)]
pub struct Run {
    /// Their number.
    pub members: usize,
    /// For each operand, the member that it starts at.
    pub starts: Vec<usize>,
    /// For each operand, whether it has members of its own.
    pub own: Vec<bool>,
    /// The first member of the results.
    pub first: usize,
}

/// Cuts the ensemble of dimensions `dims` into runs. The operands lead with these dimensions, or with 1 where they are shared.
/// No run has more than `MOST_BLOCKS / per_member` members.
pub fn runs(operation: &'static str, dims: &[usize], operands: &[(&'static str, &Tensor)], per_member: usize) -> Result<Vec<Run>> {
    let mut leads = Vec::new();
    for (argument, tensor) in operands {
        let lead = tensor.leading(operation, argument, dims.len())?;
        if lead.iter().zip(dims).any(|(&own, &dim)| own != dim && own != 1) {
            let wanted = format!("lead with ensemble dimensions {dims:?} or 1s");
            return Err(Error::Argument { operation, argument, wanted, found: format!("{:?}", tensor.shape) });
        }
        leads.push(lead);
    }
    let members: usize = dims.iter().product();
    if members == 0 {
        return Ok(Vec::new());
    }
    if per_member > MOST_BLOCKS {
        let wanted = format!("be cut into at most {MOST_BLOCKS} parts");
        return Err(Error::Argument { operation, argument: "contraction", wanted, found: per_member.to_string() });
    }
    // Trailing dimensions over which every operand is all its own, or all shared.
    let uniform = |from: usize| {
        leads.iter().all(|lead| {
            let mut counted = lead[from..].iter().zip(&dims[from..]).filter(|(_, dim)| **dim > 1).map(|(own, _)| *own > 1);
            let first = counted.next();
            counted.all(|own| Some(own) == first)
        })
    };
    let from = (0..=dims.len()).find(|&from| uniform(from)).unwrap_or(dims.len());
    let inner: usize = dims[from..].iter().product();
    let own: Vec<bool> = leads.iter().map(|lead| lead[from..].iter().any(|&dim| dim > 1)).collect();
    let most = (MOST_BLOCKS / per_member.max(1)).max(1);
    let mut found = Vec::new();
    for outer in 0..members / inner {
        let starts: Vec<usize> =
            leads.iter().zip(&own).map(|(lead, &own)| start(lead, dims, from, outer) * if own { inner } else { 1 }).collect();
        for skipped in (0..inner).step_by(most) {
            let shifted = starts.iter().zip(&own).map(|(start, &own)| start + if own { skipped } else { 0 }).collect();
            found.push(Run { members: most.min(inner - skipped), starts: shifted, own: own.clone(), first: outer * inner + skipped });
        }
    }
    Ok(found)
}

/// The position of an operand for the outer member `index` of `dims[..from]`.
fn start(lead: &[usize], dims: &[usize], from: usize, mut index: usize) -> usize {
    let (mut position, mut stride) = (0, 1);
    for (&own, &dim) in lead[..from].iter().zip(&dims[..from]).rev() {
        position += if own == 1 { 0 } else { index % dim * stride };
        stride *= own;
        index /= dim;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::tensor::Dtype;

    fn tensor(shape: &[usize]) -> Tensor {
        Tensor { dtype: Dtype::Float32, shape: shape.into(), address: 0 }
    }

    /// The member of each operand for each member of the result, as the runs say.
    fn members(dims: &[usize], shapes: &[&[usize]], per_member: usize) -> (usize, Vec<Vec<usize>>) {
        let tensors: Vec<Tensor> = shapes.iter().map(|shape| tensor(shape)).collect();
        let operands: Vec<_> = tensors.iter().map(|tensor| ("x", tensor)).collect();
        let runs = runs("test", dims, &operands, per_member).expect("lawful");
        let mut found = vec![vec![]; dims.iter().product()];
        for run in &runs {
            for (index, member) in (0..run.members).zip(run.first..) {
                found[member] = run.starts.iter().zip(&run.own).map(|(start, &own)| start + if own { index } else { 0 }).collect();
            }
        }
        (runs.len(), found)
    }

    #[test]
    fn no_ensemble_is_one_member() {
        assert_eq!(members(&[], &[&[5, 6], &[7]], 1), (1, vec![vec![0, 0]]));
    }

    #[test]
    fn shared_and_own_operands_of_one_dimension_are_one_launch() {
        assert_eq!(members(&[3], &[&[3, 9], &[1, 9]], 1), (1, vec![vec![0, 0], vec![1, 0], vec![2, 0]]));
    }

    #[test]
    fn operands_that_share_different_dimensions_take_a_launch_for_each_outer_member() {
        let (launches, found) = members(&[2, 3], &[&[2, 1], &[1, 3], &[2, 3]], 1);
        assert_eq!(launches, 2);
        assert_eq!(found, [[0, 0, 0], [0, 1, 1], [0, 2, 2], [1, 0, 3], [1, 1, 4], [1, 2, 5]]);
    }

    #[test]
    fn dimensions_of_one_join_whatever_they_stand_beside() {
        assert_eq!(members(&[2, 1, 3], &[&[2, 1, 3], &[1, 1, 1]], 1).0, 1);
    }

    #[test]
    fn launches_keep_to_the_limit_of_a_grid() {
        let (launches, found) = members(&[7], &[&[7], &[1]], MOST_BLOCKS / 3);
        assert_eq!(launches, 3);
        assert_eq!(found[6], [6, 0]);
    }

    #[test]
    fn an_empty_ensemble_launches_nothing() {
        assert_eq!(members(&[0], &[&[0, 4]], 1), (0, vec![]));
    }

    #[test]
    fn another_ensemble_is_refused_by_the_argument_s_name() {
        let text = runs("test", &[3], &[("dy", &tensor(&[2, 4]))], 1).expect_err("2 is not 3").to_string();
        assert!(text.contains("dy must lead with ensemble dimensions [3] or 1s"), "{text}");
    }
}
