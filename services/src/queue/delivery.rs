//! Where a hint leaves apalis. It is acknowledged once its claim is answered, not once the step has
//! ended: Redis is never asked to remember a running step.

use tokio::sync::OwnedSemaphorePermit;

use super::Hint;

/// A hint as the handler gets it.
pub struct Delivery {
    pub hint: Hint,
    /// Says that the hint's claim is answered.
    answer: Option<Box<dyn FnOnce() + Send>>,
    /// The handler's place among those that may run at once: free when the delivery is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    pub(super) fn new(hint: Hint, place: Option<OwnedSemaphorePermit>, answer: impl FnOnce() + Send + 'static) -> Self {
        Self { hint, answer: Some(Box::new(answer)), _place: place }
    }

    /// Tells Redis that this hint has done its work: call it when the claim is answered, whatever
    /// the answer. Until then a push finds it held, for a second or two. Dropping the delivery does
    /// the same.
    pub fn acknowledge(&mut self) {
        if let Some(answer) = self.answer.take() {
            answer();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.acknowledge();
    }
}
