//! FTRL-proximal's arithmetic.
//!
//! Invariant: what is no number stays none: it never becomes a weight.

/// What is known of a feature: z and n.
pub type State = [f32; 2];

/// Features that are reckoned at once.
pub(super) const LANES: usize = 8;

/// What turns z and n into a weight.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The step of a feature that is new.
    pub alpha: f32,
    /// The gradients after which it is no longer new.
    pub beta: f32,
    /// The L1 penalty of all rows so far.
    pub l1: f32,
    /// Their L2 penalty.
    pub l2: f32,
    /// The intercept is learnt as a feature of this value would be: one of a usual size, whatever the features' unit.
    pub constant: f32,
}

impl Rule {
    /// That of the intercept, which has no penalty; its value is 1, so that what it knows is in another unit.
    pub fn free(self) -> Self {
        let Self { alpha, beta, constant, .. } = self;
        Self { alpha: alpha * constant, beta: beta / constant, l1: 0.0, l2: 0.0, constant: 1.0 }
    }

    /// The weight that z and n make.
    #[inline(always)]
    pub fn weight(&self, [z, n]: State) -> f32 {
        self.weight_by(z, n.sqrt())
    }

    #[inline(always)]
    pub(super) fn weight_by(&self, z: f32, root: f32) -> f32 {
        let beyond = z.abs() - self.l1;
        // Not `max`, which would make a weight of what is no number.
        let beyond = if beyond < 0.0 { 0.0 } else { beyond };
        -beyond.copysign(z) / self.slope(root)
    }

    /// What z is divided by, when n has this root.
    #[inline(always)]
    pub(super) fn slope(&self, root: f32) -> f32 {
        (self.beta + root) * self.alpha.recip() + self.l2
    }

    /// What a gradient makes of z and n, when n has this root and both this weight.
    #[inline(always)]
    pub(super) fn after(&self, [z, n]: State, root: f32, weight: f32, gradient: f32) -> State {
        let n = n + gradient * gradient;
        [z + (gradient - (n.sqrt() - root) * self.alpha.recip() * weight), n]
    }
}
