//! An independent way to the optimum, for tests: Newton's method with conjugate gradients, in f64.
//!
//! Invariant: shares no formula or code with the jobs; what it returns has a gradient of norm 1e-9 or less, or the
//! step no longer changes the objective.

use flexps_common::data::Block;

/// The problem: rows, penalty, whether there is an unpenalised bias.
pub struct Problem<'a> {
    pub blocks: &'a [Block],
    pub lambda: f64,
    pub bias: bool,
    pub features: usize,
}

impl Problem<'_> {
    fn rows(&self) -> impl Iterator<Item = (f64, &[u32], Option<&[f32]>)> {
        self.blocks
            .iter()
            .flat_map(|b| (0..b.rows()).map(|i| b.row(i)))
            .map(|r| (f64::from(r.label), r.indices, r.values))
    }

    fn scores(&self, w: &[f64]) -> Vec<f64> {
        let bias = if self.bias { w[self.features] } else { 0.0 };
        let dot = |indices: &[u32], values: Option<&[f32]>| match values {
            Some(values) => indices.iter().zip(values).map(|(i, v)| w[*i as usize] * f64::from(*v)).sum::<f64>(),
            None => indices.iter().map(|i| w[*i as usize]).sum(),
        };
        self.rows().map(|(_, indices, values)| dot(indices, values) + bias).collect()
    }

    fn transposed(&self, by: &[f64], w: &[f64]) -> Vec<f64> {
        let mut out: Vec<f64> = w.iter().map(|w| self.lambda * w).collect();
        if self.bias {
            out[self.features] = 0.0;
        }
        for ((_, indices, values), by) in self.rows().zip(by) {
            for (at, i) in indices.iter().enumerate() {
                out[*i as usize] += by * values.map_or(1.0, |v| f64::from(v[at]));
            }
            if self.bias {
                out[self.features] += by;
            }
        }
        out
    }

    /// F at `w`: features, then the bias.
    pub fn objective(&self, w: &[f64]) -> f64 {
        let scores = self.scores(w);
        let n = scores.len() as f64;
        let losses = self.rows().zip(&scores).map(|((y, ..), s)| {
            let m = y * s;
            if m > 0.0 { (-m).exp().ln_1p() } else { -m + m.exp().ln_1p() }
        });
        losses.sum::<f64>() / n + self.lambda / 2.0 * w[..self.features].iter().map(|w| w * w).sum::<f64>()
    }

    /// The optimum and F there.
    pub fn solve(&self) -> (Vec<f64>, f64) {
        let mut w = vec![0.0; self.features + usize::from(self.bias)];
        let mut f = self.objective(&w);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..200 {
            let scores = self.scores(&w);
            let n = scores.len() as f64;
            let p: Vec<f64> = scores.iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect();
            let slopes: Vec<f64> = self.rows().zip(&p).map(|((y, ..), p)| (p - (y + 1.0) / 2.0) / n).collect();
            let gradient = self.transposed(&slopes, &w);
            if dot(&gradient, &gradient).sqrt() < 1e-9 {
                break;
            }
            let curvature: Vec<f64> = p.iter().map(|p| p * (1.0 - p) / n).collect();
            let apply = |d: &[f64]| {
                let by: Vec<f64> = self.scores(d).iter().zip(&curvature).map(|(s, c)| s * c).collect();
                self.transposed(&by, d)
            };
            let mut step = vec![0.0; w.len()];
            let mut rest: Vec<f64> = gradient.iter().map(|g| -g).collect();
            let mut way = rest.clone();
            let (mut size, goal) = (dot(&rest, &rest), dot(&gradient, &gradient) * 1e-8);
            for _ in 0..500 {
                if size <= goal {
                    break;
                }
                let applied = apply(&way);
                let alpha = size / dot(&way, &applied);
                step.iter_mut().zip(&way).for_each(|(s, w)| *s += alpha * w);
                rest.iter_mut().zip(&applied).for_each(|(r, a)| *r -= alpha * a);
                let next = dot(&rest, &rest);
                way.iter_mut().zip(&rest).for_each(|(w, r)| *w = r + next / size * *w);
                size = next;
            }
            let mut length = 1.0;
            let (next, value) = loop {
                let next: Vec<f64> = w.iter().zip(&step).map(|(w, s)| w + length * s).collect();
                let value = self.objective(&next);
                if value <= f + 1e-4 * length * dot(&gradient, &step) || length < 1e-10 {
                    break (next, value);
                }
                length /= 2.0;
            };
            if value >= f {
                break;
            }
            (w, f) = (next, value);
        }
        (w, f)
    }
}
