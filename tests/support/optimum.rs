//! The best model, found by other means than ours: Newton's method with conjugate gradients, in f64.

use super::Rows;

/// log(1 + e^-z), without overflow.
pub fn log_loss(z: f64) -> f64 {
    if z > 0.0 { (-z).exp().ln_1p() } else { -z + z.exp().ln_1p() }
}

/// (1/n) Σ log(1 + exp(-y w·x)) + λ/2 |w|².
pub fn objective(rows: &Rows, weights: &[f64], bias: f64, lambda: f64) -> f64 {
    let n = rows.labels.len() as f64;
    let loss: f64 = rows.margins(weights, bias).iter().zip(&rows.labels).map(|(m, y)| log_loss(y * m)).sum();
    loss / n + lambda / 2.0 * weights.iter().map(|w| w * w).sum::<f64>()
}

/// The least value of [`objective`] without a bias, and where it is; the gradient's norm is below 1e-10.
pub fn optimum(rows: &Rows, lambda: f64) -> (f64, Vec<f64>) {
    let n = rows.labels.len() as f64;
    let mut w = vec![0.0; rows.features];
    for _ in 0..200 {
        let margins = rows.margins(&w, 0.0);
        let sigma: Vec<f64> = margins.iter().zip(&rows.labels).map(|(m, y)| 1.0 / (1.0 + (y * m).exp())).collect();
        let slopes: Vec<f64> = sigma.iter().zip(&rows.labels).map(|(s, y)| -y * s / n).collect();
        let mut gradient = transposed(rows, &slopes);
        gradient.iter_mut().zip(&w).for_each(|(g, w)| *g += lambda * w);
        let norm = dot(&gradient, &gradient).sqrt();
        if norm < 1e-10 {
            return (objective(rows, &w, 0.0, lambda), w);
        }
        let curvature: Vec<f64> = sigma.iter().map(|s| s * (1.0 - s) / n).collect();
        let step = solve(rows, &curvature, lambda, &gradient, norm.min(0.1) * norm);
        let now = objective(rows, &w, 0.0, lambda);
        let slope = dot(&gradient, &step);
        let mut t = 1.0;
        loop {
            let next: Vec<f64> = w.iter().zip(&step).map(|(w, s)| w - t * s).collect();
            // Near the optimum the decrease drowns in rounding; a full Newton step is right there.
            if t < 1e-6 || objective(rows, &next, 0.0, lambda) <= now - 1e-4 * t * slope + 1e-15 {
                w = next;
                break;
            }
            t /= 2.0;
        }
    }
    panic!("Newton's method did not converge; the test's data are too hard for it");
}

/// The least value of the mean log loss + l1 |w|_1, by proximal gradient descent with momentum that starts anew whenever
/// the objective rises.
pub fn optimum_l1(rows: &Rows, l1: f64) -> f64 {
    let n = rows.labels.len() as f64;
    let value = |w: &[f64]| objective(rows, w, 0.0, 0.0) + l1 * w.iter().map(|w| w.abs()).sum::<f64>();
    // |x|^2 / 4 bounds the curvature of a row.
    let norm2 = |row: &Vec<(u32, f64)>| row.iter().map(|(_, v)| v * v).sum::<f64>();
    let step = 1.0 / (rows.rows.iter().map(norm2).sum::<f64>() / n / 4.0);
    let mut w = vec![0.0; rows.features];
    let (mut ahead, mut best, mut t, mut idle) = (w.clone(), value(&w), 1.0f64, 0);
    for _ in 0..50_000 {
        let margins = rows.margins(&ahead, 0.0);
        let slopes: Vec<f64> = margins.iter().zip(&rows.labels).map(|(m, y)| -y / (1.0 + (y * m).exp()) / n).collect();
        let gradient = transposed(rows, &slopes);
        let moved = ahead.iter().zip(&gradient).map(|(w, g)| w - step * g);
        let next: Vec<f64> = moved.map(|w| w.signum() * (w.abs() - step * l1).max(0.0)).collect();
        let now = value(&next);
        if now >= best {
            (t, idle) = (1.0, idle + 1);
            ahead.clone_from(&w);
            if idle > 30 {
                return best;
            }
            continue;
        }
        idle = if best - now < 1e-14 * best { idle + 1 } else { 0 };
        best = now;
        let after = (1.0 + (1.0 + 4.0 * t * t).sqrt()) / 2.0;
        ahead = next.iter().zip(&w).map(|(new, old)| new + (t - 1.0) / after * (new - old)).collect();
        (w, t) = (next, after);
    }
    panic!("the way to the best sparse model is too long; the test's data are too hard for it");
}

/// Solves (Xᵀ diag(curvature) X + λ) x = b to a residual of `tolerance` by conjugate gradients.
fn solve(rows: &Rows, curvature: &[f64], lambda: f64, b: &[f64], tolerance: f64) -> Vec<f64> {
    let mut x = vec![0.0; b.len()];
    let (mut r, mut p) = (b.to_vec(), b.to_vec());
    let mut rr = dot(&r, &r);
    for _ in 0..10 * b.len() + 100 {
        if rr.sqrt() <= tolerance {
            break;
        }
        let scaled: Vec<f64> = rows.margins(&p, 0.0).iter().zip(curvature).map(|(m, c)| m * c).collect();
        let mut hp = transposed(rows, &scaled);
        hp.iter_mut().zip(&p).for_each(|(h, p)| *h += lambda * p);
        let alpha = rr / dot(&p, &hp);
        x.iter_mut().zip(&p).for_each(|(x, p)| *x += alpha * p);
        r.iter_mut().zip(&hp).for_each(|(r, h)| *r -= alpha * h);
        let next = dot(&r, &r);
        p.iter_mut().zip(&r).for_each(|(p, r)| *p = r + next / rr * *p);
        rr = next;
    }
    x
}

/// Xᵀ v.
fn transposed(rows: &Rows, v: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; rows.features];
    for (row, v) in rows.rows.iter().zip(v) {
        for (index, value) in row {
            out[*index as usize] += v * value;
        }
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The share of pairs (positive, negative) in which the positive has the higher score; ties count half. Every pair is
/// looked at.
pub fn auc(rows: &Rows, margins: &[f64]) -> f64 {
    let of = |wanted: f64| margins.iter().zip(&rows.labels).filter(move |(_, y)| **y == wanted).map(|(m, _)| *m);
    let (mut won, mut pairs) = (0.0, 0.0);
    for positive in of(1.0) {
        for negative in of(-1.0) {
            pairs += 1.0;
            won += if positive > negative {
                1.0
            } else if positive == negative {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

#[test]
fn newton_finds_a_point_that_no_step_improves() {
    let rows = Rows::generate(3, 300, 20, 6);
    let lambda = 1.0 / 300.0;
    let (best, w) = optimum(&rows, lambda);
    for i in 0..20 {
        for by in [-1e-3, 1e-3] {
            let mut moved = w.clone();
            moved[i] += by;
            assert!(objective(&rows, &moved, 0.0, lambda) > best, "feature {i} by {by}");
        }
    }
}
