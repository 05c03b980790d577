//! One function per custom call: checks shapes and dtypes, walks ensemble dimensions, calls the kernels. No maths.
//!
//! Ensemble dimensions `E` lead every operand. Each of them may be 1 where the result's is not: that operand is shared.

use half::{bf16, f16};

use crate::cpu;
use crate::error::{Error, Result};
use crate::trits::{GroupLayout, TernaryMatrix};

/// The elements of an operand.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// int8
    I8(&'a [i8]),
    /// uint8
    U8(&'a [u8]),
    /// int32
    I32(&'a [i32]),
    /// float16
    F16(&'a [f16]),
    /// bfloat16
    BF16(&'a [bf16]),
    /// float32
    F32(&'a [f32]),
}

/// The elements of a result.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// int8
    I8(&'a mut [i8]),
    /// uint8
    U8(&'a mut [u8]),
    /// int32
    I32(&'a mut [i32]),
    /// float16
    F16(&'a mut [f16]),
    /// bfloat16
    BF16(&'a mut [bf16]),
    /// float32
    F32(&'a mut [f32]),
}

/// An operand: row-major elements and their shape, with the names for error messages.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// The operation it belongs to.
    pub operation: &'static str,
    /// Its name there.
    pub argument: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub elements: Elements<'a>,
}

/// A result: row-major elements and their shape, with the names for error messages.
#[derive(Debug)]
pub struct TensorMut<'a> {
    /// The operation it belongs to.
    pub operation: &'static str,
    /// Its name there.
    pub argument: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub elements: ElementsMut<'a>,
}

/// An int32 state that is updated: `old` is None where it lies in `new` already.
#[derive(Debug)]
pub struct InPlace<'a> {
    /// Its name for error messages.
    pub argument: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The state before, if elsewhere.
    pub old: Option<&'a [i32]>,
    /// The state after.
    pub new: &'a mut [i32],
}

fn wrong<T>(operation: &'static str, argument: &'static str, wanted: impl Into<String>, found: impl std::fmt::Debug) -> Result<T> {
    Err(Error::Argument { operation, argument, wanted: wanted.into(), found: format!("{found:?}") })
}

/// Names the element types, and gives the elements of an operand or result that must be of one type.
macro_rules! typed {
    (types { $($variant:ident, $name:literal;)+ } operands { $($read:ident, $read_variant:ident, $read_type:ty;)+ } results { $($write:ident, $write_variant:ident, $write_type:ty;)+ }) => {
        impl Elements<'_> {
            fn type_name(&self) -> &'static str {
                match self { $(Elements::$variant(_) => $name,)+ }
            }
        }
        impl ElementsMut<'_> {
            fn type_name(&self) -> &'static str {
                match self { $(ElementsMut::$variant(_) => $name,)+ }
            }
        }
        impl<'a> Tensor<'a> {
            $(
                fn $read(&self) -> Result<&'a [$read_type]> {
                    match self.elements {
                        Elements::$read_variant(elements) => Ok(elements),
                        other => wrong(self.operation, self.argument, concat!("be ", stringify!($read_type)), other.type_name()),
                    }
                }
            )+
        }
        impl<'a> TensorMut<'a> {
            $(
                fn $write(self) -> Result<&'a mut [$write_type]> {
                    match self.elements {
                        ElementsMut::$write_variant(elements) => Ok(elements),
                        other => wrong(self.operation, self.argument, concat!("be ", stringify!($write_type)), other.type_name()),
                    }
                }
            )+
        }
    };
}

typed! {
    types {
        I8, "int8";
        U8, "uint8";
        I32, "int32";
        F16, "float16";
        BF16, "bfloat16";
        F32, "float32";
    }
    operands {
        i8s, I8, i8;
        u8s, U8, u8;
        i32s, I32, i32;
        f32s, F32, f32;
    }
    results {
        i8s, I8, i8;
        u8s, U8, u8;
        f32s, F32, f32;
    }
}

impl Tensor<'_> {
    fn expect(&self, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        wrong(self.operation, self.argument, format!("have shape {shape:?}"), &self.shape)
    }

    fn rank_at_least(&self, rank: usize) -> Result<()> {
        if self.shape.len() >= rank {
            return Ok(());
        }
        wrong(self.operation, self.argument, format!("have at least {rank} dimensions"), &self.shape)
    }

    /// Float32 values of a float32 or bfloat16 operand.
    fn widened(&self) -> Result<std::borrow::Cow<'_, [f32]>> {
        match self.elements {
            Elements::BF16(elements) => Ok(elements.iter().map(|e| e.to_f32()).collect::<Vec<_>>().into()),
            _ => Ok(self.f32s()?.into()),
        }
    }
}

impl TensorMut<'_> {
    fn expect(&self, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        wrong(self.operation, self.argument, format!("have shape {shape:?}"), &self.shape)
    }
}

fn layout(operation: &'static str, in_dim: usize, group_size: i64) -> Result<GroupLayout> {
    let Ok(group_size) = usize::try_from(group_size) else {
        return wrong(operation, "group_size", "be at least 1", group_size);
    };
    GroupLayout::new(in_dim, group_size)
}

/// The ensemble of a call: its dimensions, and which member of each operand belongs to which member of the result.
struct Ensemble<'a> {
    dims: &'a [usize],
}

impl<'a> Ensemble<'a> {
    fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Checks that an operand leads with these dimensions or 1s, and returns its member for each member of the result.
    fn members(&self, tensor: &Tensor<'_>) -> Result<Vec<usize>> {
        tensor.rank_at_least(self.dims.len())?;
        let own = &tensor.shape[..self.dims.len()];
        if own.iter().zip(self.dims).any(|(&own, &dim)| own != dim && own != 1) {
            return wrong(tensor.operation, tensor.argument, format!("lead with ensemble dimensions {:?} or 1s", self.dims), &tensor.shape);
        }
        let member = |mut index: usize| {
            let (mut position, mut stride) = (0, 1);
            for (&dim, &own) in self.dims.iter().zip(own).rev() {
                position += if own == 1 { 0 } else { (index % dim) * stride };
                stride *= own;
                index /= dim;
            }
            position
        };
        Ok((0..self.len()).map(member).collect())
    }
}

/// Member `index` of elements that hold `len` per member.
fn member<T>(elements: &[T], index: usize, len: usize) -> &[T] {
    &elements[index * len..(index + 1) * len]
}

/// Calls `$body` with `$x` and `$y` bound to the typed elements, for every pair of activation types that is supported.
macro_rules! for_activations {
    ($x:ident, $y:ident => $body:expr) => {{
        let (operation, argument, found) = ($y.operation, $y.argument, $y.elements.type_name());
        match ($x.elements, $y.elements) {
            (Elements::F32($x), ElementsMut::F32($y)) => Ok($body),
            (Elements::BF16($x), ElementsMut::BF16($y)) => Ok($body),
            (Elements::BF16($x), ElementsMut::F32($y)) => Ok($body),
            (Elements::F16($x), ElementsMut::F16($y)) => Ok($body),
            (Elements::F16($x), ElementsMut::F32($y)) => Ok($body),
            (Elements::F32(_) | Elements::BF16(_) | Elements::F16(_), _) => {
                wrong(operation, argument, "be float32 or of the operand's dtype", found)
            }
            (other, _) => wrong(operation, $x.argument, "be float32, bfloat16 or float16", other.type_name()),
        }
    }};
}

/// `scale [*E, out, groups]` from `exponent [*E, out, groups]`, `corr [*E, out, groups, 2]` and `step [*E, 2]`.
pub fn scale(exponent: Tensor<'_>, corr: Tensor<'_>, step: Tensor<'_>, scale: TensorMut<'_>, group_size: i64, gain: f32) -> Result<()> {
    exponent.rank_at_least(2)?;
    let group_size = match usize::try_from(group_size) {
        Ok(size) if size >= 1 => size,
        _ => return wrong("scale", "group_size", "be at least 1", group_size),
    };
    let (ensemble, matrix) = exponent.shape.split_at(exponent.shape.len() - 2);
    corr.expect(&[&exponent.shape[..], &[2]].concat())?;
    step.expect(&[ensemble, &[2]].concat())?;
    scale.expect(&exponent.shape)?;
    let len: usize = matrix.iter().product();
    let (exponents, corrs, steps) = (exponent.i8s()?, corr.i32s()?, step.i32s()?);
    let layers = || {
        let steps = steps.as_chunks::<2>().0;
        steps.iter().enumerate().map(move |(e, &step)| (member(exponents, e, len), member(corrs, e, 2 * len), step))
    };
    // An empty matrix has no chunks: a length of at least 1 keeps `chunks_mut` lawful.
    match scale.elements {
        ElementsMut::F32(out) => {
            for ((exponent, corr, step), out) in layers().zip(out.chunks_mut(len.max(1))) {
                cpu::scale(exponent, corr, step, group_size, gain, out);
            }
        }
        ElementsMut::BF16(out) => {
            for ((exponent, corr, step), out) in layers().zip(out.chunks_mut(len.max(1))) {
                cpu::scale(exponent, corr, step, group_size, gain, out);
            }
        }
        other => return wrong("scale", "scale", "be float32 or bfloat16", other.type_name()),
    }
    Ok(())
}

/// Shapes shared by the two matrix products: data `[*E, *L, from]` to `[*E, *L, to]` with weights `[*E, out, groups, ...]`.
struct Product {
    layout: GroupLayout,
    out_dim: usize,
    tokens: usize,
    data: Vec<usize>,
    trits: Vec<usize>,
    scale: Vec<usize>,
}

impl Product {
    fn new(
        data: &Tensor<'_>,
        trits: &Tensor<'_>,
        scale: &Tensor<'_>,
        result: &TensorMut<'_>,
        forward: bool,
        group_size: i64,
    ) -> Result<Self> {
        let operation = data.operation;
        trits.rank_at_least(3)?;
        let rank = trits.shape.len() - 3;
        data.rank_at_least(rank + 1)?;
        if result.shape.len() != data.shape.len() {
            return wrong(operation, result.argument, format!("have {} dimensions", data.shape.len()), &result.shape);
        }
        let last = data.shape.len() - 1;
        let out_dim = trits.shape[rank];
        let in_dim = if forward { data.shape[last] } else { result.shape[last] };
        let layout = layout(operation, in_dim, group_size)?;
        let ensemble = Ensemble { dims: &result.shape[..rank] };
        let matrix = [out_dim, layout.groups(), layout.group_bytes()];
        trits.expect(&[&trits.shape[..rank], &matrix].concat())?;
        scale.expect(&[scale.shape.get(..rank).unwrap_or_default(), &matrix[..2]].concat())?;
        let leading = &data.shape[rank..last];
        data.expect(&[&data.shape[..rank], leading, &[if forward { in_dim } else { out_dim }]].concat())?;
        result.expect(&[ensemble.dims, leading, &[if forward { out_dim } else { in_dim }]].concat())?;
        Ok(Self {
            layout,
            out_dim,
            tokens: leading.iter().product(),
            data: ensemble.members(data)?,
            trits: ensemble.members(trits)?,
            scale: ensemble.members(scale)?,
        })
    }

    /// Calls `kernel` once for every member of the ensemble.
    fn each<X, Y>(
        &self,
        (x, x_dim): (&[X], usize),
        (trits, scale): (&[u8], &[f32]),
        (y, y_dim): (&mut [Y], usize),
        kernel: impl Fn(&[X], TernaryMatrix<'_>, &[f32], &mut [Y]),
    ) {
        let matrix_bytes = self.out_dim * self.layout.row_bytes();
        let scales = self.out_dim * self.layout.groups();
        for (e, y) in y.chunks_mut((self.tokens * y_dim).max(1)).enumerate() {
            let matrix = TernaryMatrix::new(member(trits, self.trits[e], matrix_bytes), self.out_dim, self.layout);
            kernel(member(x, self.data[e], self.tokens * x_dim), matrix, member(scale, self.scale[e], scales), y);
        }
    }
}

/// `y [*E, *L, out] = x [*E, *L, in] (S T)^t`.
pub fn matmul(x: Tensor<'_>, trits: Tensor<'_>, scale: Tensor<'_>, y: TensorMut<'_>, group_size: i64) -> Result<()> {
    let product = Product::new(&x, &trits, &scale, &y, true, group_size)?;
    let (weights, in_dim) = ((trits.u8s()?, &*scale.widened()?), product.layout.in_dim());
    for_activations!(x, y => product.each((x, in_dim), weights, (y, product.out_dim), cpu::matmul))
}

/// `dx [*E, *L, in] = dy [*E, *L, out] (S T)`.
pub fn matmul_transposed(dy: Tensor<'_>, trits: Tensor<'_>, scale: Tensor<'_>, dx: TensorMut<'_>, group_size: i64) -> Result<()> {
    let product = Product::new(&dy, &trits, &scale, &dx, false, group_size)?;
    let (weights, in_dim) = ((trits.u8s()?, &*scale.widened()?), product.layout.in_dim());
    for_activations!(dy, dx => product.each((dy, product.out_dim), weights, (dx, in_dim), cpu::matmul_transposed))
}

/// `score [*E, out, groups]` and `votes [*E]` (1 each) from `x [*E, *L, in]`, `dy [*E, *L, out]` and `trits`.
pub fn correlate(
    x: Tensor<'_>,
    dy: Tensor<'_>,
    trits: Tensor<'_>,
    score: TensorMut<'_>,
    votes: TensorMut<'_>,
    group_size: i64,
) -> Result<()> {
    let rank = votes.shape.len();
    x.rank_at_least(rank + 1)?;
    trits.rank_at_least(rank + 3)?;
    let last = x.shape.len() - 1;
    let (in_dim, out_dim) = (x.shape[last], trits.shape[rank]);
    let layout = layout("correlate", in_dim, group_size)?;
    let leading = &x.shape[rank..last];
    dy.expect(&[dy.shape.get(..rank).unwrap_or_default(), leading, &[out_dim]].concat())?;
    trits.expect(&[&trits.shape[..rank], &[out_dim, layout.groups(), layout.group_bytes()]].concat())?;
    score.expect(&[&votes.shape[..], &[out_dim, layout.groups()]].concat())?;
    let dims = votes.shape.clone();
    let ensemble = Ensemble { dims: &dims };
    let (xs, dys, matrices) = (ensemble.members(&x)?, ensemble.members(&dy)?, ensemble.members(&trits)?);
    let (tokens, packed): (usize, _) = (leading.iter().product(), trits.u8s()?);
    let (score, votes) = (score.f32s()?, votes.f32s()?);
    let matrix_of = |e: usize| {
        let bytes = member(packed, matrices[e], out_dim * layout.row_bytes());
        TernaryMatrix::new(bytes, out_dim, layout)
    };
    let scores = out_dim * layout.groups();
    macro_rules! run {
        ($x:ident, $dy:ident) => {
            for (e, score) in score.chunks_mut(scores.max(1)).enumerate() {
                let x = member($x, xs[e], tokens * in_dim);
                cpu::correlate(x, member($dy, dys[e], tokens * out_dim), matrix_of(e), score);
            }
        };
    }
    match (x.elements, dy.elements) {
        (Elements::F32(x), Elements::F32(dy)) => run!(x, dy),
        (Elements::BF16(x), Elements::BF16(dy)) => run!(x, dy),
        (Elements::F16(x), Elements::F16(dy)) => run!(x, dy),
        (x, dy) => return wrong("correlate", "dy", format!("be of x's float dtype, {}", x.type_name()), dy.type_name()),
    }
    votes.fill(1.0);
    Ok(())
}

/// `score [*E, out, groups]` from a dense gradient `dw [*E, out, in]`, float32, and `trits`.
pub fn correlate_dense(dw: Tensor<'_>, trits: Tensor<'_>, score: TensorMut<'_>, group_size: i64) -> Result<()> {
    dw.rank_at_least(2)?;
    let rank = dw.shape.len() - 2;
    let (out_dim, in_dim) = (dw.shape[rank], dw.shape[rank + 1]);
    let layout = layout("correlate_dense", in_dim, group_size)?;
    trits.expect(&[trits.shape.get(..rank).unwrap_or_default(), &[out_dim, layout.groups(), layout.group_bytes()]].concat())?;
    score.expect(&[&dw.shape[..=rank], &[layout.groups()]].concat())?;
    let ensemble = Ensemble { dims: &dw.shape[..rank] };
    let matrices = ensemble.members(&trits)?;
    let (gradient, packed, scores) = (dw.f32s()?, trits.u8s()?, out_dim * layout.groups());
    for (e, score) in score.f32s()?.chunks_mut(scores.max(1)).enumerate() {
        let bytes = member(packed, matrices[e], out_dim * layout.row_bytes());
        cpu::correlate_dense(member(gradient, e, out_dim * in_dim), TernaryMatrix::new(bytes, out_dim, layout), score);
    }
    Ok(())
}

/// `corr [*E, out, groups, 2] -= score [*E, out, groups]`, `step [*E, 2] += votes [*E]`. `wanted_votes` below 0 asks for none
/// in particular. All layers are checked before the first one is written.
pub fn accumulate(
    corr: InPlace<'_>,
    step: InPlace<'_>,
    score: Tensor<'_>,
    votes: Tensor<'_>,
    group_size: i64,
    wanted_votes: i64,
) -> Result<()> {
    let group_size = match usize::try_from(group_size) {
        Ok(size) if size >= 1 => size,
        _ => return wrong("accumulate", "group_size", "be at least 1", group_size),
    };
    score.rank_at_least(2)?;
    let ensemble = &score.shape[..score.shape.len() - 2];
    for (state, shape) in [(&corr, [&score.shape[..], &[2]].concat()), (&step, [ensemble, &[2]].concat())] {
        if state.shape != shape {
            return wrong("accumulate", state.argument, format!("have shape {shape:?}"), &state.shape);
        }
    }
    votes.expect(ensemble)?;
    let (scores, votes) = (score.f32s()?, votes.f32s()?);
    let len = scores.len().checked_div(votes.len()).unwrap_or(0);
    let wanted = u32::try_from(wanted_votes).ok();
    for (e, &votes) in votes.iter().enumerate() {
        cpu::accumulate::check(member(scores, e, len), votes, group_size, wanted)?;
    }
    let InPlace { old: old_corr, new: new_corr, .. } = corr;
    let InPlace { old: old_step, new: new_step, .. } = step;
    if let Some(old) = old_corr {
        new_corr.copy_from_slice(old);
    }
    if let Some(old) = old_step {
        new_step.copy_from_slice(old);
    }
    for (e, (step, &votes)) in new_step.as_chunks_mut::<2>().0.iter_mut().zip(votes).enumerate() {
        cpu::accumulate(&mut new_corr[2 * e * len..2 * (e + 1) * len], step, member(scores, e, len), votes);
    }
    Ok(())
}

/// `packed [*, out, groups, group_bytes]` from `trits [*, out, in]`, int8.
pub fn pack(trits: Tensor<'_>, packed: TensorMut<'_>, group_size: i64) -> Result<()> {
    trits.rank_at_least(1)?;
    let (rows, in_dim) = trits.shape.split_at(trits.shape.len() - 1);
    let layout = layout("pack", in_dim[0], group_size)?;
    packed.expect(&[rows, &[layout.groups(), layout.group_bytes()]].concat())?;
    cpu::pack(trits.i8s()?, layout, packed.u8s()?)
}

/// `trits [*, out, in]` from `packed [*, out, groups, group_bytes]`.
pub fn unpack(packed: Tensor<'_>, trits: TensorMut<'_>, group_size: i64) -> Result<()> {
    let Some((&in_dim, rows)) = trits.shape.split_last() else {
        return wrong("unpack", "trits", "have at least 1 dimension", &trits.shape);
    };
    let layout = layout("unpack", in_dim, group_size)?;
    packed.expect(&[rows, &[layout.groups(), layout.group_bytes()]].concat())?;
    let matrix = TernaryMatrix::new(packed.u8s()?, rows.iter().product(), layout);
    cpu::unpack(matrix, trits.i8s()?)
}

/// `weights [*, out, in] = S T`, float32, from `trits [*, out, groups, group_bytes]` and `scale [*, out, groups]`.
pub fn dequantize(trits: Tensor<'_>, scale: Tensor<'_>, weights: TensorMut<'_>, group_size: i64) -> Result<()> {
    let Some((&in_dim, rows)) = weights.shape.split_last() else {
        return wrong("dequantize", "weights", "have at least 1 dimension", &weights.shape);
    };
    let layout = layout("dequantize", in_dim, group_size)?;
    trits.expect(&[rows, &[layout.groups(), layout.group_bytes()]].concat())?;
    scale.expect(&[rows, &[layout.groups()]].concat())?;
    let matrix = TernaryMatrix::new(trits.u8s()?, rows.iter().product(), layout);
    cpu::dequantize(matrix, &scale.widened()?, weights.f32s()?);
    Ok(())
}
