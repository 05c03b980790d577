//! One ternary layer of a checkpoint, whatever its layout: shape, invariants, statistics.

use std::borrow::Cow;

use safetensors::Dtype;

use super::error::Fault;
use super::flat;
use crate::trits::{GroupLayout, MAX_BYTE, TRITS_PER_BYTE};

/// Where a layer's tensors stand in a file, and how; see the table in [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// ternax's own: group-aligned trits.
    Ternax,
    /// The PyTorch reference's `state_dict`: flat pack.
    Torch,
}

impl Layout {
    /// The name of the layout in commands and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ternax => "ternax",
            Self::Torch => "torch",
        }
    }
}

/// A tensor on its way out of or into a file: row-major, little-endian.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data<'a>,
}

/// The bytes of a [`Tensor`], those of another layout made when they are asked for.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// As they are.
    Bytes(Cow<'a, [u8]>),
    /// The flat pack of group-aligned trits.
    Flat(&'a [u8], GroupLayout, usize),
    /// The group-aligned trits of a flat pack.
    Grouped(&'a [u8], GroupLayout, usize),
}

impl<'a> Data<'a> {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Flat(_, layout, rows) => flat::flat_bytes(rows * layout.in_dim()),
            Self::Grouped(_, layout, rows) => rows * layout.row_bytes(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Flat(grouped, layout, _) => Cow::Owned(flat::from_grouped(grouped, *layout)),
            Self::Grouped(flat, layout, rows) => Cow::Owned(flat::to_grouped(flat, *rows, *layout)),
        }
    }
}

/// The dimensions and constants of a layer; no size of it overflows.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// Ensemble dimensions in front of the matrix.
    pub ensemble: Vec<usize>,
    /// Outputs.
    pub out_dim: usize,
    /// How a row of inputs is cut into groups and bytes.
    pub layout: GroupLayout,
    /// `K` of `S = 2^(E + K * mean)`.
    pub gain: f32,
}

impl LayerShape {
    /// A layer named `name`, refused where one of its sizes would overflow.
    pub fn new(name: &str, ensemble: &[usize], out_dim: usize, in_dim: usize, group_size: usize, gain: f32) -> Result<Self, Fault> {
        let subject = || format!("layer {name:?}");
        let layout = GroupLayout::new(in_dim, group_size).map_err(|_| {
            Fault::new(subject(), "have in_dim and group_size of at least 1", format!("in_dim {in_dim}, group_size {group_size}"))
        })?;
        let sizes = [ensemble, &[out_dim, layout.groups(), layout.group_bytes(), 64 * TRITS_PER_BYTE]].concat();
        if sizes.iter().try_fold(1_i64, |size, &dim| size.checked_mul(i64::try_from(dim.max(1)).ok()?)).is_none() {
            return Err(Fault::new(subject(), "have sizes below 2^63", format!("{ensemble:?} x {out_dim} x {in_dim} weights")));
        }
        if !gain.is_finite() {
            return Err(Fault::new(subject(), "have a finite gain", gain));
        }
        Ok(Self { ensemble: ensemble.to_vec(), out_dim, layout, gain })
    }

    /// Matrices of the ensemble: 1 without one.
    pub fn members(&self) -> usize {
        self.ensemble.iter().product()
    }

    /// Rows of all matrices.
    pub fn rows(&self) -> usize {
        self.members() * self.out_dim
    }

    /// Weights of all matrices.
    pub fn weights(&self) -> usize {
        self.rows() * self.layout.in_dim()
    }

    /// The shape of a tensor of this layer: the ensemble, then `dims`.
    pub fn with(&self, dims: &[usize]) -> Vec<usize> {
        [&self.ensemble, dims].concat()
    }
}

/// The trits of a layer, borrowed in the layout they come in.
#[derive(Clone, Copy, Debug)]
pub enum Trits<'a> {
    /// `[*E, out, groups, group_bytes]`.
    Grouped(&'a [u8]),
    /// One run over the matrix.
    Flat(&'a [u8]),
}

/// One ternary layer, borrowed. The sizes of its parts are those of its shape.
#[derive(Clone, Debug)]
pub struct Layer<'a> {
    /// Its name in the file; may be empty.
    pub name: String,
    /// Its dimensions and constants.
    pub shape: LayerShape,
    /// Its trits.
    pub trits: Trits<'a>,
    /// int8 exponents, one per group.
    pub exponent: &'a [u8],
    /// Little-endian int64 correlations, one per group.
    pub corr: &'a [u8],
    /// Little-endian int64 steps, one per matrix.
    pub step: &'a [u8],
    /// The bias with its dtype.
    pub bias: Option<(Dtype, &'a [u8])>,
}

/// What a person wants to know about a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// How many weights are -1, 0 and 1.
    pub trits: [u64; 3],
    /// Mean over the groups of `corr / (step * group_size)`; 0 before the first step.
    pub mean_correlation: f64,
    /// Bits that the layer's tensors take in the file, per weight; `None` without weights.
    pub bits_per_weight: Option<f64>,
}

/// The name of tensor `part` of layer `name`.
pub fn tensor_name(name: &str, part: &str) -> String {
    if name.is_empty() { part.into() } else { format!("{name}.{part}") }
}

fn int64s(bytes: &[u8]) -> impl ExactSizeIterator<Item = i64> {
    bytes.as_chunks::<8>().0.iter().map(|&value| i64::from_le_bytes(value))
}

impl Layer<'_> {
    /// The layout that the trits come in.
    pub fn layout(&self) -> Layout {
        match self.trits {
            Trits::Grouped(_) => Layout::Ternax,
            Trits::Flat(_) => Layout::Torch,
        }
    }

    /// The steps of the matrices.
    pub fn steps(&self) -> Vec<i64> {
        int64s(self.step).collect()
    }

    /// Refuses contents that no layer can have: bytes above 242, wrong padding, a negative step.
    pub fn check(&self) -> Result<(), Fault> {
        match self.trits {
            Trits::Grouped(bytes) => self.check_grouped(&tensor_name(&self.name, "trits"), bytes),
            Trits::Flat(bytes) => self.check_flat(&tensor_name(&self.name, "T_packed"), bytes),
        }?;
        match int64s(self.step).find(|&step| step < 0) {
            None => Ok(()),
            Some(step) => {
                let wanted = "not be negative: it counts updates (an update that is refused on a GPU leaves such a step)";
                Err(Fault::tensor(&self.part("step", "step_counter"), wanted, step))
            }
        }
    }

    /// Refuses a correlation that honest updates cannot reach: `|corr| <= step * group_size` (SPEC 13, 17).
    pub fn check_correlations(&self) -> Result<(), Fault> {
        let groups = self.shape.out_dim * self.shape.layout.groups();
        for (member, step) in int64s(self.step).enumerate() {
            let limit = i128::from(step) * self.shape.layout.group_size() as i128;
            let corr = int64s(&self.corr[member * groups * 8..(member + 1) * groups * 8]);
            for (group, corr) in corr.enumerate() {
                if i128::from(corr).abs() > limit {
                    let wanted = format!("stay within step * group_size = {limit}");
                    let name = self.part("corr", "corr_accum");
                    return Err(Fault::tensor(&name, wanted, format!("{corr} at index {}", member * groups + group)));
                }
            }
        }
        Ok(())
    }

    /// Counts and means.
    pub fn statistics(&self) -> Statistics {
        let (bytes, padding_digit) = match self.trits {
            Trits::Grouped(bytes) => (bytes, 1),
            Trits::Flat(bytes) => (bytes, 0),
        };
        let mut counts = [0_u64; 256];
        bytes.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        let mut trits = [0; 3];
        for (byte, count) in (0..=MAX_BYTE).zip(counts) {
            flat::digits(byte).iter().for_each(|&digit| trits[usize::from(digit)] += count);
        }
        let padding = (bytes.len() * TRITS_PER_BYTE - self.shape.weights()) as u64;
        trits[padding_digit] = trits[padding_digit].saturating_sub(padding);

        let groups = self.corr.len() / 8;
        let per_member = self.shape.out_dim * self.shape.layout.groups();
        let steps = int64s(self.step).flat_map(|step| std::iter::repeat_n(step, per_member));
        let means = int64s(self.corr).zip(steps).map(|(corr, step)| match step {
            ..=0 => 0.0,
            _ => corr as f64 / (step as f64 * self.shape.layout.group_size() as f64),
        });
        let mean_correlation = means.sum::<f64>() / groups.max(1) as f64;

        let size = bytes.len() + self.exponent.len() + self.corr.len() + self.step.len() + self.bias.map_or(0, |(_, bytes)| bytes.len());
        let weights = self.shape.weights();
        let bits_per_weight = (weights > 0).then(|| 8.0 * size as f64 / weights as f64);
        Statistics { trits, mean_correlation, bits_per_weight }
    }

    /// The name of a tensor of this layer in the layout it comes in.
    fn part(&self, ternax: &str, torch: &str) -> String {
        match self.layout() {
            Layout::Ternax => tensor_name(&self.name, ternax),
            Layout::Torch => tensor_name(&self.name, torch),
        }
    }

    fn check_flat(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        check_packed(name, bytes)?;
        let padding = flat::flat_padding(self.shape.weights());
        match bytes.last() {
            Some(&last) if flat::digits(last)[TRITS_PER_BYTE - padding..].iter().any(|&digit| digit != 0) => {
                Err(Fault::tensor(name, format!("have digit 0 at the {padding} places after its last trit"), format!("last byte {last}")))
            }
            _ => Ok(()),
        }
    }

    fn check_grouped(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        check_packed(name, bytes)?;
        let layout = self.shape.layout;
        // Full groups of whole bytes have no padding at all: nothing to look at.
        if layout.group_bytes() * TRITS_PER_BYTE * layout.groups() == layout.in_dim() {
            return Ok(());
        }
        for (index, group) in bytes.chunks_exact(layout.group_bytes()).enumerate() {
            let used = layout.group_len(index % layout.groups());
            let partial = used / TRITS_PER_BYTE;
            let mut padding = group[partial..].iter().flat_map(|&byte| flat::digits(byte)).skip(used % TRITS_PER_BYTE);
            if padding.any(|digit| digit != 1) {
                let wanted = format!("hold trit 0 after the {used} trits of each group");
                return Err(Fault::tensor(name, wanted, format!("other trits in group {index}")));
            }
        }
        Ok(())
    }
}

/// Refuses bytes that are no packed trits (SPEC 4).
fn check_packed(name: &str, bytes: &[u8]) -> Result<(), Fault> {
    match bytes.iter().position(|&byte| byte > MAX_BYTE) {
        None => Ok(()),
        Some(index) => Err(Fault::tensor(name, "hold packed trits, at most 242 each", format!("{} at byte {index}", bytes[index]))),
    }
}
