//! What workers of a job leave on a slave for later ones: memory that the system need not clear again.
//!
//! Invariant: each thing is in one worker's hands or here, never in two's.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::any::{Any, TypeId};

type Left = Box<dyn Any + Send>;

/// Things by their type.
#[derive(Default)]
pub struct Scratch(Mutex<FxHashMap<TypeId, Vec<Left>>>);

impl Scratch {
    /// One of this type, if any is here.
    pub fn take(&self, of: TypeId) -> Option<Left> {
        self.0.lock().get_mut(&of)?.pop()
    }

    /// Keeps it.
    pub fn put(&self, left: Left) {
        self.0.lock().entry((*left).type_id()).or_default().push(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_taken_once_and_by_its_type() {
        let scratch = Scratch::default();
        scratch.put(Box::new(7u8));
        scratch.put(Box::new(vec![1.5f32]));
        assert!(scratch.take(TypeId::of::<u16>()).is_none());
        let left = scratch.take(TypeId::of::<Vec<f32>>()).and_then(|left| left.downcast::<Vec<f32>>().ok());
        assert_eq!(left.as_deref(), Some(&vec![1.5]));
        assert!(scratch.take(TypeId::of::<Vec<f32>>()).is_none());
        assert!(scratch.take(TypeId::of::<u8>()).is_some());
    }
}
