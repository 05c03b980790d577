//! What can go wrong, with the argument, what came and what was wanted.

/// The error of every fallible function of this crate.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// An operand of an operation has the wrong shape, dtype or value.
    #[error("{operation}: {argument} must {wanted}, found {found}")]
    Argument {
        /// The operation that refused, as in `matmul`.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What was wanted, as the end of "must ...".
        wanted: String,
        /// What came.
        found: String,
    },
    /// A byte of packed trits is above 242.
    #[error("{argument}: byte {index} is {value}, but five packed trits are at most 242: these bytes are not packed trits")]
    PackedByte {
        /// The tensor at fault.
        argument: &'static str,
        /// Position of the byte in the tensor.
        index: usize,
        /// Its value.
        value: u8,
    },
    /// A trit is not in {-1, 0, 1}.
    #[error("{argument}: element {index} is {value}, but a trit is -1, 0 or 1")]
    Trit {
        /// The tensor at fault.
        argument: &'static str,
        /// Position of the element in the tensor.
        index: usize,
        /// Its value.
        value: i8,
    },
    /// A score or a vote that no honest use of the layers can give.
    #[error(
        "update: {what}; scores are whole numbers of size at most votes * group_size (votes {votes}, group_size {group_size}): \
         was the loss scaled, or the gradient averaged over devices, clipped or cast?"
    )]
    Score {
        /// What was found, with its place.
        what: String,
        /// The votes that came with it.
        votes: f32,
        /// The group size of the weight.
        group_size: usize,
    },
    /// An XLA runtime did not take a custom call.
    #[cfg(feature = "xla-rs")]
    #[error("custom call {call} cannot be registered with XLA: {reason}")]
    Registration {
        /// The custom call.
        call: String,
        /// What XLA, or the look for it, said.
        reason: String,
    },
    /// The card has no memory left.
    #[error("CUDA: {0}")]
    OutOfMemory(String),
    /// CUDA: its driver, its compiler or the card.
    #[error("CUDA: {0}")]
    Gpu(String),
    /// A panic inside a kernel: a bug of ours, but the process lives.
    #[error("internal error in a ternax kernel, please report it: {0}")]
    Panic(String),
}

/// Shorthand for results with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
