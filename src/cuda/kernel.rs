//! The CUDA sources, and the specialisations of kernels that calls ask for.

use super::tensor::Dtype;
use super::{few, planes};
use Dtype::{Bfloat16, Float16, Float32};

/// Every header of `cpp/cuda`, by the name that the others include it under.
pub const HEADERS: &[(&str, &str)] = &[
    ("call.cuh", include_str!("../../cpp/cuda/call.cuh")),
    ("correlate.cuh", include_str!("../../cpp/cuda/correlate.cuh")),
    ("hopper.cuh", include_str!("../../cpp/cuda/hopper.cuh")),
    ("hopper_correlate.cuh", include_str!("../../cpp/cuda/hopper_correlate.cuh")),
    ("hopper_decode.cuh", include_str!("../../cpp/cuda/hopper_decode.cuh")),
    ("hopper_matmul.cuh", include_str!("../../cpp/cuda/hopper_matmul.cuh")),
    ("hopper_tile.cuh", include_str!("../../cpp/cuda/hopper_tile.cuh")),
    ("matmul_few.cuh", include_str!("../../cpp/cuda/matmul_few.cuh")),
    ("matmul_many.cuh", include_str!("../../cpp/cuda/matmul_many.cuh")),
    ("matmul_planes.cuh", include_str!("../../cpp/cuda/matmul_planes.cuh")),
    ("matmul_transposed.cuh", include_str!("../../cpp/cuda/matmul_transposed.cuh")),
    ("numbers.cuh", include_str!("../../cpp/cuda/numbers.cuh")),
    ("pack.cuh", include_str!("../../cpp/cuda/pack.cuh")),
    ("ptx.cuh", include_str!("../../cpp/cuda/ptx.cuh")),
    ("state.cuh", include_str!("../../cpp/cuda/state.cuh")),
    ("tile.cuh", include_str!("../../cpp/cuda/tile.cuh")),
];

/// The group length that products forward are specialised on; all others run with a length known at run time, written 0.
const FIXED_GROUP: usize = 32;
/// Those that Hopper's decoders are specialised on: powers of two, and lengths that pack without loss.
pub const HOPPER_GROUPS: [usize; 9] = [8, 16, 32, 40, 64, 80, 128, 160, 256];
/// Lengths that between them meet every specialisation: each number of windows and of steps, few and many bytes in a tile.
const EVERY_KIND: [usize; 6] = [FIXED_GROUP, 12, 40, 80, 120, 160];
/// Packed bytes of a row in a tile of 128 inputs: of most lengths, and of any.
const TILE_BYTES: [usize; 2] = [32, 128];
/// Types of the activations and scales of products.
pub const PRODUCTS: [(Dtype, Dtype); 4] = [(Float32, Float32), (Float16, Float32), (Bfloat16, Float32), (Bfloat16, Bfloat16)];
/// Those that Hopper's own kernels take.
const HOPPER_PRODUCTS: [Dtype; 2] = [Bfloat16, Float16];
/// The architecture whose own instructions the kernels in `hopper*.cuh` use; no other has them.
pub const HOPPER: &str = "sm_90a";
/// Threads of their blocks: four warpgroups.
const HOPPER_THREADS: u32 = 512;
/// Columns, rows and inputs of a tile, as in `cpp/cuda/tile.cuh`.
pub const TILE: usize = 128;
/// Digits of a byte.
const DIGITS: usize = 5;
/// Most tokens of each variant of the kernel for few tokens.
pub const FEW_TOKENS: [usize; 3] = [1, 8, 16];

/// One specialisation of a kernel: a class of the sources with its template arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The header that defines it.
    pub header: &'static str,
    /// The class, as in `MatmulFew<float, float, 32, 1>`.
    pub class: String,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of one multiprocessor that its registers must leave room for.
    pub resident: u32,
}

impl Kernel {
    /// Name of the entry point in every compiled module.
    pub const ENTRY: &'static str = "ternax_kernel";

    /// The source that NVRTC compiles.
    pub fn source(&self) -> String {
        let Self { header, class, threads, resident } = self;
        let (parameters, arguments) = if self.takes_tensor_maps() {
            ("const Call call, const __grid_constant__ TensorMaps maps", "call, maps.of")
        } else {
            ("const Call call", "call")
        };
        let bounds = format!("__launch_bounds__({threads}, {resident})");
        let body = format!("{{ {class}::Run({arguments}); }}");
        format!("#include \"{header}\"\nextern \"C\" __global__ void {bounds} {}({parameters}) {body}\n", Self::ENTRY)
    }

    /// Whether it runs on Hopper's warpgroups.
    pub fn is_of_hopper(&self) -> bool {
        self.header.starts_with("hopper")
    }

    /// Of a kernel on warpgroups, the specialisation that copies by tensor maps: its last template argument.
    pub fn with_tensor_maps(&self) -> Self {
        let arguments = self.class.strip_suffix('>').expect("a template");
        Self { class: format!("{arguments}, true>"), ..self.clone() }
    }

    /// Whether it is such a specialisation.
    pub fn takes_tensor_maps(&self) -> bool {
        self.is_of_hopper() && self.class.ends_with(", true>")
    }

    fn elementwise(header: &'static str, class: String) -> Self {
        Self { header, class, threads: 256, resident: 4 }
    }

    /// `y = x (S T)^t` for at most `tokens` tokens.
    pub fn matmul_few(x: Dtype, scale: Dtype, group: usize, tokens: usize) -> Self {
        let windows = few::windows(group.div_ceil(DIGITS));
        let class = format!("MatmulFew<{}, {}, {}, {windows}, {tokens}>", x.in_cuda(), scale.in_cuda(), fixed(group));
        // Blocks that spill nothing: three limbs and their raised factor are most of what a thread holds.
        let resident = match (x, tokens) {
            (Float32, 16) => 2,
            (Float32, 8) => 3,
            _ => 4,
        };
        Self { header: "matmul_few.cuh", class, threads: 128, resident }
    }

    /// `y = x (S T)^t` for exactly `tokens` tokens by bit planes, in groups of 32.
    pub fn matmul_planes(x: Dtype, scale: Dtype, tokens: usize) -> Self {
        let class = format!("MatmulPlanes<{}, {}, {tokens}>", x.in_cuda(), scale.in_cuda());
        Self { header: "matmul_planes.cuh", class, threads: 256, resident: 2 }
    }

    /// `y = x (S T)^t` in tiles.
    pub fn matmul_many(x: Dtype, scale: Dtype, group: usize, asynchronous: bool) -> Self {
        let (x, scale, steps) = (x.in_cuda(), scale.in_cuda(), tile_steps(group));
        let class = format!("MatmulMany<{x}, {scale}, {}, {steps}, {asynchronous}>", fixed(group));
        Self { header: "matmul_many.cuh", class, threads: 256, resident: 1 }
    }

    /// `dx = dy (S T)` in tiles.
    pub fn matmul_transposed(x: Dtype, scale: Dtype, group: usize, asynchronous: bool) -> Self {
        let bytes = TILE_BYTES.into_iter().find(|&bytes| tile_bytes(group) <= bytes).expect("a byte for each input at most");
        let class = format!("MatmulTransposed<{}, {}, {bytes}, {asynchronous}>", x.in_cuda(), scale.in_cuda());
        Self { header: "matmul_transposed.cuh", class, threads: 256, resident: 1 }
    }

    /// Either product on Hopper's warpgroups, in bfloat16 with such scales or in float16.
    pub fn hopper_matmul(x: Dtype, forward: bool, group: usize) -> Self {
        let group = if has_decoder(group) { group } else { 0 };
        let class = format!("HopperMatmul<{}, {forward}, {group}>", x.in_cuda());
        Self { header: "hopper_matmul.cuh", class, threads: HOPPER_THREADS, resident: 1 }
    }

    /// Scores on Hopper's warpgroups.
    pub fn hopper_correlate(x: Dtype) -> Self {
        let class = format!("HopperCorrelate<{}>", x.in_cuda());
        Self { header: "hopper_correlate.cuh", class, threads: HOPPER_THREADS, resident: 1 }
    }

    /// Whether an architecture, as in `sm_80`, has the instructions of this kernel.
    pub fn runs_on(&self, architecture: &str) -> bool {
        !self.is_of_hopper() || architecture == HOPPER
    }

    /// Scores of `dy^t x`.
    pub fn correlate(x: Dtype, asynchronous: bool) -> Self {
        Self { header: "correlate.cuh", class: format!("Correlate<{}, {asynchronous}>", x.in_cuda()), threads: 256, resident: 1 }
    }

    /// Scores of a dense gradient.
    pub fn correlate_dense() -> Self {
        Self::elementwise("correlate.cuh", "CorrelateDense".into())
    }

    /// The sum of the parts of a contraction.
    pub fn reduce(y: Dtype) -> Self {
        Self::elementwise("matmul_few.cuh", format!("Reduce<{}>", y.in_cuda()))
    }

    /// Scales from the integer state.
    pub fn scale(scale: Dtype) -> Self {
        Self::elementwise("state.cuh", format!("Scale<{}>", scale.in_cuda()))
    }

    /// The check of scores and votes.
    pub fn accumulate_check() -> Self {
        Self::elementwise("state.cuh", "AccumulateCheck".into())
    }

    /// Scores into the state.
    pub fn accumulate() -> Self {
        Self::elementwise("state.cuh", "Accumulate".into())
    }

    /// Trits to bytes.
    pub fn pack() -> Self {
        Self::elementwise("pack.cuh", "Pack".into())
    }

    /// Bytes to trits.
    pub fn unpack() -> Self {
        Self::elementwise("pack.cuh", "Unpack".into())
    }

    /// Bytes and scales to dense weights; by 16 bytes of these at a time where they lie in `chunks`, each in one group.
    pub fn dequantize(scale: Dtype, weights: Dtype, chunks: bool) -> Self {
        let class = if chunks { "DequantizeChunks" } else { "Dequantize" };
        Self::elementwise("pack.cuh", format!("{class}<{}, {}>", scale.in_cuda(), weights.in_cuda()))
    }

    /// Every specialisation that a plan can ask for.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for ((x, scale), group) in PRODUCTS.into_iter().flat_map(|types| EVERY_KIND.map(move |group| (types, group))) {
            let planes = |tokens| group == planes::GROUP && tokens <= planes::MOST_TOKENS;
            all.extend(FEW_TOKENS.into_iter().filter(|&tokens| !planes(tokens)).map(|tokens| Self::matmul_few(x, scale, group, tokens)));
            all.extend((1..=planes::MOST_TOKENS).map(|tokens| Self::matmul_planes(x, scale, tokens)));
            all.extend([false, true].map(|asynchronous| Self::matmul_many(x, scale, group, asynchronous && copies(x))));
            all.extend([false, true].map(|asynchronous| Self::matmul_transposed(x, scale, group, asynchronous && copies(x))));
        }
        for group in HOPPER_GROUPS.into_iter().chain([12]) {
            all.extend(HOPPER_PRODUCTS.into_iter().flat_map(|x| [true, false].map(|forward| Self::hopper_matmul(x, forward, group))));
        }
        all.extend(HOPPER_PRODUCTS.map(Self::hopper_correlate));
        let mapped: Vec<Self> = all.iter().filter(|kernel| kernel.is_of_hopper()).map(Self::with_tensor_maps).collect();
        all.extend(mapped);
        for x in [Float32, Float16, Bfloat16] {
            all.extend([false, true].map(|asynchronous| Self::correlate(x, asynchronous && copies(x))));
            all.push(Self::reduce(x));
        }
        for scale in [Float32, Bfloat16] {
            all.push(Self::scale(scale));
            let weights = [Float32, Bfloat16, Float16];
            all.extend(weights.into_iter().flat_map(|weights| [false, true].map(|chunks| Self::dequantize(scale, weights, chunks))));
        }
        all.extend([Self::correlate_dense(), Self::accumulate_check(), Self::accumulate(), Self::pack(), Self::unpack()]);
        let mut seen = std::collections::HashSet::new();
        all.retain(|kernel| seen.insert(kernel.class.clone()));
        all
    }
}

/// Whether values of this type are operands of the tensor cores as they lie in memory.
pub fn copies(x: Dtype) -> bool {
    x != Float32
}

/// The template argument for groups of `group` inputs.
fn fixed(group: usize) -> usize {
    if group == FIXED_GROUP { group } else { 0 }
}

/// Whether Hopper's kernels decode groups of this length by words, and not one weight after the other.
pub fn has_decoder(group: usize) -> bool {
    HOPPER_GROUPS.contains(&group)
}

/// The most packed bytes of a row that a tile of [`TILE`] inputs meets, which begins at a multiple of that.
fn tile_bytes(group: usize) -> usize {
    let (mut common, mut rest) = (TILE, group);
    while rest > 0 {
        (common, rest) = (rest, common % rest);
    }
    // Where the tile begins furthest inside a group it meets the most borders, each with digits that are left empty.
    let borders = (group - common + TILE - 1) / group;
    let skipped = if common == group { 0 } else { DIGITS - 1 };
    (skipped + TILE - 1 + borders * (group.div_ceil(DIGITS) * DIGITS - group)) / DIGITS + 1
}

/// Inputs of a group in one step of a tile's contraction: the larger number, where the smaller wastes no fewer.
pub fn tile_steps(group: usize) -> usize {
    if (1..=16).contains(&(group % 32)) { 16 } else { 32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_tile_are_bounded_and_those_of_common_groups_exactly() {
        for group in (1..=300).chain([1000, 4096, 99_991]) {
            let byte = |input: usize| input / group * group.div_ceil(DIGITS) + input % group / DIGITS;
            let met = |tile: usize| byte((tile + 1) * TILE - 1) - byte(tile * TILE) + 1;
            let most = (0..group).map(met).max().expect("a tile");
            let bound = tile_bytes(group);
            assert!(most <= bound && bound <= TILE, "groups of {group}: {most}, bounded by {bound}");
            assert!(bound - most <= 1, "groups of {group}: {most}, bounded by {bound}");
        }
        for group in HOPPER_GROUPS.into_iter().chain([24, 48, 96, 100, 1000]) {
            assert!(tile_bytes(group) <= TILE_BYTES[0], "groups of {group}");
        }
    }
}
