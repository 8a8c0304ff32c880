//! The least objective of a small dense set, for any loss under L1, L2 or both, with an intercept or without, and weights of
//! classes, by other means than ours: proximal gradient descent with momentum; for the hinge dual ascent in f64 until its gap
//! is closed, and for its intercept a search along the line.
//!
//! Invariant: what is returned is within 1e-8 of the least value, relatively, or the test ends.

use super::Rows;
use super::optimum::log_loss;

/// A loss of a score z at the label y.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    Logistic,
    Hinge,
    SquaredHinge,
    Squared,
}

impl Loss {
    /// Of a row.
    pub fn at(self, y: f64, z: f64) -> f64 {
        let short = (1.0 - y * z).max(0.0);
        match self {
            Self::Logistic => log_loss(y * z),
            Self::Hinge => short,
            Self::SquaredHinge => short * short,
            Self::Squared => (y - z) * (y - z) / 2.0,
        }
    }

    fn slope(self, y: f64, z: f64) -> f64 {
        match self {
            Self::Logistic => -y / (1.0 + (y * z).exp()),
            Self::Hinge => unreachable!("the hinge has no slope at its kink"),
            Self::SquaredHinge => -2.0 * y * (1.0 - y * z).max(0.0),
            Self::Squared => z - y,
        }
    }

    /// The largest second derivative.
    fn curvature(self) -> f64 {
        match self {
            Self::Logistic => 0.25,
            Self::SquaredHinge => 2.0,
            Self::Squared | Self::Hinge => 1.0,
        }
    }
}

/// (1/n) sum c f(y, w.x + b) + l1 |w|_1 + l2/2 |w|^2, c being the weight of a row's class.
pub struct Problem<'a> {
    pub rows: &'a Rows,
    pub loss: Loss,
    pub l1: f64,
    pub l2: f64,
    /// Whether there is an intercept b.
    pub bias: bool,
    /// Of negative and of positive rows.
    pub class_weights: [f64; 2],
}

impl Problem<'_> {
    fn weight(&self, y: f64) -> f64 {
        self.class_weights[usize::from(y > 0.0)]
    }

    fn n(&self) -> f64 {
        self.rows.labels.len() as f64
    }

    /// The objective at a model.
    pub fn value(&self, w: &[f64], b: f64) -> f64 {
        let scores = self.rows.margins(w, b);
        let losses: f64 =
            scores.iter().zip(&self.rows.labels).map(|(z, y)| self.weight(*y) * self.loss.at(*y, *z)).sum();
        losses / self.n() + w.iter().map(|w| self.l1 * w.abs() + self.l2 / 2.0 * w * w).sum::<f64>()
    }

    /// The least [`Problem::value`].
    pub fn least(&self) -> f64 {
        if self.loss == Loss::Hinge { self.hinge() } else { self.smooth() }
    }

    /// The sums of the columns, each row times its number, and of the numbers.
    fn transposed(&self, by: impl Iterator<Item = f64>) -> (Vec<f64>, f64) {
        let (mut out, mut sum) = (vec![0.0; self.rows.features], 0.0);
        for (row, by) in self.rows.rows.iter().zip(by) {
            row.iter().for_each(|(k, v)| out[*k as usize] += by * v);
            sum += by;
        }
        (out, if self.bias { sum } else { 0.0 })
    }

    /// The largest eigenvalue of X^T X / n, the intercept's column being among X's, a little above.
    fn largest(&self) -> f64 {
        let (mut way, mut constant, mut size) = (vec![1.0; self.rows.features], f64::from(u8::from(self.bias)), 0.0);
        for _ in 0..300 {
            (way, constant) = self.transposed(self.rows.margins(&way, constant).into_iter());
            size = (way.iter().map(|w| w * w).sum::<f64>() + constant * constant).sqrt();
            way.iter_mut().for_each(|w| *w /= size);
            constant /= size;
        }
        1.01 * size / self.n()
    }

    fn smooth(&self) -> f64 {
        let heaviest = self.class_weights[0].max(self.class_weights[1]);
        let step = 1.0 / (heaviest * self.loss.curvature() * self.largest() + self.l2);
        let (mut w, mut b, mut t, mut idle) = (vec![0.0; self.rows.features], 0.0, 1.0f64, 0);
        let (mut ahead, mut ahead_b, mut best) = (w.clone(), b, self.value(&w, b));
        for _ in 0..300_000 {
            let scores = self.rows.margins(&ahead, ahead_b);
            let slope = |(z, y): (&f64, &f64)| self.weight(*y) * self.loss.slope(*y, *z) / self.n();
            let (gradient, constant) = self.transposed(scores.iter().zip(&self.rows.labels).map(slope));
            let moved = ahead.iter().zip(&gradient).map(|(w, g)| w - step * (g + self.l2 * w));
            let next: Vec<f64> = moved.map(|w| w.signum() * (w.abs() - step * self.l1).max(0.0)).collect();
            let next_b = ahead_b - step * constant;
            let now = self.value(&next, next_b);
            idle = if best - now < 1e-14 * best { idle + 1 } else { 0 };
            if idle > 60 {
                return best;
            }
            if now >= best {
                // Momentum that leads uphill is dropped.
                t = 1.0;
                ahead.clone_from(&w);
                ahead_b = b;
                continue;
            }
            best = now;
            let after = (1.0 + (1.0 + 4.0 * t * t).sqrt()) / 2.0;
            let on = (t - 1.0) / after;
            ahead = next.iter().zip(&w).map(|(new, old)| new + on * (new - old)).collect();
            ahead_b = next_b + on * (next_b - b);
            (w, b, t) = (next, next_b, after);
        }
        panic!("the way to the optimum is too long; the test's data are too hard for it");
    }

    /// The hinge: of a fixed intercept by dual ascent, whose least value is convex in the intercept.
    fn hinge(&self) -> f64 {
        let mut dual = vec![0.0; self.rows.labels.len()];
        if !self.bias {
            return self.ascend(0.0, &mut dual);
        }
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (-8.0, 8.0);
        let inner = |low: f64, high: f64| (high - golden * (high - low), low + golden * (high - low));
        let (mut left, mut right) = inner(low, high);
        let (mut at_left, mut at_right) = (self.ascend(left, &mut dual), self.ascend(right, &mut dual));
        while high - low > 1e-8 {
            if at_left <= at_right {
                (high, right, at_right) = (right, left, at_left);
                left = inner(low, high).0;
                at_left = self.ascend(left, &mut dual);
            } else {
                (low, left, at_left) = (left, right, at_right);
                right = inner(low, high).1;
                at_right = self.ascend(right, &mut dual);
            }
        }
        at_left.min(at_right)
    }

    /// The least value with this intercept, from these dual variables.
    fn ascend(&self, b: f64, dual: &mut [f64]) -> f64 {
        let (n, scale) = (self.rows.labels.len(), 1.0 / (self.l2 * self.n()));
        let mut w = vec![0.0; self.rows.features];
        for ((row, y), a) in self.rows.rows.iter().zip(&self.rows.labels).zip(&*dual) {
            row.iter().for_each(|(k, v)| w[*k as usize] += a * y * scale * v);
        }
        for sweep in 0..200_000 {
            for step in 0..n {
                // A stride that has no divisor with n but 1, another one each time: an order of its own for each sweep.
                let stride = [7919, 104_729, 1_299_709, 15_485_863][sweep % 4];
                let i = (step * stride + sweep) % n;
                let (row, y) = (&self.rows.rows[i], self.rows.labels[i]);
                let margin = y * (b + row.iter().map(|(k, v)| w[*k as usize] * v).sum::<f64>());
                let q = row.iter().map(|(_, v)| v * v).sum::<f64>() * scale;
                let next = (dual[i] + (1.0 - margin) / q).clamp(0.0, self.weight(y));
                let by = (next - dual[i]) * y * scale;
                row.iter().for_each(|(k, v)| w[*k as usize] += by * v);
                dual[i] = next;
            }
            if sweep % 20 == 19 {
                let above = self.value(&w, b);
                let own: f64 = dual.iter().zip(&self.rows.labels).map(|(a, y)| a * (1.0 - y * b)).sum();
                let below = own / self.n() - self.l2 / 2.0 * w.iter().map(|w| w * w).sum::<f64>();
                if above - below < 1e-9 * above {
                    return above;
                }
            }
        }
        panic!("dual ascent did not close its gap; the test's data are too hard for it");
    }
}
