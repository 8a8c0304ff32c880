//! A look, along a path, at the features that are watched: which ask for a weight, and whether no feature is in the way of the
//! certificate.
//!
//! Of most their column need not be read: as in [`super::reach`], a feature whose gradient is known where the slopes of the
//! rows' losses were v is in nobody's way as long as |x_j.v| + |x_j| |u - v| is at most the L1 penalty. Invariant: the gradient that is
//! given for a feature is its own, or both are at most the L1 penalty in size and it has no weight.

use super::bends;
use super::certificate::{FeatureSums, RowSums, certify};
use super::coordinates::Coordinates;
use super::inner::{Own, Shared};
use super::kept;
use super::loss::Smooth;
use super::occurring;
use super::reach::LOST;
use super::screen::is_kept;
use crate::objective::is_right;
use crate::parts::Rows;
use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::metrics::Metric;
use flexps_common::plan::Table;
use flexps_common::worker::Worker;

/// The columns of the slopes where the gradients of all that are watched were made last, of these gradients, and of the
/// blocks whose rows they are.
const BEFORE: [[&str; 2]; 2] = [["surveyed", "surveyed-blocks"], ["surveyed-gradient", "surveyed-for"]];
/// All are looked at anew when those that have to be have more than this part of the non-zeros.
const MANY: f64 = 0.4;

/// The features that are watched.
pub struct Watched {
    /// Which they are, rising.
    pub keys: Vec<Key>,
    /// Their places among the columns.
    pub places: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Their norms, and their non-zeros in all rows; empty where no path is ahead.
    norms: Vec<[f64; 2]>,
    /// This worker's slopes where all gradients were made last, and these.
    before: Option<(Vec<f64>, Vec<f64>)>,
}

/// What a look at them shows.
pub struct Seen {
    rows: RowSums,
    features: FeatureSums,
    /// Their gradients, as far as they matter.
    pub gradient: Vec<f64>,
    /// Whether it is a certificate for all features, as good as is asked for.
    pub certifies: bool,
}

impl Watched {
    /// Those of these keys and weights, whose columns are at these places.
    pub fn new(keys: Vec<Key>, weights: Vec<f64>, places: Vec<u32>) -> Self {
        Self { keys, places, weights, norms: Vec::new(), before: None }
    }

    /// Reads their norms and, if they are the same as in the stage before, what it left.
    pub fn measure(&mut self, worker: &mut Worker<'_>, rows: Rows, norms: Table<f64>, same: bool) -> Result<()> {
        let mut read = Vec::new();
        occurring::get(worker, rows, norms, &self.keys, &mut read)?;
        self.norms = read.chunks_exact(2).map(|own| [own[0].sqrt(), own[1]]).collect();
        let [slopes, gradient] = BEFORE;
        let left = (kept::find(worker, rows, slopes)?, kept::find::<f64>(worker, rows, gradient)?);
        if let (Some(slopes), Some(gradient), true) = (left.0, left.1, same) {
            self.before = Some((slopes, gradient)).filter(|(_, gradient)| gradient.len() == self.keys.len());
        }
        Ok(())
    }

    /// Leaves for the next stage what this one knows.
    pub fn leave(self, worker: &mut Worker<'_>, rows: Rows) -> Result<()> {
        let Some((slopes, gradient)) = self.before else { return Ok(()) };
        kept::keep(worker, rows, BEFORE[0], slopes)?;
        kept::keep(worker, rows, BEFORE[1], gradient)
    }

    /// Which of them `keys` are; both rise.
    pub fn find(&self, keys: &[Key]) -> Vec<usize> {
        let mut wanted = keys.iter().peekable();
        (0..self.keys.len()).filter(|at| wanted.next_if_eq(&&self.keys[*at]).is_some()).collect()
    }

    /// Which of them have a weight or ask for one.
    pub fn asking(&self, gradient: &[f64], l1: f64) -> Vec<usize> {
        (0..self.keys.len()).filter(|at| self.weights[*at] != 0.0 || gradient[*at].abs() > l1).collect()
    }

    /// The gradients of all of them that may matter, and the certificate if no other feature can be in its way.
    pub fn survey(
        &mut self,
        loss: impl Smooth,
        worker: &mut Worker<'_>,
        (own, shared, coordinates): (&mut Own, &mut Shared, &mut Coordinates),
        reach: f64,
    ) -> Result<Seen> {
        let (sums, _) = own.bend(loss, shared.rows);
        let (sums, bends) = match &coordinates.foresight {
            Some(foresight) => (RowSums { loss: sums.loss, ..foresight.rows }, &foresight.bends),
            None => (sums, &own.bends),
        };
        let far = coordinates.far(bends);
        // Read more densely than together with the curvatures.
        let slopes: Vec<f64> = bends.iter().map(|[slope, _]| *slope).collect();
        let before = self.before.take().filter(|(then, _)| then.len() == slopes.len());
        let since = before.as_ref().map_or(LOST, |(then, _)| bends::far(then, bends));
        let mut all: Vec<f64> = [far, since].into_iter().chain(sums.array()).collect();
        shared.reduce.sum(worker, &mut all)?;
        let rows = RowSums::of(std::array::from_fn(|at| all[2 + at]));
        coordinates.strayed = all[0].sqrt();
        let since = all[1].sqrt();
        // All workers know the same of these, and so choose the same.
        let chosen = before.as_ref().and_then(|(_, gradient)| self.near(gradient, since, shared.penalty.l1));
        let anew = chosen.is_none();
        let chosen = chosen.unwrap_or_else(|| (0..self.keys.len()).collect());
        coordinates.columns.choose(chosen.iter().map(|at| self.places[*at]).collect());
        let mut made: Vec<f64> = (0..chosen.len()).map(|at| coordinates.columns.column(at).dot_with(&slopes)).collect();
        shared.reduce.sum(worker, &mut made)?;
        let mut gradient = match &before {
            Some((_, gradient)) if !anew => gradient.clone(),
            _ => vec![0.0; self.keys.len()],
        };
        chosen.iter().zip(made).for_each(|(at, g)| gradient[*at] = g);
        self.before = if anew { Some((slopes, gradient.clone())) } else { before };
        let mut features = FeatureSums::default();
        self.weights.iter().zip(&gradient).for_each(|(w, g)| features.add(*w, *g, shared.penalty));
        let now = certify(shared.rows, &rows, &features, shared.penalty, shared.longest());
        let certifies = coordinates.strayed <= reach && now.gap <= shared.tolerance * now.objective;
        Ok(Seen { rows, features, gradient, certifies })
    }

    /// Those that have a weight or may be in the way where the slopes have gone so `far` from where this was the `gradient`; none
    /// where these are so many that all should be looked at.
    fn near(&self, gradient: &[f64], far: f64, l1: f64) -> Option<Vec<usize>> {
        if far >= LOST.sqrt() {
            return None;
        }
        let (mut near, mut count, mut all) = (Vec::new(), 0.0, 0.0);
        for (at, ((w, g), [norm, nonzeros])) in self.weights.iter().zip(gradient).zip(&self.norms).enumerate() {
            all += nonzeros;
            if *w != 0.0 || g.abs() + norm * far > l1 {
                near.push(at);
                count += nonzeros;
            }
        }
        (count <= MANY * all).then_some(near)
    }
}

impl Seen {
    /// Reports what makes the certificate, each worker its part.
    pub fn report(&self, worker: &mut Worker<'_>, own: &Own, watched: &Watched) {
        let right = own.targets.iter().zip(&own.scores).filter(|((y, weight), z)| *weight > 0.0 && is_right(*y, **z));
        worker.report("right", Metric::Count(right.count() as u64));
        worker.report("most", Metric::Max(self.features.most));
        let leads = worker.place.index == 0;
        let nonzeros = watched.weights.iter().filter(|weight| leads && is_kept(**weight));
        worker.report("nonzeros", Metric::Count(nonzeros.count() as u64));
        let FeatureSums { penalty, excess, .. } = self.features;
        let rows = RowSums::NAMES.into_iter().zip(self.rows.array());
        for (name, value) in rows.chain([("penalty", penalty), ("excess", excess)]) {
            worker.report(name, Metric::Sum(if leads { value } else { 0.0 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    proptest! {
        #[test]
        fn a_feature_that_is_not_looked_at_again_has_no_weight_and_no_gradient_above_the_penalty(
            columns in prop::collection::vec((prop::collection::vec(-1.0..1.0f64, 5), prop::bool::weighted(0.1)), 1..40),
            then in prop::collection::vec(-0.2..0.2f64, 5),
            way in prop::collection::vec(-0.05..0.05f64, 5),
        ) {
            let weights = columns.iter().map(|(_, held)| f64::from(u8::from(*held))).collect();
            let mut watched = Watched::new((0..columns.len() as Key).collect(), weights, Vec::new());
            watched.norms = columns.iter().map(|(column, _)| [dot(column, column).sqrt(), 5.0]).collect();
            let gradient: Vec<f64> = columns.iter().map(|(column, _)| dot(column, &then)).collect();
            let now: Vec<f64> = then.iter().zip(&way).map(|(v, d)| v + d).collect();
            let near = watched.near(&gradient, dot(&way, &way).sqrt(), 0.3);
            for (at, (column, held)) in columns.iter().enumerate() {
                let looked_at = near.as_ref().is_none_or(|near| near.contains(&at));
                prop_assert!(looked_at || !held && dot(column, &now).abs() <= 0.3 * (1.0 + 1e-12));
            }
        }
    }

    #[test]
    fn all_are_looked_at_anew_once_many_may_be_in_the_way() {
        let mut watched = Watched::new(vec![1, 4, 6], vec![0.0; 3], Vec::new());
        watched.norms = vec![[1.0, 10.0], [1.0, 10.0], [1.0, 10.0]];
        let gradient = [0.1, 0.2, 0.3];
        assert_eq!(watched.near(&gradient, 0.05, 0.3), Some(vec![2]));
        assert_eq!(watched.near(&gradient, 0.15, 0.3), None);
        assert_eq!(watched.near(&gradient, LOST.sqrt(), 0.3), None);
    }
}
