//! What two have learnt of features, brought together, several features at a time.
//!
//! Few small steps add up, those of one as those of the other. But many lead either of them to the weight that is best, and
//! their sum twice as far: then it is the mean, by the squares of the gradients that each met. A gradient's square is on
//! average the loss's curvature, so their sum times the step, `far`, tells how much of the way is behind: of a way on a parabola
//! 1 - exp(-far), for which far / (1 + far) stands. With s the slope, z / s a weight, and G all squares, far is G / s and
//! ```text
//! z = s (sum / s + far mean) / (1 + far) = (sum + G mean) / (s + G) s
//! ```
//! Invariant: what one alone has met is as it left it, to the bit.

use super::rule::{LANES, Rule, State};
use flexps_common::widest::Work;
use std::array::{from_fn, from_mut, from_ref};

impl Rule {
    /// What two have learnt of some features since these were as `before`. Array by array, which is what becomes vector code.
    #[inline(always)]
    pub fn joined<const N: usize>(&self, before: &[State; N], ours: &[State; N], theirs: &[State; N]) -> [State; N] {
        let z = |of: &[State; N]| -> [f32; N] { from_fn(|i| of[i][0]) };
        let n = |of: &[State; N]| -> [f32; N] { from_fn(|i| of[i][1]) };
        let (z0, z1, z2, n0, n1, n2) = (z(before), z(ours), z(theirs), n(before), n(ours), n(theirs));
        let us: [f32; N] = from_fn(|i| n1[i] - n0[i]);
        let them: [f32; N] = from_fn(|i| n2[i] - n0[i]);
        let n: [f32; N] = from_fn(|i| n1[i] + them[i]);
        let slopes = |n: &[f32; N]| -> [f32; N] { from_fn(|i| self.slope(n[i].sqrt())) };
        let (all, one, other) = (slopes(&n), slopes(&n1), slopes(&n2));
        let z: [f32; N] = from_fn(|i| {
            let sum = z1[i] + (z2[i] - z0[i]);
            let mean_times_squares = us[i] * z1[i] / one[i] + them[i] * z2[i] / other[i];
            (sum + mean_times_squares) / (all[i] + (us[i] + them[i])) * all[i]
        });
        from_fn(|i| {
            let one_alone = |both: f32, ours: f32, theirs: f32| {
                let ours = if them[i] <= 0.0 { ours } else { both };
                if us[i] <= 0.0 { theirs } else { ours }
            };
            [one_alone(z[i], z1[i], z2[i]), one_alone(n[i], n1[i], n2[i])]
        })
    }
}

/// Features of which two have learnt, as many in each slice.
pub struct Joining<'a> {
    /// By which they learn.
    pub rule: Rule,
    /// What one knows; then what both know.
    pub ours: &'a mut [State],
    /// What both knew; then what the other is to add.
    pub before: &'a mut [State],
    /// What the other knows.
    pub theirs: &'a [State],
}

impl Work for Joining<'_> {
    type Output = bool;

    /// Whether there is anything to add.
    #[inline(always)]
    fn run(self) -> bool {
        let Self { rule, ours, before, theirs } = self;
        let (ours, last_ours) = ours.as_chunks_mut::<LANES>();
        let (before, last_before) = before.as_chunks_mut::<LANES>();
        let (theirs, last_theirs) = theirs.as_chunks::<LANES>();
        // Loops, not folds: a closure's code would not be made for the vectors that the caller's is.
        let mut met = false;
        for ((ours, before), theirs) in ours.iter_mut().zip(before).zip(theirs) {
            met |= join(&rule, ours, before, theirs);
        }
        for ((ours, before), theirs) in last_ours.iter_mut().zip(last_before).zip(last_theirs) {
            met |= join(&rule, from_mut(ours), from_mut(before), from_ref(theirs));
        }
        met
    }
}

/// As [`Joining`] says.
#[inline(always)]
fn join<const N: usize>(rule: &Rule, ours: &mut [State; N], before: &mut [State; N], theirs: &[State; N]) -> bool {
    let mut met = false;
    *ours = rule.joined(before, ours, theirs);
    for ((before, ours), theirs) in before.iter_mut().zip(ours).zip(theirs) {
        *before = [ours[0] - theirs[0], ours[1] - theirs[1]];
        met |= before[1] != 0.0;
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::widest::widest;

    #[test]
    fn what_one_alone_has_met_is_as_it_left_it() {
        let rule = Rule { alpha: 0.7, beta: 0.3, l1: 0.0, l2: 0.1, constant: 1.0 };
        let [start, before, after] = [[0.0; 2], [1.0, 4.0], [3.0, 5.0]];
        let joined = rule.joined(&[before, before, start], &[before, after, start], &[after, before, start]);
        assert_eq!(joined, [after, after, start]);
    }

    #[test]
    fn few_steps_of_two_add_up_and_of_many_the_mean_counts() {
        let rule = Rule { alpha: 0.5, beta: 1.0, l1: 0.0, l2: 0.0, constant: 1.0 };
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * b.abs();
        let [[z, n]] = rule.joined(&[[1.0, 1e-2]], &[[1.1, 1e-2 + 1e-5]], &[[1.3, 1e-2 + 2e-5]]);
        assert!(close(z, 1.4) && close(n, 1e-2 + 3e-5), "{z} {n}");
        // Two who found the same weight in a thousand rows.
        let after = |n: f32| [-2.0 * (rule.beta + n.sqrt()) / rule.alpha, n];
        let [joined] = rule.joined(&[[1.0, 1e6]], &[after(2e6)], &[after(3e6)]);
        assert!(close(rule.weight(joined), 2.0) && joined[1] == 4e6, "{joined:?}");
    }

    #[test]
    fn features_joined_together_are_each_joined_alone_and_the_change_brings_theirs_there() {
        let rule = Rule { alpha: 0.5, beta: 1.0, l1: 0.0, l2: 0.2, constant: 1.0 };
        let state = |i: usize, by: f32| [(i as f32 * by).sin(), 1.0 + (i / 7) as f32];
        let before: Vec<State> = (0..37).map(|i| state(i, 0.3)).collect();
        let met = |i: usize, by: usize| if i.is_multiple_of(by) { 0.5 } else { 0.0 };
        let after = |i: usize, by: usize| [before[i][0] - met(i, by), before[i][1] + met(i, by)];
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..37).map(|i| (after(i, 2), after(i, 3))).unzip();
        let (mut now, mut change) = (ours.clone(), before.clone());
        assert!(widest(Joining { rule, ours: &mut now, before: &mut change, theirs: &theirs }));
        for i in 0..37 {
            assert_eq!([now[i]], rule.joined(&[before[i]], &[ours[i]], &[theirs[i]]), "{i}");
            assert_eq!(change[i], [now[i][0] - theirs[i][0], now[i][1] - theirs[i][1]], "{i}");
        }
        let (mut now, mut change) = (before.clone(), before.clone());
        assert!(!widest(Joining { rule, ours: &mut now, before: &mut change, theirs: &theirs }), "nothing was learnt");
        assert_eq!(now, theirs);
    }
}
