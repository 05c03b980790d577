//! What can be wrong with a checkpoint: the file, what in it, what was wanted and what was found.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Something in a checkpoint that is not as it must be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{subject} must {wanted}, found {found}")]
pub struct Fault {
    /// What is at fault, as in `tensor "layer1.E"`.
    pub subject: String,
    /// What was wanted, as the end of "must ...".
    pub wanted: String,
    /// What was found.
    pub found: String,
}

impl Fault {
    /// A fault of `subject`.
    pub fn new(subject: impl Into<String>, wanted: impl Into<String>, found: impl fmt::Display) -> Self {
        Self { subject: subject.into(), wanted: wanted.into(), found: found.to_string() }
    }

    /// A fault of the tensor `name`.
    pub fn tensor(name: &str, wanted: impl Into<String>, found: impl fmt::Display) -> Self {
        Self::new(format!("tensor {name:?}"), wanted, found)
    }

    /// This fault, found in the file `path`.
    pub fn of(self, path: &Path) -> Error {
        Error::Content { path: path.into(), fault: self }
    }
}

/// The error of reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    System {
        /// The checkpoint.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What the file holds, or should come to hold, is wrong.
    #[error("{}: {fault}", path.display())]
    Content {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
}

impl Error {
    /// The system's refusal to read or write `path`.
    pub fn system(path: &Path, source: io::Error) -> Self {
        Self::System { path: path.into(), source }
    }

    /// The system's error number, where it refused and gave one.
    pub fn system_number(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            Self::Content { .. } => None,
        }
    }
}

/// Shorthand for results with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
