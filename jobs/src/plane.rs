//! The best point of a plane, for searches along two ways at once.
//!
//! Invariant: what comes out is finite where the derivatives are finite and not of vanishing size.

/// First derivatives along both ways, and second ones along the first, along both, along the second.
pub type Curve = [f64; 5];

/// The step to where both first derivatives are zero, or, where the second way leads hardly elsewhere than the first (their
/// determinant is at most `flat` of the product), that along the first alone.
pub fn newton([ds, dt, dss, dst, dtt]: Curve, flat: f64) -> [f64; 2] {
    let det = dss * dtt - dst * dst;
    if det > flat * dss * dtt {
        [(dt * dst - ds * dtt) / det, (ds * dst - dt * dss) / det]
    } else if dss > 0.0 {
        [-ds / dss, 0.0]
    } else {
        [0.0; 2]
    }
}
