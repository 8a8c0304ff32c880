//! What processes say to one another. Control messages are serde types encoded by [`codec`]; bulk values have a layout of
//! their own in [`kv`], since they are many and large.

pub mod announced;
pub mod api;
pub mod body;
pub mod checkpoint;
pub mod codec;
pub mod control;
pub mod keys;
pub mod kv;
pub mod lists;
pub mod moved;
pub mod packing;
pub mod slaves;
pub mod snapshot;

#[cfg(test)]
pub(crate) mod mutated;
