//! The border to XLA: `bridge` turns raw buffers into views, `handlers` holds one function per custom call.

pub mod bridge;
pub mod handlers;
