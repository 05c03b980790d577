//! Faults seeded into copies of the kernels: the machine or the oracle must catch every one of them.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::{fs, panic};

use half::{bf16, f16};
use ternax::cuda::kernel::HEADERS;
use ternax::cuda::plan::Attributes;

use crate::common::{Problem, Shape, Values, assert_close};
use crate::device::{Buffer, Element, Number, grouped, planned};
use crate::machine::{Machine, OPTIONS, Options, includes, registry};

/// A mistake: in a header, one text in place of another, and a call of the kernel that meets it.
struct Fault {
    header: &'static str,
    right: &'static str,
    wrong: &'static str,
    class: &'static str,
    shape: Shape,
}

const fn fault(header: &'static str, right: &'static str, wrong: &'static str, class: &'static str, sizes: [usize; 4]) -> Fault {
    let [tokens, in_dim, out_dim, group_size] = sizes;
    Fault { header, right, wrong, class, shape: Shape { tokens, in_dim, out_dim, group_size } }
}

const FEW: &str = "MatmulFew<float, float, 32, 1, 8>";
const FEW_NARROW: &str = "MatmulFew<bf16, bf16, 32, 1, 8>";
const FEW_ANY: &str = "MatmulFew<float, float, 0, 4, 8>";
const PLANES: &str = "MatmulPlanes<float, float, 1>";
const PLANES_NARROW: &str = "MatmulPlanes<bf16, bf16, 2>";
const MANY: &str = "MatmulMany<float, float, 32, 32, false>";
const MANY_ASYNC: &str = "MatmulMany<bf16, bf16, 32, 32, true>";
const MANY_ANY: &str = "MatmulMany<bf16, bf16, 0, 32, true>";
const TRANSPOSED: &str = "MatmulTransposed<float, float, 32, false>";
const TRANSPOSED_ASYNC: &str = "MatmulTransposed<bf16, bf16, 32, true>";
const TRANSPOSED_HALF: &str = "MatmulTransposed<f16, float, 32, true>";
const CORRELATE: &str = "Correlate<float, false>";
const CORRELATE_ASYNC: &str = "Correlate<bf16, true>";
const HOPPER: &str = "HopperMatmul<bf16, true, 32>";
const HOPPER_TRANSPOSED: &str = "HopperMatmul<bf16, false, 32>";
const HOPPER_ANY: &str = "HopperMatmul<bf16, true, 0>";
const HOPPER_CUT: &str = "HopperMatmul<bf16, true, 40>";
const HOPPER_PARTS: &str = "HopperMatmul<bf16, true, 64>";
const HOPPER_SEVERAL: &str = "HopperMatmul<bf16, true, 8>";
const HOPPER_HALF: &str = "HopperMatmul<f16, true, 32>";
const HOPPER_HALF_TRANSPOSED: &str = "HopperMatmul<f16, false, 32>";
const HOPPER_CORRELATE: &str = "HopperCorrelate<bf16>";
const BOXES: &str = "HopperMatmul<bf16, true, 32, true>";
const BOXES_TRANSPOSED: &str = "HopperMatmul<bf16, false, 32, true>";
const BOXES_CORRELATE: &str = "HopperCorrelate<bf16, true>";

const FAULTS: &[Fault] = &[
    fault("matmul_few.cuh", "    SyncBlock();\n\n    float sums", "\n    float sums", FEW, [3, 2000, 20, 32]),
    fault("matmul_few.cuh", "WaitForCopies<kStages - 2>();", "WaitForCopies<kStages - 1>();", FEW, [3, 2000, 20, 32]),
    fault("matmul_few.cuh", "SyncWarp();  // the whole", "// the whole", FEW, [3, 4000, 20, 32]),
    fault("matmul_few.cuh", "SyncWarp();\n    bool finite", "bool finite", FEW, [3, 64, 20, 32]),
    fault("matmul_few.cuh", "byte0)) & 15;", "byte0)) & 12;", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "& 3));", "& 0));", FEW_NARROW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "8 * kWindows + 15, 16)", "8 * kWindows, 16)", FEW, [3, 1280, 20, 32]),
    fault("matmul_few.cuh", "place < layout.Group() && k < in", "k < in", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "digit = 4 - slot / 4 % 5", "digit = slot / 4 % 5", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "b * 55u", "b * 54u", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "row0 + r >= out || token", "token", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "left < 16 ? uint32_t(left)", "left < 16 ? 16", FEW, [3, 96, 21, 32]),
    fault("matmul_few.cuh", "unit % sizes.units_per_group * kUnitBytes;\n    };", "0;\n    };", FEW_ANY, [3, 3500, 20, 350]),
    fault("matmul_few.cuh", "piece = unit0 % sizes.units_per_group", "piece = 0", FEW_ANY, [3, 3500, 20, 350]),
    fault("matmul_few.cuh", "layout.GroupBytes() - piece * kUnitBytes;", "0;", FEW_ANY, [3, 3500, 20, 350]),
    fault("matmul_few.cuh", "piece = 0;\n          group++;", "piece = 0;", FEW_ANY, [3, 3500, 20, 350]),
    fault("matmul_few.cuh", "limbs[1][l]) << 16 | limbs[0][l]", "limbs[0][l]) << 16 | limbs[1][l]", FEW, [3, 96, 20, 32]),
    fault("matmul_few.cuh", "split < call.splits", "split + 1 < call.splits", "Reduce<float>", [3, 2000, 20, 32]),
    fault("matmul_planes.cuh", "    SyncBlock();\n\n    const bool mine", "\n    const bool mine", PLANES, [1, 2000, 20, 32]),
    fault("matmul_planes.cuh", "WaitForCopies<kStages - 2>();", "WaitForCopies<kStages - 1>();", PLANES, [1, 2000, 20, 32]),
    fault("matmul_planes.cuh", "SyncWarp();  // the whole", "// the whole", PLANES_NARROW, [2, 20_000, 20, 32]),
    fault("matmul_planes.cuh", "(quad & 3) == t;", "quad == t;", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "place % 5 && place <= kGroup", "place % 5 && place < kGroup", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "^ 0x00808080u;", "^ 0x00800080u;", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "(low[h] & 15)", "(low[h] & 12)", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "(skipped & 3) * 8", "(skipped & 1) * 8", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "(scale_low[h] & 15)", "(scale_low[h] & 12)", PLANES_NARROW, [2, 96, 20, 32]),
    fault("matmul_planes.cuh", "left > 0 ? uint32_t(left)", "left > 0 ? 16", PLANES, [1, 96, 21, 32]),
    fault("matmul_planes.cuh", ">= 16 * kTritChunks;", ">= 0;", PLANES, [1, 96, 16, 32]),
    fault("matmul_planes.cuh", "t & 1 || row >= out", "t & 1", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "own + (other << 8), scales", "other + (own << 8), scales", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "(kTokens == 2 ? half : 0) * 32", "0", PLANES_NARROW, [2, 96, 20, 32]),
    fault("matmul_planes.cuh", "kJoin = 0x7351", "kJoin = 0x3715", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "int(0u - sum)", "int(sum)", PLANES, [1, 96, 20, 32]),
    fault("matmul_planes.cuh", "15 + (kStageGroups - 1)", "(kStageGroups - 2)", PLANES, [1, 320, 20, 32]),
    fault("tile.cuh", "SyncBlock();  // stage s", "// stage s", MANY, [20, 128, 20, 32]),
    fault("tile.cuh", "WaitForCopies<kStages - 2>();", "WaitForCopies<kStages - 1>();", MANY_ASYNC, [20, 128, 24, 32]),
    fault("tile.cuh", "const int ahead = s + kStages - 1;", "const int ahead = s + kStages;", MANY_ASYNC, [20, 160, 24, 32]),
    fault("tile.cuh", "(s + 1) % kStages) * stage_bytes);", "s % kStages) * stage_bytes);", MANY, [20, 128, 20, 32]),
    fault("tile.cuh", "limb_a + limb_b > kMost", "limb_a + limb_b >= kMost", "MatmulMany<float, float, 0, 16, false>", [20, 12, 20, 12]),
    fault("tile.cuh", "8 * (kIsA ? middle : high)", "8 * (kIsA ? high : middle)", MANY, [20, 96, 20, 32]),
    fault("tile.cuh", "r < window.rows && c + h < window.columns", "r < window.rows", MANY, [20, 100, 20, 32]),
    fault("tile.cuh", "r < window.rows ? Max(0", "true ? Max(0", MANY_ASYNC, [20, 128, 24, 32]),
    fault("tile.cuh", "row >= rows || column", "column", MANY, [20, 96, 20, 32]),
    fault("tile.cuh", "* kPitch + 2 * row)", "* kPitch + row)", TRANSPOSED, [20, 96, 20, 32]),
    fault("tile.cuh", "low = high ^ 0x8000u;", "low = high;", MANY_ASYNC, [20, 128, 24, 32]),
    fault("matmul_many.cuh", "(inside ? step.length : 0)", "step.length", MANY, [20, 96, 20, 32]),
    fault("matmul_many.cuh", "place >= 0 && place < step.length", "place >= 0", MANY, [20, 100, 20, 32]),
    fault("matmul_many.cuh", "first >= layout.Group()", "first > layout.Group()", MANY_ANY, [20, 192, 24, 64]),
    fault("matmul_many.cuh", "first = 0;\n        group++;", "first = 0;", MANY_ANY, [20, 192, 24, 64]),
    fault("matmul_many.cuh", "copied.Next(layout);", "", MANY_ANY, [20, 192, 24, 64]),
    fault("matmul_many.cuh", "decoded.Next(layout);", "", MANY_ANY, [20, 192, 24, 64]),
    fault("matmul_many.cuh", "[Product::Column(j, c)];", "[Product::Column(j, 0)];", MANY, [20, 96, 20, 32]),
    fault("matmul_many.cuh", "Min(kK, end - first)", "kK", MANY, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "if (call.in_dim - input0 < kTile)", "if (false)", TRANSPOSED, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "      SyncBlock();\n    }\n    float", "    }\n    float", TRANSPOSED, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "GroupBytes() * 5;", "GroupBytes() * 4;", TRANSPOSED_ASYNC, [20, 300, 24, 48]),
    fault("matmul_transposed.cuh", "row >= rows || !places[i]", "!places[i]", TRANSPOSED, [20, 96, 20, 32]),
    fault("matmul_transposed.cuh", "table(weights[i])", "table(weights[0])", TRANSPOSED, [20, 128, 20, 32]),
    fault("matmul_transposed.cuh", "(places[i] >> 16)", "0", TRANSPOSED, [20, 100, 20, 32]),
    fault("matmul_transposed.cuh", "places[i] & 255", "places[i] & 127", TRANSPOSED, [20, 128, 20, 32]),
    fault("matmul_transposed.cuh", "Min(end, start + layout.Group()) - input", "end - input", TRANSPOSED, [20, 128, 20, 32]),
    fault("matmul_transposed.cuh", "Min(end, start + layout.Group())", "(start + layout.Group())", TRANSPOSED_ASYNC, [20, 300, 24, 48]),
    fault("matmul_transposed.cuh", "256u << digit", "256u", TRANSPOSED, [20, 96, 20, 32]),
    fault(
        "matmul_transposed.cuh",
        "if constexpr (kLimbsB > 1) weights[i] = MultiplyRounded(weights[i], factor);",
        "",
        TRANSPOSED_HALF,
        [20, 96, 40, 32],
    ),
    fault("matmul_transposed.cuh", "SyncBlock();  // before the tiles", "// before the tiles", TRANSPOSED_HALF, [20, 128, 40, 32]),
    fault("matmul_transposed.cuh", "kHalf ? 2 : Operand<S>", "kHalf ? 1 : Operand<S>", TRANSPOSED_HALF, [20, 96, 40, 32]),
    fault("correlate.cuh", "SyncBlock();\n      for (int i", "for (int i", CORRELATE, [20, 96, 20, 32]),
    fault("correlate.cuh", "column < width)", "column < kTile)", CORRELATE, [600, 104, 20, 48]),
    fault("correlate.cuh", "(first + s) * kK", "s * kK", CORRELATE, [600, 104, 20, 48]),
    fault("correlate.cuh", "split < call.splits; split++)", "split + 1 < call.splits; split++)", "CorrelateDense", [600, 104, 20, 48]),
    fault("correlate.cuh", "piece ? Load(to) : 0.0f", "0.0f", CORRELATE, [20, 300, 20, 300]),
    fault("correlate.cuh", "(gradient > 0) - (gradient < 0)", "(gradient > 0) - (gradient <= 0)", CORRELATE, [20, 96, 20, 32]),
    fault("correlate.cuh", "call.tokens - token", "kK", CORRELATE_ASYNC, [20, 96, 24, 32]),
    fault("correlate.cuh", "i % here * group)", "0)", CORRELATE, [20, 96, 20, 32]),
    fault("state.cuh", "double(size) <= limit", "double(size) < limit", "AccumulateCheck", [0, 64, 9, 32]),
    fault("state.cuh", "SyncBlock();\n    if (threadIdx.x)", "if (threadIdx.x)", "AccumulateCheck", [0, 64, 9, 32]),
    fault("state.cuh", "uint64_t(corr) - uint64_t(score)", "uint64_t(int64_t(int(corr) - int(score)))", "Accumulate", [0, 64, 9, 32]),
    fault("hopper_tile.cuh", "at >> 3 & 0x70", "at >> 3 & 0x30", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "kSlow ? k * kLine : 2 * k", "2 * k", HOPPER_TRANSPOSED, [20, 96, 70, 32]),
    fault("hopper_tile.cuh", "kSlow ? kBlock / 16 : 1", "1", HOPPER_TRANSPOSED, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "8 * kLine / 16", "kLine / 16", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "block * kBlock", "0", HOPPER, [70, 64, 9, 32]),
    fault("hopper_tile.cuh", "WaitForCopies<1>();", "", HOPPER, [20, 200, 20, 32]),
    fault("hopper_tile.cuh", "WaitForCopies<0>();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "FenceProxies();\n    SyncWarp", "SyncWarp", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "SyncWarp();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "warps = kFillers / 32", "warps = kFillers / 64", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "turn.parity ^ 1", "turn.parity", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "Full(turn.stage), turn.parity)", "Full(turn.stage), turn.parity ^ 1)", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Empty(turn.stage), turn.parity ^ 1);", "", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Full(turn.stage), turn.parity);", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "uint32_t(stage == 0)", "1", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "owing = true;", "owing = false;", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "if (s > 0) Release(before);", "", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "if (s > 0) Release(before);", "Release(turn.stage);", HOPPER, [20, 520, 20, 32]),
    fault("hopper_tile.cuh", "if (steps > 0) Release(before);", "Release(before), Release(before);", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "WaitForProducts<1>(d);", "WaitForProducts<2>(d);", HOPPER, [20, 1040, 20, 32]),
    fault("hopper_tile.cuh", "WaitForProducts<0>(d);", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "FenceAccumulators();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "Max(0, Min(8, columns))", "8", HOPPER, [20, 352, 24, 32]),
    fault("hopper_tile.cuh", "ExpectBytes(full, kLines * kLine);", "", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "full, kLines * kLine)", "full, kLines * kLine / 2)", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "full, kLines * kLine)", "full, kLines * kLine + 16)", BOXES_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_tile.cuh", "if (threadIdx.x != 0) return;", "", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "at + uint32_t(i * kLine)), map", "at + 64), map", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "column + i / kHigh * 64", "column", BOXES_CORRELATE, [20, 96, 72, 32]),
    fault("hopper_tile.cuh", "row, plane, full", "plane, row, full", BOXES_TRANSPOSED, [300, 96, 24, 32]),
    fault("hopper_tile.cuh", "FenceProxies();  // bulk", "// bulk", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "FenceProxies();\n    SyncWarp", "SyncWarp", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "HandOver(turn.stage);", "", BOXES, [20, 96, 20, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Empty(turn.stage), turn.parity ^ 1);", "", BOXES_CORRELATE, [520, 96, 24, 32]),
    fault("hopper_tile.cuh", "WaitForPhase(Full(turn.stage), turn.parity);", "", BOXES_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_tile.cuh", "if (s > 0) Release(before);", "Release(turn.stage);", BOXES_CORRELATE, [520, 96, 24, 32]),
    fault("hopper_decode.cuh", "0x03EB03EBu", "0x038B038Bu", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "held.skip & 4", "held.skip & 1", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "start + 16 <= end", "true", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "|| group >= groups", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "i + 1 < 5 ? 5 : 7", "i + 1 < 5 ? 5 : 5", HOPPER, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "group + i < groups && ", "", HOPPER_CUT, [20, 120, 20, 40]),
    fault("hopper_decode.cuh", "place + 32 > kGroup", "false", HOPPER_CUT, [20, 120, 20, 40]),
    fault("hopper_decode.cuh", "2 * word >= kGroup - place", "2 * word > kGroup - place", HOPPER_CUT, [20, 120, 20, 40]),
    fault("hopper_decode.cuh", "if (from + i >= end) continue;", "", HOPPER_CUT, [20, 120, 20, 40]),
    fault("hopper_decode.cuh", "+ uint64_t(place / 5)", "+ uint64_t(place / 8)", HOPPER_PARTS, [20, 128, 20, 64]),
    fault("hopper_decode.cuh", "SkipDigits(bytes, place % 5);", "SkipDigits(bytes, place % 4);", HOPPER_PARTS, [20, 128, 20, 64]),
    fault("hopper_decode.cuh", "0x091B51F3u", "0x091C51F3u", HOPPER_PARTS, [20, 128, 20, 64]),
    fault("hopper_decode.cuh", "q_next * 243u", "q_next * 242u", HOPPER_PARTS, [20, 128, 20, 64]),
    fault("hopper_decode.cuh", "even[1] >> 16, even_q[1] >> 16", "even[1], even_q[1]", HOPPER_PARTS, [20, 128, 20, 64]),
    fault("hopper_decode.cuh", "int(2 * word >= kGroup - place) : first / kLength", "1 : 0", HOPPER_SEVERAL, [20, 96, 20, 8]),
    fault("hopper_decode.cuh", "first / kLength * kGroupBytes", "0", HOPPER_SEVERAL, [20, 96, 20, 8]),
    fault("hopper_decode.cuh", "digit < first || to >= count", "digit < first", HOPPER_ANY, [20, 76, 20, 24]),
    fault("hopper_decode.cuh", "if (count < 32) StoreHalfLine(at, line, half, {});", "", HOPPER_ANY, [20, 72, 20, 24]),
    fault("hopper_decode.cuh", "second ? TakeHalf(rest) : first", "first", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_decode.cuh", "MultiplyRounded(Load(scale + at), factor)", "Load(scale + at)", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "d[i + kAccumulators / 2]", "0.0f", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "uint32_t(127 - exponent)", "uint32_t(127 + exponent)", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "    }\n    SyncBlock();\n  }", "    }\n  }", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "SyncBlock();  // all have read", "// all have read", HOPPER_HALF_TRANSPOSED, [20, 96, 40, 32]),
    fault("hopper_matmul.cuh", "kForward ? line % kColumns : 0", "0", HOPPER_HALF, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "column0 + line % kColumns / 64 * 64", "column0 + line / 64 * 64", HOPPER_HALF_TRANSPOSED, [20, 96, 40, 32]),
    fault("hopper_matmul.cuh", "hopper::kSteps + line % 64", "hopper::kSteps + line", HOPPER_TRANSPOSED, [20, 96, 100, 32]),
    fault("hopper_matmul.cuh", "Copy(tile.token0, column, at,", "Copy(column, tile.token0, at,", BOXES, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "if (row >= call.tokens) continue;", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "GiveUpRegisters<hopper::kFillersRegisters>();", "", HOPPER, [20, 96, 20, 32]),
    fault("hopper_matmul.cuh", "left > 1)", "true)", HOPPER, [20, 96, 21, 32]),
    fault("hopper_correlate.cuh", "SyncBlock();  // the signs", "// the signs", HOPPER_CORRELATE, [20, 96, 24, 32]),
    fault(
        "hopper_correlate.cuh",
        "SyncBlock();                          // before the next",
        "// before the next",
        HOPPER_CORRELATE,
        [20, 600, 20, 600],
    ),
    fault("hopper_correlate.cuh", "if constexpr (kBulk) FenceProxies();", "", BOXES_CORRELATE, [20, 600, 24, 600]),
    fault("hopper_correlate.cuh", "StartRing(kBulk ? 1 : hopper::kFillers / 32)", "StartRing()", BOXES_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_correlate.cuh", "(maps + 1, call, 0, member)", "(maps, call, 0, member)", BOXES_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_correlate.cuh", "} else if (threadIdx.x < 32) {", "} else {", BOXES_CORRELATE, [20, 96, 24, 32]),
    fault("hopper_correlate.cuh", "first ? Load(to) : 0.0f", "0.0f", HOPPER_CORRELATE, [20, 300, 20, 300]),
    fault("hopper_correlate.cuh", "call.tokens - token, input0", "hopper::kSteps, input0", HOPPER_CORRELATE, [20, 96, 24, 32]),
];

/// Faults in what all kernels share: the emulated instructions, numbers, and the layout of rows.
const SHARED_FAULTS: &[Fault] = &[
    fault("ptx.cuh", "nibble & 7", "nibble & 3", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "(uint64_t(high) << 32 | low) >> bits", "low >> bits", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "one(a >> 16, b >> 16) << 16", "one(a & 0xFFFF, b >> 16) << 16", FEW_NARROW, [3, 96, 20, 32]),
    fault("ptx.cuh", "From(uint16_t(p)) + From(uint16_t(q))", "From(uint16_t(p))", FEW, [3, 96, 20, 32]),
    fault("ptx.cuh", "return std::fma(a, b, c);", "return std::fma(a, b, -c);", FEW, [3, 96, 20, 32]),
    fault("ptx.cuh", "AddRounded(float a, float b) { return a + b; }", "AddRounded(float a, float b) { return a; }", FEW, [3, 96, 20, 32]),
    fault("ptx.cuh", "emulation::OnWrite(at, sizeof(T), alignof(T));", "", FEW, [3, 96, 20, 32]),
    fault("ptx.cuh", "*out[lane] = *in[lane ^ distance];", "*out[lane] = *in[lane];", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "in[in[i]->lane & 31]->value", "in[i]->value", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "StartCopy(to.at, from, kBytes, from_bytes)", "StartCopy(to.at, from, kBytes, kBytes)", PLANES, [1, 96, 21, 32]),
    fault("ptx.cuh", "WaitForCopies(kPending)", "WaitForCopies(kPending + 1)", MANY_ASYNC, [20, 128, 24, 32]),
    fault("ptx.cuh", "int i = kTransposed ? 2 * (lane % 4) + h : lane / 4", "int i = lane / 4", TRANSPOSED, [20, 96, 20, 32]),
    fault(
        "ptx.cuh",
        "left[quad + 8 * (r & 1)][2 * t + 8 * (r >> 1) + h]",
        "left[quad + 8 * (r >> 1)][2 * t + 8 * (r & 1) + h]",
        MANY,
        [20, 96, 20, 32],
    ),
    fault(
        "ptx.cuh",
        "out[row % 8 * 4 + n / 2]->d[row / 8 * 2 + n % 2] =",
        "out[row % 8 * 4 + n / 2]->d[row / 8 + n % 2 * 2] =",
        MANY,
        [20, 96, 20, 32],
    ),
    fault(
        "ptx.cuh",
        "left[quad + 8 * (r & 1)][4 * t + 16 * (r >> 1) + i]",
        "left[quad + 8 * (r >> 1)][4 * t + 16 * (r & 1) + i]",
        PLANES,
        [1, 96, 20, 32],
    ),
    fault("ptx.cuh", "= int8_t(in[lane]->b[r] >> (8 * i))", "= uint8_t(in[lane]->b[r] >> (8 * i))", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "int(uint32_t(in[lane]->c[e]) + uint32_t(sum))", "sum", PLANES, [1, 96, 20, 32]),
    fault("ptx.cuh", "if (wanted) to[0] = value;", "to[0] = value;", TRANSPOSED, [20, 128, 20, 32]),
    fault("call.cuh", "/ uint32_t(by) + 1)", "/ uint32_t(by))", FEW_ANY, [3, 3500, 20, 350]),
    fault("hopper.cuh", "{column, row, plane}", "{column, plane, row}", BOXES, [300, 96, 20, 32]),
    fault("numbers.cuh", "AddRounded(rest, -BitsFloat(limb))", "AddRounded(rest, BitsFloat(limb))", FEW, [3, 96, 20, 32]),
    fault("numbers.cuh", "return uint16_t(limb >> 16);", "return uint16_t(limb >> 15);", FEW, [3, 96, 20, 32]),
    fault("numbers.cuh", "uint32_t(value.bits) << 16", "uint32_t(value.bits) << 15", FEW_NARROW, [3, 96, 20, 32]),
    fault("numbers.cuh", "byte * 55 + 1003", "byte * 55 + 903", MANY, [20, 96, 20, 32]),
    fault(
        "numbers.cuh",
        "static constexpr int kLimbs = 3;",
        "static constexpr int kLimbs = 2;",
        "MatmulMany<float, float, 0, 16, false>",
        [20, 12, 20, 12],
    ),
    fault("numbers.cuh", "if constexpr (kHalf) {", "if constexpr (!kHalf) {", MANY, [20, 96, 20, 32]),
    fault(
        "numbers.cuh",
        "FromFloat<bf16>(float value) {\n  return ToBf16(value);",
        "FromFloat<bf16>(float value) {\n  return {uint16_t(FloatBits(value) >> 16)};",
        FEW_NARROW,
        [3, 96, 20, 32],
    ),
    fault("call.cuh", "CeilDivide(Group(), 5)", "Group() / 5", MANY, [20, 96, 20, 32]),
    fault("call.cuh", "CeilDivide(in_dim, Group())", "in_dim / Group()", MANY, [20, 100, 20, 32]),
    fault("call.cuh", "kGroup ? kGroup : run_time_group", "kGroup ? kGroup : 32", FEW_ANY, [3, 700, 20, 350]),
    fault("call.cuh", "return (a + b - 1) / b;", "return a / b + 1;", FEW, [3, 640, 20, 32]),
    fault("call.cuh", "Min(int a, int b) { return a < b ? a : b; }", "Min(int a, int b) { return a < b ? b : a; }", FEW, [3, 96, 20, 32]),
    fault("call.cuh", "uint32_t b) { return a > b ? a : b; }", "uint32_t b) { return b; }", TRANSPOSED_HALF, [20, 96, 40, 32]),
    fault("numbers.cuh", "14 + 127", "24 + 127", HOPPER_HALF, [20, 96, 20, 32]),
    fault("numbers.cuh", "&& other > size ? other : size", "&& other > size ? size : size", HOPPER_HALF, [20, 96, 20, 32]),
    fault("call.cuh", "Max(int a, int b) { return a > b ? a : b; }", "Max(int a, int b) { return b; }", MANY_ASYNC, [20, 104, 24, 32]),
];

/// What the machine looks for: words that the report of some fault must have.
const DETECTED: &[&str] = &[
    "wrong values",
    "wrong state",
    // Memory that a kernel must not touch, or not yet.
    "outside every global buffer",
    "beyond the",
    "read but never written",
    "read before the wait for its asynchronous copy",
    "written while an asynchronous copy to it is under way",
    "never waited for",
    // Races: a read after a write, a write after a write, a write after a read.
    "read, written by thread",
    "written, written by thread",
    "written, read by thread",
    // Barriers.
    "deadlock",
    "arrives twice in one phase",
    "bytes arrive that nobody announced",
    // The proxies and the tensor cores of a warpgroup.
    "read by wgmma before the wait",
    "read by wgmma but never written",
    "read by wgmma, written by thread 0 without a barrier",
    "read by wgmma, written by thread 0 without a fence of the proxies",
    "a bulk copy: shared byte",
    "overwritten while a wgmma reads it",
    "no wgmma.fence",
    "with a wgmma that was never waited for",
    "setmaxnreg",
];

fn faults() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().chain(SHARED_FAULTS)
}

/// The one place of `right` in a header of the repository, with `wrong` there instead.
fn mutated(fault: &Fault) -> String {
    let text = HEADERS.iter().find(|(name, _)| *name == fault.header).expect("a header").1;
    let count = text.matches(fault.right).count();
    assert_eq!(count, 1, "{}: {:?} must stand there once", fault.header, fault.right);
    text.replace(fault.right, fault.wrong)
}

/// Every fault in a namespace of its own, and every class as it should be.
fn machine() -> Machine {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda/faults");
    // Shared by all but the faults in them.
    let common = ["ptx.cuh", "hopper.cuh", "numbers.cuh", "call.cuh"];
    // What a mistake leaves unused is no news.
    let mut prelude: String = ["unused-variable", "unused-parameter", "maybe-uninitialized"]
        .map(|warning| format!("#pragma GCC diagnostic ignored \"-W{warning}\"\n"))
        .concat();
    prelude += &common.map(|name| format!("#include \"{name}\"\n")).concat();
    prelude += &format!("namespace right {{\n{}}}\n", includes());
    // A fault in what is shared has a `struct Call` of its own, of the same layout.
    prelude += "template <typename Kernel, typename Own> struct Cast {\n";
    prelude += "  static void Run(const Call& call, const TensorMap* maps) {\n";
    prelude += "    emulation::Run(Kernel::Run, reinterpret_cast<const Own&>(call), maps);\n  }\n};\n";
    // Two sources, so that two cores share the work.
    let mut sources = [(); 2].map(|()| (prelude.clone(), Vec::new()));
    for (index, fault) in faults().enumerate() {
        let (prelude, kernels) = &mut sources[index % 2];
        let own = folder.join(index.to_string());
        // Another fault's headers may lie there.
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).expect("a folder for the fault");
        let shared = common.contains(&fault.header);
        for (name, text) in HEADERS.iter().filter(|(name, _)| shared || !common.contains(name)) {
            let text = if *name == fault.header { mutated(fault) } else { (*text).into() };
            // Copies must differ, or `#pragma once` takes them for one file.
            fs::write(own.join(name), format!("{text}// fault {index}\n")).expect("a header");
        }
        let defining = includes_of(fault.class);
        *prelude += &format!("namespace fault_{index} {{\nnamespace emulation {{\nusing namespace ::emulation;\n}}\n");
        *prelude += &format!("#include \"{}\"\nusing Faulty = {};\n}}\n", own.join(defining).display(), fault.class);
        let faulty = format!("fault_{index}::Faulty");
        kernels.push((name(index), if shared { format!("Cast<{faulty}, fault_{index}::Call>") } else { faulty }));
    }
    let right: BTreeSet<&str> = faults().map(|fault| fault.class).chain(["Accumulate", "AccumulateCheck", "Reduce<bf16>"]).collect();
    sources[0].1.extend(right.into_iter().map(|class| (class.to_owned(), format!("right::{class}"))));
    let text = faults().map(|fault| format!("// {}", fault.wrong.replace('\n', " "))).collect::<Vec<_>>().join("\n");
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("cpp/cuda");
    let sources = [0, 1].map(|half| registry(half == 0, &sources[half].0, &sources[half].1) + &text);
    Machine::build("faults", &sources, &headers)
}

fn name(index: usize) -> String {
    format!("fault {index}")
}

/// The header that defines a class, where it may not be the one with the fault.
fn includes_of(class: &str) -> &'static str {
    match class.split('<').next() {
        Some("MatmulMany") => "matmul_many.cuh",
        Some("MatmulTransposed") => "matmul_transposed.cuh",
        Some("MatmulFew" | "Reduce") => "matmul_few.cuh",
        Some("MatmulPlanes") => "matmul_planes.cuh",
        Some("HopperMatmul") => "hopper_matmul.cuh",
        Some("HopperCorrelate") => "hopper_correlate.cuh",
        Some("Accumulate" | "AccumulateCheck") => "state.cuh",
        _ => "correlate.cuh",
    }
}

/// What became of a call in which `fault` stands for its class, or of the right call where there is no fault.
struct Trial<'a> {
    machine: &'a Machine,
    fault: &'a Fault,
    seeded: Option<usize>,
    options: Options,
}

impl Trial<'_> {
    fn call(&self, operation: &str, attributes: Attributes, operands: &[&Buffer<'_>], results: &[&Buffer<'_>]) -> Result<(), String> {
        let (plan, _scratch) = planned(self.machine, operation, attributes, operands, results);
        let launches = match plan.hopper.filter(|_| self.fault.class.starts_with("Hopper")) {
            Some(alternative) if self.fault.class.ends_with(", true>") => alternative.mapped.expect("operands that have tensor maps"),
            Some(alternative) => alternative.launches,
            None => plan.launches,
        };
        let meets = launches.iter().any(|launch| launch.kernel.class == self.fault.class);
        assert!(meets, "{} of {:?} does not run {}", operation, self.fault.shape, self.fault.class);
        for launch in &launches {
            let seeded = self.seeded.filter(|_| launch.kernel.class == self.fault.class);
            let name = seeded.map_or(launch.kernel.class.clone(), name);
            self.machine.launch(&name, launch, self.options)?;
        }
        Ok(())
    }

    /// An error of the machine, or one that says where the results are wrong.
    fn outcome(&self) -> Result<(), String> {
        if self.fault.class.starts_with("Accumulate") {
            return self.state();
        }
        match self.fault.class {
            class if class.contains("bf16") => self.values::<bf16>(true),
            class if class.contains("f16") => self.values::<f16>(false),
            _ => self.values::<f32>(false),
        }
    }

    fn values<X: Number>(&self, narrow: bool) -> Result<(), String> {
        for values in [Values::Dyadic, Values::Uniform] {
            let mut problem = Problem::<X>::new(self.fault.shape, values);
            if narrow {
                problem.scale.iter_mut().for_each(|scale| *scale = bf16::from_f32(*scale).to_f32());
            }
            let correct = match self.fault.class.split('<').next() {
                Some("MatmulTransposed") => self.product(&problem, false, narrow)?,
                Some("Correlate" | "CorrelateDense" | "HopperCorrelate") => self.scores(&problem, values)?,
                Some("HopperMatmul") => self.product(&problem, !self.fault.class.contains("false"), narrow)?,
                _ => self.product(&problem, true, narrow)?,
            };
            if !correct {
                return Err("wrong values".into());
            }
        }
        Ok(())
    }

    fn product<X: Number>(&self, problem: &Problem<X>, forward: bool, narrow: bool) -> Result<bool, String> {
        let (machine, layout) = (self.machine, problem.layout);
        let Shape { tokens, in_dim, out_dim, group_size } = problem.shape;
        let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
        let rounded: Vec<bf16> = problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
        let shape = [out_dim, layout.groups()];
        let scale = if narrow { Buffer::of(machine, &rounded, &shape) } else { Buffer::of(machine, &problem.scale, &shape) };
        let (operation, data, from, to) =
            if forward { ("matmul", &problem.x, in_dim, out_dim) } else { ("matmul_transposed", &problem.dy, out_dim, in_dim) };
        let data = Buffer::of(machine, data, &[tokens, from]);
        let result = Buffer::result(machine, X::DTYPE, &[tokens, to]);
        self.call(operation, grouped(group_size), &[&data, &trits, &scale], &[&result])?;
        let wanted = if forward { problem.matmul() } else { problem.matmul_transposed() };
        let close = || assert_close(result.values::<X>(), &wanted, from, "seeded");
        Ok(panic::catch_unwind(panic::AssertUnwindSafe(close)).is_ok())
    }

    fn scores<X: Number>(&self, problem: &Problem<X>, values: Values) -> Result<bool, String> {
        let (machine, layout) = (self.machine, problem.layout);
        let Shape { tokens, in_dim, out_dim, group_size } = problem.shape;
        let x = Buffer::of(machine, &problem.x, &[tokens, in_dim]);
        let dy = Buffer::of(machine, &problem.dy, &[tokens, out_dim]);
        let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
        let score = Buffer::result(machine, f32::DTYPE, &[out_dim, layout.groups()]);
        let votes = Buffer::result(machine, f32::DTYPE, &[]);
        self.call("correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes])?;
        let near = |(found, (wanted, undecided)): (&f32, (f32, f32))| {
            (found - wanted).abs() <= if values == Values::Dyadic { 0.0 } else { 2.0 * undecided }
        };
        Ok(score.values::<f32>().iter().zip(problem.scores()).all(near))
    }

    /// Two honest votes and scores at their limit.
    fn state(&self) -> Result<(), String> {
        let (machine, Shape { out_dim, group_size, .. }) = (self.machine, self.fault.shape);
        let shape = [out_dim, 2];
        let corr = Buffer::of(machine, &[1, 5].repeat(2 * out_dim), &[out_dim, 2, 2]);
        let step = Buffer::of(machine, &[7, 0], &[2]);
        let score = Buffer::of(machine, &vec![2.0 * group_size as f32; 2 * out_dim], &shape);
        let votes = Buffer::of(machine, &[2.0_f32], &[]);
        let attributes = Attributes { group_size: group_size as i64, gain: 0.0, wanted_votes: -1 };
        self.call("accumulate", attributes, &[&corr, &step, &score, &votes], &[&corr, &step])?;
        let wanted = [1 - 2 * group_size as i32, 4].repeat(2 * out_dim);
        if corr.values::<i32>() == wanted && step.values::<i32>() == [9, 0] { Ok(()) } else { Err("wrong state".into()) }
    }
}

#[test]
fn every_seeded_fault_is_caught() {
    let machine = machine();
    let quiet = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let (mut missed, mut broken, mut tried, mut caught) = (Vec::new(), Vec::new(), HashSet::new(), String::new());
    for (index, fault) in faults().enumerate() {
        let trial = |seeded, options| Trial { machine: &machine, fault, seeded, options }.outcome();
        let described = format!("{}: {:?} for {:?}", fault.header, fault.wrong, fault.right);
        let right = || OPTIONS.iter().try_for_each(|&options| trial(None, options));
        if tried.insert((fault.class, fault.shape))
            && let Err(error) = right()
        {
            broken.push(format!("{described}: {error}"));
        }
        let errors: Vec<String> = OPTIONS.iter().filter_map(|&options| trial(Some(index), options).err()).collect();
        if errors.is_empty() {
            missed.push(described);
        }
        errors.iter().for_each(|error| caught += &format!("{error}\n"));
    }
    panic::set_hook(quiet);
    assert!(broken.is_empty(), "without the fault these calls should be right:\n{}", broken.join("\n"));
    assert!(missed.is_empty(), "not caught:\n{}", missed.join("\n"));
    let never: Vec<_> = DETECTED.iter().filter(|words| !caught.contains(*words)).collect();
    assert!(never.is_empty(), "no fault was caught by {never:?}; these were:\n{caught}");
}
