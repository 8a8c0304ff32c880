//! What the master tells an open job to do that may take long: beside the node's loop, in the order in which it was told.
//!
//! Invariant: one is carried out at a time; none is forgotten, whatever became of those before it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::watch;

type Order = Box<dyn FnOnce() + Send>;

/// What an order that begins no phase goes by.
pub const NO_PHASE: u64 = u64::MAX;

/// See the module.
#[derive(Default)]
pub struct Orders(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<VecDeque<Order>>,
    /// The phases that those begin which are not carried out: the first one is under way.
    left: watch::Sender<VecDeque<u64>>,
}

impl Orders {
    /// Whether some are left: what is told now must go behind them.
    pub fn are_left(&self) -> bool {
        !self.0.left.borrow().is_empty()
    }

    /// Carries out `order`, which begins `phase`, behind all that are left, on a thread that may wait. Called within the
    /// runtime.
    pub fn push(&self, phase: u64, order: impl FnOnce() + Send + 'static) {
        let mut waiting = self.0.waiting.lock();
        waiting.push_back(Box::new(order));
        let mut first = false;
        self.0.left.send_modify(|left| {
            first = left.is_empty();
            left.push_back(phase);
        });
        if first {
            let inner = self.0.clone();
            tokio::task::spawn_blocking(move || inner.work());
        }
    }

    /// Starts `task` behind all that are left; those that are told later don't wait for it. Called within the runtime.
    pub fn start(&self, task: impl FnOnce() + Send + 'static) {
        let start = move || drop(tokio::task::spawn_blocking(task));
        if self.are_left() { self.push(NO_PHASE, start) } else { start() }
    }

    /// Waits until all are carried out.
    pub async fn done(&self) {
        // Its sender is here.
        let _ = self.0.left.subscribe().wait_for(VecDeque::is_empty).await;
    }

    /// Waits until those are carried out that begin a phase below this one.
    pub async fn done_below(&self, phase: u64) {
        let _ = self.0.left.subscribe().wait_for(|left| left.iter().all(|begins| *begins >= phase)).await;
    }
}

impl Inner {
    fn work(&self) {
        let mut more = true;
        while more {
            let order = self.waiting.lock().pop_front();
            // Who waits for the answer of one that panics hears that there is none; those behind it are none the worse.
            let _ = order.map(|order| catch_unwind(AssertUnwindSafe(order)));
            // Under the lock under which they come: one that finds none left has a thread of its own.
            let _waiting = self.waiting.lock();
            self.left.send_modify(|left| {
                left.pop_front();
                more = !left.is_empty();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn orders_are_carried_out_in_turn_while_who_gives_them_goes_on() {
        let (orders, (done, results), (go, wait)) = (Orders::default(), channel(), channel::<()>());
        orders.push(3, move || wait.recv().unwrap());
        for order in 0..3 {
            let done = done.clone();
            orders.push(NO_PHASE, move || {
                done.send(order).unwrap();
                assert!(order != 1, "one falls");
            });
        }
        let begun = done.clone();
        orders.start(move || begun.send(9).unwrap());
        assert!(orders.are_left() && orders.done().now_or_never().is_none());
        assert!(orders.done_below(3).now_or_never().is_some());
        assert!(orders.done_below(4).now_or_never().is_none());
        assert!(results.try_recv().is_err());
        go.send(()).unwrap();
        orders.done().await;
        assert!(!orders.are_left());
        drop(done);
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 1, 2, 9]);
        orders.push(5, || {});
        orders.done().await;
    }
}
