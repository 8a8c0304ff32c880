//! The scores at which the losses have the slopes that a Newton step was to lead to.
//!
//! A step d from the scores z leads, as far as the losses are quadratic, to the slopes f'(z) + f''(z) x.d, and these fit the
//! penalty as well as the step was found. The slopes where it really ends differ by what is of second order in d, which where
//! the penalty is small beside single losses is much of it: so near the optimum the certificate by these slopes is better by
//! orders of magnitude. Invariant: slopes are ones that the losses have, so that any certificate by them holds.

use super::bends;
use super::certificate::RowSums;
use super::columns::Columns;
use super::loss::Smooth;
use flexps_common::widest::{Work, widest};

/// What a step was to lead to, of a worker's rows.
#[derive(Debug, Default)]
pub struct Foresight {
    /// The slopes, weighted and over n, of which some may be ones that no loss has.
    slopes: Vec<f64>,
    /// The scores.
    pub scores: Vec<f64>,
    /// Slopes, weighted and over n, and curvatures there.
    pub bends: Vec<[f64; 2]>,
    /// Sums for the certificate.
    pub rows: RowSums,
}

impl Foresight {
    /// Notes it of a step that moves scores by `way` from where slopes and curvatures, weighted and over n, are `from`.
    pub fn note(&mut self, from: &[[f64; 2]], way: &[f64]) {
        self.slopes.clear();
        self.slopes.extend(from.iter().zip(way).map(|([slope, curvature], way)| slope + curvature * way));
    }

    /// Works out what was noted; `share` is 1/n.
    pub fn look(&mut self, loss: impl Smooth, targets: &[(f64, f64)], share: f64) {
        let Self { slopes, scores, bends, rows } = self;
        scores.resize(targets.len(), 0.0);
        widest(Scores { loss, targets, slopes, share, scores });
        bends.resize(targets.len(), [0.0; 2]);
        (*rows, _) = bends::bend(loss, targets, scores, bends, share);
    }

    /// The gradients of the features of `columns` there, by this worker's rows.
    pub fn gradient(&self, columns: &Columns) -> impl Iterator<Item = f64> {
        (0..columns.count()).map(|j| columns.column(j).dot(&self.bends))
    }
}

struct Scores<'a, L> {
    loss: L,
    targets: &'a [(f64, f64)],
    slopes: &'a [f64],
    share: f64,
    scores: &'a mut [f64],
}

impl<L: Smooth> Work for Scores<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (to, ((y, weight), slope)) in self.scores.iter_mut().zip(self.targets.iter().zip(self.slopes)) {
            // Of a row that is held out there is no slope, and none is asked for.
            let own = if *weight > 0.0 { slope / (self.share * weight) } else { 0.0 };
            *to = self.loss.score(*y, own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::{Logistic, Squared, SquaredHinge};
    use super::*;

    /// What a step is to lead to from these scores; of the rows there, targets, slopes and curvatures.
    fn foreseen(loss: impl Smooth, way: f64) -> (Foresight, Vec<(f64, f64)>, Vec<[f64; 2]>) {
        let targets: Vec<(f64, f64)> =
            (0..40).map(|i| (if i % 3 == 0 { -1.0 } else { 1.0 }, f64::from(i % 4))).collect();
        let scores: Vec<f64> = (0..40).map(|i| f64::from(i).sin()).collect();
        let ways: Vec<f64> = (0..40).map(|i| way * f64::from(i * 7).cos()).collect();
        let mut bends = vec![[0.0; 2]; 40];
        bends::bend(loss, &targets, &scores, &mut bends, 0.5);
        let mut foresight = Foresight::default();
        foresight.note(&bends, &ways);
        foresight.look(loss, &targets, 0.5);
        let wanted = bends.iter().zip(&ways).map(|([slope, curvature], way)| [slope + curvature * way, *curvature]);
        (foresight, targets, wanted.collect())
    }

    #[test]
    fn slopes_go_as_far_as_curvatures_say_where_a_loss_has_such_slopes() {
        fn check(loss: impl Smooth, way: f64) {
            let (foresight, _, wanted) = foreseen(loss, way);
            for ([slope, _], [wanted, _]) in foresight.bends.iter().zip(wanted) {
                assert!((slope - wanted).abs() < 1e-9, "{slope}, not {wanted}");
            }
        }
        check(Logistic, 0.2);
        check(SquaredHinge, 0.01);
        check(Squared, 5.0);
    }

    #[test]
    fn beyond_those_that_a_loss_has_they_stay_finite_and_of_its_sign() {
        fn check(loss: impl Smooth) {
            let (foresight, targets, _) = foreseen(loss, 50.0);
            assert!(foresight.scores.iter().all(|score| score.is_finite()));
            for ([slope, _], (y, weight)) in foresight.bends.iter().zip(targets) {
                assert!(y * slope <= 0.0 && (weight > 0.0 || *slope == 0.0), "{slope} at {y}");
            }
            assert!(foresight.rows.dual.is_finite() && foresight.rows.bend.is_finite());
        }
        check(Logistic);
        check(SquaredHinge);
    }
}
