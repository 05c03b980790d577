//! The CUDA sources, and the specialisations of kernels that calls ask for.

use super::planes;
use super::tensor::Dtype;
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

/// Group lengths that kernels are specialised on: powers of two, and those that pack without loss. All others run with a length known at
/// run time, written 0.
pub const FIXED_GROUPS: [usize; 9] = [8, 16, 32, 40, 64, 80, 128, 160, 256];
/// Types of the activations and scales of products.
pub const PRODUCTS: [(Dtype, Dtype); 4] = [(Float32, Float32), (Float16, Float32), (Bfloat16, Float32), (Bfloat16, Bfloat16)];
/// Those that Hopper's own kernels take.
const HOPPER_PRODUCTS: [Dtype; 2] = [Bfloat16, Float16];
/// The architecture whose own instructions the kernels in `hopper*.cuh` use; no other has them.
pub const HOPPER: &str = "sm_90a";
/// Threads of their blocks: four warpgroups.
const HOPPER_THREADS: u32 = 512;
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
        format!(
            "#include \"{header}\"\nextern \"C\" __global__ void __launch_bounds__({threads}, {resident}) {}({parameters}) {{ {class}::Run({arguments}); }}\n",
            Self::ENTRY
        )
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
        let class = format!("MatmulFew<{}, {}, {}, {tokens}>", x.in_cuda(), scale.in_cuda(), fixed(group));
        Self { header: "matmul_few.cuh", class, threads: 128, resident: if tokens > 8 && x == Float32 { 3 } else { 4 } }
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
        let class = format!("MatmulTransposed<{}, {}, {}, {asynchronous}>", x.in_cuda(), scale.in_cuda(), fixed(group));
        Self { header: "matmul_transposed.cuh", class, threads: 256, resident: 1 }
    }

    /// Either product on Hopper's warpgroups, in bfloat16 with such scales or in float16.
    pub fn hopper_matmul(x: Dtype, forward: bool, group: usize) -> Self {
        let class = format!("HopperMatmul<{}, {forward}, {}>", x.in_cuda(), fixed(group));
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

    /// Every specialisation that a plan can ask for, for groups of 32 and of a length known at run time.
    pub fn all() -> Vec<Self> {
        // A fixed length, and run-time lengths for both numbers of steps.
        let groups = [32, 12, 24];
        let mut all = Vec::new();
        for ((x, scale), group) in PRODUCTS.into_iter().flat_map(|types| groups.map(move |group| (types, group))) {
            let planes = |tokens| group == planes::GROUP && tokens <= planes::MOST_TOKENS;
            all.extend(FEW_TOKENS.into_iter().filter(|&tokens| !planes(tokens)).map(|tokens| Self::matmul_few(x, scale, group, tokens)));
            all.extend((1..=planes::MOST_TOKENS).map(|tokens| Self::matmul_planes(x, scale, tokens)));
            all.extend([false, true].map(|asynchronous| Self::matmul_many(x, scale, group, asynchronous && copies(x))));
            all.extend([false, true].map(|asynchronous| Self::matmul_transposed(x, scale, group, asynchronous && copies(x))));
        }
        for group in groups {
            all.extend(HOPPER_PRODUCTS.into_iter().flat_map(|x| [true, false].map(|forward| Self::hopper_matmul(x, forward, group))));
        }
        all.extend([Float16, Bfloat16].map(Self::hopper_correlate));
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

    /// The specialisations of products on one length of groups and one type of each operand; Hopper's on all of their types.
    pub fn of_length(group: usize, (x, scale): (Dtype, Dtype)) -> Vec<Self> {
        let mut found = FEW_TOKENS.map(|tokens| Self::matmul_few(x, scale, group, tokens)).to_vec();
        found.extend([Self::matmul_many(x, scale, group, copies(x)), Self::matmul_transposed(x, scale, group, copies(x))]);
        found.extend(HOPPER_PRODUCTS.into_iter().flat_map(|x| [true, false].map(|forward| Self::hopper_matmul(x, forward, group))));
        let mapped: Vec<Self> = found.iter().filter(|kernel| kernel.is_of_hopper()).map(Self::with_tensor_maps).collect();
        found.extend(mapped);
        found
    }

    /// Each length that [`all`](Self::all) has not with one type of each operand: what the tests look at.
    pub fn of_lengths() -> Vec<Self> {
        let lengths = FIXED_GROUPS.into_iter().filter(|&group| group != 32);
        lengths.zip(PRODUCTS.into_iter().cycle()).flat_map(|(group, types)| Self::of_length(group, types)).collect()
    }
}

/// Whether values of this type are operands of the tensor cores as they lie in memory.
pub fn copies(x: Dtype) -> bool {
    x != Float32
}

/// The template argument for groups of `group` inputs.
pub fn fixed(group: usize) -> usize {
    if FIXED_GROUPS.contains(&group) { group } else { 0 }
}

/// Inputs of a group in one step of a tile's contraction: the larger number, where the smaller wastes no fewer.
pub fn tile_steps(group: usize) -> usize {
    if (1..=16).contains(&(group % 32)) { 16 } else { 32 }
}
