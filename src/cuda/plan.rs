//! From one custom call to its launches: shapes checked, kernels chosen, grids and shared memory counted. Sums depend on shapes and types
//! alone, never on the card, so that every card gives the same; but for Hopper, whose own launches stand beside the others. Where operands
//! lie decides only how they are copied.

use super::call::{Call, Launch};
use super::elementwise::{accumulate, bytes, dequantize, scales};
use super::ensemble::{Run, runs};
use super::kernel::{FEW_TOKENS, HOPPER, Kernel, TILE, copies, has_decoder, tile_steps};
use super::tensor::{Dtype, Tensor};
use super::tensor_map::{Copied, mapped};
use super::{few, hopper, planes};
use crate::error::{Error, Result};
use crate::trits::GroupLayout;
use Dtype::{Bfloat16, Float16, Float32, Uint8};

/// Rows of a block of the kernel for few tokens.
const FEW_ROWS: usize = 64;
/// Blocks that fill a large card twice.
const BLOCKS: usize = 264;
/// Most blocks in the second and third direction of a grid.
pub(super) const MOST_BLOCKS: usize = 65_535;
/// Dynamic shared memory that every card from sm_80 on gives one block.
const SHARED: usize = 96 << 10;

/// The attributes of a custom call.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Inputs of a group.
    pub group_size: i64,
    /// K of the scale.
    pub gain: f32,
    /// Votes that were asked for, or a negative number.
    pub wanted_votes: i64,
}

/// One custom call: what XLA hands over, or, for [`scratch`], the shapes alone.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Request {
    /// The operation, as in `matmul`.
    pub operation: String,
    /// The operands.
    pub operands: Vec<Tensor>,
    /// The results; scratch, where there is any, is the last.
    pub results: Vec<Tensor>,
    /// The attributes.
    #[serde(default)]
    pub attributes: Attributes,
    /// Whether the activations stand for any number of tokens: their leading dimensions are then one, of any size.
    #[serde(default)]
    pub any_tokens: bool,
}

/// What a call launches, in order, and the float32 elements of scratch that it needs as a further result (0: no such result).
#[derive(Debug)]
pub struct Plan {
    /// The launches.
    pub launches: Vec<Launch>,
    /// Elements of scratch.
    pub scratch: usize,
    /// The same call on Hopper's own instructions, where there is such a kernel.
    pub hopper: Option<Alternative>,
}

/// Other launches of a call, for cards of one architecture.
#[derive(Debug)]
pub struct Alternative {
    /// The launches, in order.
    pub launches: Vec<Launch>,
    /// The same with tensor maps, where the operands lie so that there can be any.
    pub mapped: Option<Vec<Launch>>,
    /// Whether they should be faster.
    pub pays: bool,
}

impl Plan {
    /// What a card of an architecture, as in `sm_90a`, launches with a driver that does or does not encode tensor maps.
    pub fn on(&self, architecture: &str, maps: bool) -> &[Launch] {
        match &self.hopper {
            Some(Alternative { launches, mapped, pays: true }) if architecture == HOPPER => match mapped {
                Some(mapped) if maps => mapped,
                _ => launches,
            },
            _ => &self.launches,
        }
    }
}

/// Plans a call. Where the scratch result is missing its address is 0: such a plan is for its size alone.
pub fn plan(request: &Request) -> Result<Plan> {
    let Request { operation, operands, results, attributes, .. } = request;
    let operands = operands.as_slice();
    match (operation.as_str(), operands, results.as_slice()) {
        ("matmul", [x, trits, scale], [y, scratch @ ..]) => Product::new("matmul", true, x, trits, scale, y, *attributes)?.plan(scratch),
        ("matmul_transposed", [dy, trits, scale], [dx, scratch @ ..]) => {
            Product::new("matmul_transposed", false, dy, trits, scale, dx, *attributes)?.plan(scratch)
        }
        ("correlate", [x, dy, trits], [score, votes, scratch @ ..]) => correlate([x, dy, trits], [score, votes], scratch, *attributes),
        ("correlate_dense", [dw, trits], [score]) => correlate_dense(dw, trits, score, *attributes),
        ("scale", [exponent, corr, step], [scale]) => scales(exponent, corr, step, scale, *attributes),
        ("accumulate", [corr, step, score, votes], [new_corr, new_step, scratch @ ..]) => {
            accumulate([corr, step, score, votes], [new_corr, new_step], scratch, *attributes)
        }
        ("pack", [trits], [packed]) => bytes(Kernel::pack(), "pack", packed, trits, None, (trits, packed), *attributes),
        ("unpack", [packed], [trits]) => bytes(Kernel::unpack(), "unpack", packed, trits, None, (packed, trits), *attributes),
        ("dequantize", [trits, scale], [weights]) => dequantize(trits, scale, weights, *attributes),
        _ => Err(Error::Argument {
            operation: "plan",
            argument: "operation",
            wanted: "be a custom call of ternax with its operands and results".into(),
            found: format!("{operation} of {} operands and {} results", operands.len(), results.len()),
        }),
    }
}

/// The float32 elements of scratch that a call needs, or needs at most with any number of tokens.
pub fn scratch(request: &Request) -> Result<usize> {
    if !request.any_tokens {
        return Ok(plan(request)?.scratch);
    }
    let mut request = request.clone();
    // Up to the last of these each number has a plan of its own. Beyond them, tokens that fill their tiles need the most, and no contraction
    // is cut into more parts than there are blocks: of outputs or inputs where there are fewer tiles, of tokens at eight steps for each part.
    let numbers = (1..=FEW_TOKENS[FEW_TOKENS.len() - 1]).chain((1..=2 * BLOCKS).map(|tiles| tiles * TILE));
    let mut most = 1;
    for tokens in numbers {
        set_tokens(&mut request, tokens)?;
        most = most.max(plan(&request)?.scratch);
    }
    Ok(most)
}

/// Gives the activations of a call a number of tokens.
fn set_tokens(request: &mut Request, tokens: usize) -> Result<()> {
    const OPERATION: &str = "scratch";
    let Request { operation, operands, results, .. } = request;
    let (trits, activations) = match (operation.as_str(), &mut operands[..], &mut results[..]) {
        ("matmul" | "matmul_transposed", [data, trits, _], [result]) => (trits, [data, result]),
        ("correlate", [x, dy, trits], _) => (trits, [x, dy]),
        _ => {
            let wanted = "be a product or its scores: no other call has tokens".into();
            return Err(Error::Argument { operation: OPERATION, argument: "operation", wanted, found: operation.clone() });
        }
    };
    let ensemble = trits.leading(OPERATION, "trits", 3).map(|_| trits.shape.len() - 3)?;
    for tensor in activations {
        tensor.leading(OPERATION, "activations", ensemble + 2)?;
        tensor.shape[ensemble] = tokens;
    }
    Ok(())
}

/// A size as the kernels hold it.
fn size(operation: &'static str, argument: &'static str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::Argument {
        operation,
        argument,
        wanted: format!("have dimensions below {}", i32::MAX),
        found: value.to_string(),
    })
}

pub(super) fn layout(operation: &'static str, in_dim: usize, attributes: Attributes) -> Result<GroupLayout> {
    let refused =
        |_| Error::Argument { operation, argument: "group_size", wanted: "be at least 1".into(), found: attributes.group_size.to_string() };
    GroupLayout::new(in_dim, usize::try_from(attributes.group_size).map_err(refused)?)
}

/// The sizes that all calls on a weight have.
pub(super) fn base(operation: &'static str, layout: GroupLayout, out_dim: usize, tokens: usize, attributes: Attributes) -> Result<Call> {
    Ok(Call {
        group_size: attributes.group_size,
        wanted_votes: attributes.wanted_votes,
        gain: attributes.gain,
        tokens: size(operation, "tokens", tokens)?,
        in_dim: size(operation, "in_dim", layout.in_dim())?,
        out_dim: size(operation, "out_dim", out_dim)?,
        group: size(operation, "group_size", layout.group_size().min(layout.in_dim()))?,
        splits: 1,
        ..Call::default()
    })
}

/// Sets the addresses and strides of one run: of each operand and result the tensor and the elements of a member.
fn place(call: &mut Call, run: &Run, operands: &[(&Tensor, usize)], results: &[(u64, Dtype, usize)]) {
    for (index, (tensor, each)) in operands.iter().enumerate() {
        call.operands[index] = tensor.address + (run.starts[index] * each * tensor.dtype.size()) as u64;
        call.operand_strides[index] = if run.own[index] { *each as i64 } else { 0 };
    }
    for (index, &(address, dtype, each)) in results.iter().enumerate() {
        call.results[index] = address + (run.first * each * dtype.size()) as u64;
        call.result_strides[index] = each as i64;
    }
}

/// Into how many parts a contraction is split, and the steps of each: several where there are few tiles and many steps.
fn parts(tiles: usize, steps: usize) -> (usize, usize) {
    let wanted = if 2 * tiles >= BLOCKS { 1 } else { (BLOCKS / tiles.max(1)).clamp(1, (steps / 8).max(1)) };
    let split_steps = steps.div_ceil(wanted).max(1);
    (steps.div_ceil(split_steps).max(1), split_steps)
}

pub(super) fn blocks(operation: &'static str, count: usize, each: usize) -> Result<u32> {
    Ok(size(operation, "elements", count.div_ceil(each))? as u32)
}

/// Blocks in the second direction of a grid, each of which has `each` of the `count` elements of an argument's dimension.
fn second_blocks(operation: &'static str, argument: &'static str, count: usize, each: usize) -> Result<u32> {
    let most = MOST_BLOCKS * each;
    if count > most {
        return Err(Error::Argument { operation, argument, wanted: format!("be at most {most}"), found: count.to_string() });
    }
    Ok(count.div_ceil(each) as u32)
}

/// Whether copies of 16 bytes may start at the rows of this operand.
fn is_aligned(tensor: &Tensor, columns: usize) -> bool {
    tensor.address.is_multiple_of(16) && columns.is_multiple_of(8)
}

/// The two matrix products.
struct Product<'a> {
    operation: &'static str,
    forward: bool,
    data: &'a Tensor,
    trits: &'a Tensor,
    scale: &'a Tensor,
    result: &'a Tensor,
    ensemble: Vec<usize>,
    layout: GroupLayout,
    out_dim: usize,
    tokens: usize,
    attributes: Attributes,
}

/// How a product is computed.
struct Shape {
    kernel: Kernel,
    /// Blocks of one member and split.
    grid: [u32; 2],
    /// Steps of the contraction in each split.
    split_steps: usize,
    splits: usize,
    shared: usize,
    /// Tiles of one member and split that its blocks share, where each takes several.
    tiles: Option<u32>,
}

impl<'a> Product<'a> {
    fn new(
        operation: &'static str,
        forward: bool,
        data: &'a Tensor,
        trits: &'a Tensor,
        scale: &'a Tensor,
        result: &'a Tensor,
        attributes: Attributes,
    ) -> Result<Self> {
        let (data_name, result_name) = if forward { ("x", "y") } else { ("dy", "dx") };
        let rank = trits.leading(operation, "trits", 3).map(|_| trits.shape.len() - 3)?;
        let (lead, last) = (data.leading(operation, data_name, rank + 1)?, data.shape.len() - 1);
        let ensemble = result.leading(operation, result_name, rank + 1)?[..rank].to_vec();
        let out_dim = trits.shape[rank];
        let in_dim = if forward { data.shape[last] } else { result.shape[result.shape.len() - 1] };
        let (from, to) = if forward { (in_dim, out_dim) } else { (out_dim, in_dim) };
        let layout = layout(operation, in_dim, attributes)?;
        let rows = &data.shape[rank..last];
        data.expect(operation, data_name, &[Float32, Float16, Bfloat16], &[&lead[..rank], rows, &[from]].concat())?;
        result.expect(operation, result_name, &[data.dtype, Float32], &[&ensemble, rows, &[to]].concat())?;
        let matrix = [out_dim, layout.groups(), layout.group_bytes()];
        trits.expect(operation, "trits", &[Uint8], &[&trits.shape[..rank], &matrix].concat())?;
        let scales: &[Dtype] = if data.dtype == Bfloat16 { &[Float32, Bfloat16] } else { &[Float32] };
        scale.expect(operation, "scale", scales, &[scale.leading(operation, "scale", rank)?, &matrix[..2]].concat())?;
        let tokens = rows.iter().product();
        Ok(Self { operation, forward, data, trits, scale, result, ensemble, layout, out_dim, tokens, attributes })
    }

    fn group(&self) -> usize {
        self.layout.group_size().min(self.layout.in_dim())
    }

    fn result_dim(&self) -> usize {
        if self.forward { self.out_dim } else { self.layout.in_dim() }
    }

    fn shape(&self) -> Result<Shape> {
        let members: usize = self.ensemble.iter().product();
        if self.forward && self.tokens <= planes::MOST_TOKENS && self.group() == planes::GROUP {
            return self.planes(members);
        }
        match FEW_TOKENS.into_iter().find(|&most| self.forward && self.tokens <= most) {
            Some(most) => self.few(members, most),
            None => self.tiles(members),
        }
    }

    /// The kernel for few tokens: a split ends where its activations fill shared memory, or once there are blocks enough.
    fn few(&self, members: usize, most: usize) -> Result<Shape> {
        let kernel = Kernel::matmul_few(self.data.dtype, self.scale.dtype, self.group(), most);
        let sizes = few::Sizes::new(self.group(), self.layout.group_bytes(), self.scale.dtype);
        let limbs = if self.data.dtype == Float32 { 3 } else { 1 };
        let unit = 80 * sizes.windows * limbs * most;
        let ring = 12 * sizes.stage;
        let units = self.layout.groups() * sizes.units_per_group;
        let rows = self.out_dim.div_ceil(FEW_ROWS);
        let wanted = (BLOCKS / (rows * members).max(1)).clamp(1, units.div_ceil(sizes.stage_units));
        let split_steps = units.div_ceil(wanted).min(((SHARED - ring) / unit).max(1));
        let grid = [size(self.operation, "out_dim", rows)? as u32, 1];
        let splits = units.div_ceil(split_steps);
        Ok(Shape { kernel, grid, split_steps, splits, shared: ring + split_steps * unit, tiles: None })
    }

    /// The kernel by bit planes: splits as in [`few`](Self::few).
    fn planes(&self, members: usize) -> Result<Shape> {
        let tokens = self.tokens.max(1);
        let sizes = planes::Sizes::new(tokens, self.scale.dtype);
        let steps = self.layout.groups().div_ceil(planes::STEP_GROUPS);
        let rows = self.out_dim.div_ceil(planes::ROWS);
        let wanted = (BLOCKS / (rows * members).max(1)).clamp(1, steps.div_ceil(planes::STAGE_STEPS));
        let whole = |steps: usize| steps.next_multiple_of(planes::STAGE_STEPS);
        let most = (SHARED - sizes.fixed) / sizes.step / planes::STAGE_STEPS * planes::STAGE_STEPS;
        let split_steps = whole(steps.div_ceil(wanted)).min(most);
        let grid = [size(self.operation, "out_dim", rows)? as u32, 1];
        let kernel = Kernel::matmul_planes(self.data.dtype, self.scale.dtype, tokens);
        let splits = steps.div_ceil(split_steps);
        Ok(Shape { kernel, grid, split_steps, splits, shared: sizes.fixed + split_steps * sizes.step, tiles: None })
    }

    /// The kernels in tiles: the contraction is split where there are few tiles and many steps.
    fn tiles(&self, members: usize) -> Result<Shape> {
        let (x, scale, group) = (self.data.dtype, self.scale.dtype, self.group());
        let (kernel, steps, shared) = if self.forward {
            let asynchronous = copies(x) && is_aligned(self.data, self.layout.in_dim()) && group.is_multiple_of(8);
            let (each, limbs) = (tile_steps(group), if x == Float32 { 3 } else { 1 });
            let plane = TILE * (2 * each + 16);
            let folded = x == Bfloat16 && scale == Bfloat16;
            let stage = (limbs + 1) * plane + if folded { 0 } else { 4 * TILE };
            let steps = self.layout.groups() * group.div_ceil(each);
            (Kernel::matmul_many(x, scale, group, asynchronous), steps, if asynchronous { 3 } else { 2 } * stage)
        } else {
            let asynchronous = copies(x) && is_aligned(self.data, self.out_dim);
            let limbs_a = if x == Float32 { 3 } else { 1 };
            let limbs_b = match (x, scale) {
                (Float16, _) => 2,
                (_, Float32) => 3,
                _ => 1,
            };
            let each = if limbs_a + limbs_b > 2 { 16 } else { 32 };
            let stage = limbs_a * TILE * (2 * each + 16) + limbs_b * each * (2 * TILE + 16);
            let steps = self.out_dim.div_ceil(each);
            (Kernel::matmul_transposed(x, scale, group, asynchronous), steps, if asynchronous { 3 } else { 2 } * stage)
        };
        let grid = [self.tokens.div_ceil(TILE), self.result_dim().div_ceil(TILE)];
        let tiles = grid[0] * grid[1] * members;
        let (splits, split_steps) = parts(tiles, steps);
        let columns = if self.forward { "out_dim" } else { "in_dim" };
        let grid = [size(self.operation, "tokens", grid[0])? as u32, second_blocks(self.operation, columns, self.result_dim(), TILE)?];
        Ok(Shape { kernel, grid, split_steps, splits, shared, tiles: None })
    }

    /// Either product in bfloat16 or float16 on Hopper's warpgroups, with at most as many parts as there is scratch for.
    fn hopper(&self, members: usize, most_splits: usize) -> Option<(Shape, bool)> {
        let half = match (self.data.dtype, self.scale.dtype) {
            (Bfloat16, Bfloat16) => false,
            (Float16, _) => true,
            _ => return None,
        };
        let (columns, length) = (self.result_dim(), if self.forward { self.layout.in_dim() } else { self.out_dim });
        // In float16 each column of the weight takes two of a tile, and a block has one tile.
        let wide = if half { hopper::COLUMNS / 2 } else { hopper::COLUMNS };
        let tiles = hopper::Tiles::of(self.tokens, columns, wide, members);
        let steps = length.div_ceil(hopper::STEPS);
        let wanted = tiles.wanted_splits(steps).min(most_splits);
        let split_steps = steps.div_ceil(wanted).max(1);
        let kernel = Kernel::hopper_matmul(self.data.dtype, self.forward, self.group());
        let splits = steps.div_ceil(split_steps).max(1);
        let blocks = if half { tiles.own_blocks() } else { tiles.shared_blocks(splits) };
        let shared = hopper::SHARED + if half { 4 * wide } else { 0 };
        let shared_tiles = (!half).then(|| tiles.own_blocks());
        let shape = Shape { kernel, grid: [blocks, 1], split_steps, splits, shared, tiles: shared_tiles };
        Some((shape, self.tokens >= hopper::FEWEST_TOKENS && has_decoder(self.group())))
    }

    fn plan(&self, scratch: &[Tensor]) -> Result<Plan> {
        let shape = self.shape()?;
        let each = self.tokens * self.result_dim();
        let members: usize = self.ensemble.iter().product();
        let partial = if shape.splits > 1 { shape.splits * each } else { 0 };
        let mut plan = Plan { launches: Vec::new(), scratch: (members * partial).max(1), hopper: None };
        if each == 0 {
            return Ok(plan);
        }
        let scratch_at = scratch_address(self.operation, scratch, plan.scratch)?;
        plan.launches = self.launches(&shape, scratch_at)?;
        if let Some((shape, pays)) = self.hopper(members, shape.splits) {
            let launches = self.launches(&shape, scratch_at)?;
            let columns = if self.forward { self.layout.in_dim() } else { self.out_dim };
            let mapped = mapped(&launches, &[Copied { operand: 0, dtype: self.data.dtype, columns, rows: hopper::ROWS }]);
            plan.hopper = Some(Alternative { launches, mapped, pays });
        }
        Ok(plan)
    }

    /// The launches of a product in one shape, and of the sum of its parts.
    fn launches(&self, shape: &Shape, scratch_at: u64) -> Result<Vec<Launch>> {
        let mut launches = Vec::new();
        let each = self.tokens * self.result_dim();
        let partial = if shape.splits > 1 { shape.splits * each } else { 0 };
        let (in_dim, out_dim) = (self.layout.in_dim(), self.out_dim);
        let from = if self.forward { in_dim } else { out_dim };
        let weights = (out_dim * self.layout.row_bytes(), out_dim * self.layout.groups());
        let operands = [(self.data, self.tokens * from), (self.trits, weights.0), (self.scale, weights.1)];
        let named = [("x", self.data), ("trits", self.trits), ("scale", self.scale)];
        for run in runs(self.operation, &self.ensemble, &named, shape.splits)? {
            let mut call = base(self.operation, self.layout, out_dim, self.tokens, self.attributes)?;
            call.splits = size(self.operation, "splits", shape.splits)?;
            call.split_steps = size(self.operation, "steps", shape.split_steps)?;
            call.wide = i32::from(self.result.dtype != self.data.dtype);
            place(&mut call, &run, &operands, &[(self.result.address, self.result.dtype, each), (scratch_at, Float32, partial)]);
            let (members, splits) = (run.members as u32, shape.splits as u32);
            let grid = if matches!(shape.kernel.header, "matmul_few.cuh" | "matmul_planes.cuh") {
                [shape.grid[0], splits, members]
            } else {
                [shape.grid[0], shape.grid[1], members * splits]
            };
            launches.push(Launch { tiles: shape.tiles, ..Launch::new(shape.kernel.clone(), grid, call, shape.shared as u32) });
            if shape.splits > 1 {
                let call = Call {
                    operands: [call.results[1], 0, 0, 0],
                    operand_strides: [partial as i64, 0, 0, 0],
                    results: [call.results[0], 0, 0],
                    result_strides: [each as i64, 0, 0],
                    count: each as i64,
                    ..call
                };
                let grid = [blocks(self.operation, each, 256)?, members, 1];
                launches.push(Launch::new(Kernel::reduce(self.result.dtype), grid, call, 0));
            }
        }
        Ok(launches)
    }
}

/// Where scratch lies: 0 where the call has no such result yet, because its size is being asked for.
pub(super) fn scratch_address(operation: &'static str, scratch: &[Tensor], elements: usize) -> Result<u64> {
    match scratch {
        [] => Ok(0),
        // Where sizes were unknown when the program was made there is more than this call needs.
        [tensor] if tensor.dtype == Float32 && tensor.shape.len() == 1 && tensor.shape[0] >= elements => Ok(tensor.address),
        [tensor] => tensor.expect(operation, "scratch", &[Float32], &[elements]).map(|()| tensor.address),
        _ => Err(Error::Argument { operation, argument: "scratch", wanted: "be one result".into(), found: scratch.len().to_string() }),
    }
}

fn correlate(operands: [&Tensor; 3], results: [&Tensor; 2], scratch: &[Tensor], attributes: Attributes) -> Result<Plan> {
    const OPERATION: &str = "correlate";
    let ([x, dy, trits], [score, votes]) = (operands, results);
    let rank = votes.shape.len();
    let (lead, last) = (x.leading(OPERATION, "x", rank + 1)?, x.shape.len() - 1);
    trits.leading(OPERATION, "trits", rank + 3)?;
    let (in_dim, out_dim, rows) = (x.shape[last], trits.shape[rank], &x.shape[rank..last]);
    let layout = layout(OPERATION, in_dim, attributes)?;
    x.expect(OPERATION, "x", &[Float32, Float16, Bfloat16], &[&lead[..rank], rows, &[in_dim]].concat())?;
    dy.expect(OPERATION, "dy", &[x.dtype], &[dy.leading(OPERATION, "dy", rank)?, rows, &[out_dim]].concat())?;
    trits.expect(OPERATION, "trits", &[Uint8], &[&trits.shape[..rank], &[out_dim, layout.groups(), layout.group_bytes()]].concat())?;
    score.expect(OPERATION, "score", &[Float32], &[&votes.shape[..], &[out_dim, layout.groups()]].concat())?;
    votes.expect(OPERATION, "votes", &[Float32], &votes.shape)?;
    let (tokens, scores): (usize, _) = (rows.iter().product(), out_dim * layout.groups());
    let group = layout.group_size().min(in_dim);
    let together = (TILE / group).max(1);
    let aligned = is_aligned(x, in_dim) && is_aligned(dy, out_dim) && (together * group).is_multiple_of(8);
    let asynchronous = copies(x.dtype) && aligned;
    let (limbs, each) = if x.dtype == Float32 { (3, 16) } else { (1, 32) };
    let ring = if asynchronous { 3 } else { 2 } * 2 * limbs * each * (2 * TILE + 16);
    let shared = ring.max(TILE * (TILE + 4)) as u32;
    let grid = [blocks(OPERATION, out_dim.max(1), TILE)?, second_blocks(OPERATION, "in_dim", in_dim, together * group)?];
    let operands = [(x, tokens * in_dim), (dy, tokens * out_dim), (trits, out_dim * layout.row_bytes())];
    let mut plan = Plan { launches: Vec::new(), scratch: 0, hopper: None };
    let members: usize = votes.shape.iter().product();
    let (splits, split_steps) = parts(grid.iter().product::<u32>() as usize * members, tokens.div_ceil(each));
    let partial = if splits > 1 { splits * out_dim * in_dim } else { 0 };
    plan.scratch = members * partial;
    let scratch_at = scratch_address(OPERATION, scratch, plan.scratch)?;
    let mut on_hopper = Vec::new();
    for run in runs(OPERATION, &votes.shape, &[("x", x), ("dy", dy), ("trits", trits)], splits)? {
        let mut call = base(OPERATION, layout, out_dim, tokens, attributes)?;
        place(&mut call, &run, &operands, &[(score.address, Float32, scores), (votes.address, Float32, 1)]);
        let members = run.members as u32;
        let wide = [blocks(OPERATION, out_dim.max(1), hopper::ROWS)?, grid[1], members];
        on_hopper.push(Launch::new(Kernel::hopper_correlate(x.dtype), wide, call, hopper::SHARED as u32));
        call.splits = size(OPERATION, "splits", splits)?;
        call.split_steps = size(OPERATION, "steps", split_steps)?;
        call.results[2] = scratch_at + (run.first * partial * Float32.size()) as u64;
        call.result_strides[2] = partial as i64;
        let grid = [grid[0], grid[1], members * splits as u32];
        plan.launches.push(Launch::new(Kernel::correlate(x.dtype, asynchronous), grid, call, shared));
        if splits > 1 && scores > 0 {
            let call = Call {
                operands: [call.results[2], call.operands[2], 0, 0],
                operand_strides: [partial as i64, call.operand_strides[2], 0, 0],
                count: scores as i64,
                ..call
            };
            let grid = [blocks(OPERATION, scores, 256)?, members, 1];
            plan.launches.push(Launch::new(Kernel::correlate_dense(), grid, call, 0));
        }
    }
    if copies(x.dtype) {
        let copied = |operand, columns| Copied { operand, dtype: x.dtype, columns, rows: hopper::STEPS };
        let mapped = mapped(&on_hopper, &[copied(1, out_dim), copied(0, in_dim)]);
        plan.hopper = Some(Alternative { launches: on_hopper, mapped, pays: tokens >= hopper::FEWEST_TOKENS && splits == 1 });
    }
    Ok(plan)
}

fn correlate_dense(dw: &Tensor, trits: &Tensor, score: &Tensor, attributes: Attributes) -> Result<Plan> {
    const OPERATION: &str = "correlate_dense";
    let rank = dw.leading(OPERATION, "dw", 2).map(|_| dw.shape.len() - 2)?;
    let (ensemble, out_dim, in_dim) = (&dw.shape[..rank], dw.shape[rank], dw.shape[rank + 1]);
    let layout = layout(OPERATION, in_dim, attributes)?;
    dw.expect(OPERATION, "dw", &[Float32], &dw.shape)?;
    let matrix = [out_dim, layout.groups(), layout.group_bytes()];
    trits.expect(OPERATION, "trits", &[Uint8], &[trits.leading(OPERATION, "trits", rank)?, &matrix].concat())?;
    score.expect(OPERATION, "score", &[Float32], &[ensemble, &matrix[..2]].concat())?;
    let scores = out_dim * layout.groups();
    let mut plan = Plan { launches: Vec::new(), scratch: 0, hopper: None };
    if scores == 0 {
        return Ok(plan);
    }
    for run in runs(OPERATION, ensemble, &[("dw", dw), ("trits", trits)], 1)? {
        let mut call = Call { count: scores as i64, ..base(OPERATION, layout, out_dim, 0, attributes)? };
        place(&mut call, &run, &[(dw, out_dim * in_dim), (trits, out_dim * layout.row_bytes())], &[(score.address, Float32, scores)]);
        let grid = [blocks(OPERATION, scores, 256)?, run.members as u32, 1];
        plan.launches.push(Launch::new(Kernel::correlate_dense(), grid, call, 0));
    }
    Ok(plan)
}
