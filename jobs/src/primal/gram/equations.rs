//! Linear equations by Cholesky's factors.
//!
//! Factors are made some lines at a time, so that one look at a line above serves them all: of a thousand features and more
//! what is looked at comes from beyond the nearest caches.

use super::line;
use flexps_common::widest::Work;

/// Lines that are worked on together.
const TOGETHER: usize = 4;
/// A pivot below this part of its diagonal is rounding.
const PIVOT: f64 = 1e-13;

/// Equations of the lower half of a matrix, line by line, and their right sides; solved where the matrix has an inverse.
pub struct Equations {
    /// The half.
    pub factor: Vec<f64>,
    /// The right sides, as many as lines.
    pub found: Vec<f64>,
}

impl Work for Equations {
    type Output = Option<Vec<f64>>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { mut factor, mut found } = self;
        let size = found.len();
        for first in (0..size).step_by(TOGETHER) {
            let done = if first + TOGETHER <= size { together(&mut factor, first) } else { 0 };
            for at in first..size.min(first + TOGETHER) {
                let (above, own) = factor.split_at_mut(line(at));
                for k in done..at {
                    let other = &above[line(k)..][..=k];
                    own[k] = (own[k] - dot(&own[..k], &other[..k])) / other[k];
                }
                let pivot = own[at] - dot(&own[..at], &own[..at]);
                if pivot.is_nan() || pivot <= PIVOT * own[at] {
                    return None;
                }
                own[at] = pivot.sqrt();
            }
        }
        for at in 0..size {
            let own = &factor[line(at)..][..=at];
            found[at] = (found[at] - dot(&own[..at], &found[..at])) / own[at];
        }
        for at in (0..size).rev() {
            let own = &factor[line(at)..][..=at];
            let last = found[at] / own[at];
            found[at] = last;
            found[..at].iter_mut().zip(own).for_each(|(to, by)| *to -= by * last);
        }
        Some(found)
    }
}

/// Makes what lines from `first` on have in the columns of those above, and gives how many columns that is.
#[inline(always)]
fn together(factor: &mut [f64], first: usize) -> usize {
    let (above, mut rest) = factor.split_at_mut(line(first));
    let mut own: [&mut [f64]; TOGETHER] = Default::default();
    for (at, own) in own.iter_mut().enumerate() {
        (*own, rest) = rest.split_at_mut(first + at + 1);
    }
    for k in 0..first {
        let other = &above[line(k)..][..=k];
        let sums = dots(own.each_ref().map(|own| &own[..k]), &other[..k]);
        own.iter_mut().zip(sums).for_each(|(own, sum)| own[k] = (own[k] - sum) / other[k]);
    }
    first
}

/// The sums of products of some lines with another as long, each with eight lanes.
#[inline(always)]
fn dots(lines: [&[f64]; TOGETHER], other: &[f64]) -> [f64; TOGETHER] {
    let (others, rest) = other.as_chunks::<8>();
    let [a, b, c, d] = lines.map(|line| line.as_chunks::<8>().0);
    // Each by name: an array of arrays is not kept in registers.
    let [mut sums_a, mut sums_b, mut sums_c, mut sums_d] = [[0.0; 8]; TOGETHER];
    let add = |sums: &mut [f64; 8], own: &[f64; 8], other: &[f64; 8]| {
        (0..8).for_each(|lane| sums[lane] += own[lane] * other[lane]);
    };
    for ((((other, a), b), c), d) in others.iter().zip(a).zip(b).zip(c).zip(d) {
        add(&mut sums_a, a, other);
        add(&mut sums_b, b, other);
        add(&mut sums_c, c, other);
        add(&mut sums_d, d, other);
    }
    let whole = other.len() - rest.len();
    let rests = lines.map(|line| line[whole..].iter().zip(rest).map(|(a, b)| a * b).sum::<f64>());
    let sums = [sums_a, sums_b, sums_c, sums_d];
    std::array::from_fn(|at| rests[at] + sums[at].iter().sum::<f64>())
}

/// The sum of products, eight lanes at a time.
#[inline(always)]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        (0..8).for_each(|lane| sums[lane] += a[lane] * b[lane]);
    }
    rest + sums.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::random::SplitMix64;
    use flexps_common::widest::widest;

    #[test]
    fn equations_of_any_number_are_solved() {
        let mut random = SplitMix64(7);
        for size in (0..30).chain([64, 65, 131]) {
            let rows: Vec<Vec<f64>> = (0..2 * size).map(|_| (0..size).map(|_| random.unit() - 0.5).collect()).collect();
            let entry = |j: usize, k: usize| rows.iter().map(|row| row[j] * row[k]).sum::<f64>();
            let wanted: Vec<f64> = (0..size).map(|j| (j as f64).sin()).collect();
            let factor = (0..size).flat_map(|j| (0..=j).map(move |k| (j, k))).map(|(j, k)| entry(j, k)).collect();
            let aims = (0..size).map(|j| (0..size).map(|k| entry(j, k) * wanted[k]).sum()).collect();
            let found = widest(Equations { factor, found: aims }).unwrap();
            let missed = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(missed < 1e-6, "{size} equations: {missed:e}");
        }
    }

    #[test]
    fn those_without_a_solution_have_none_wherever_that_shows() {
        for size in [1, 4, 6, 13] {
            for flat in 0..size {
                let entry = |j: usize, k: usize| if j == k && j != flat { 1.0 } else { 0.0 };
                let factor = (0..size).flat_map(|j| (0..=j).map(move |k| entry(j, k))).collect();
                assert!(widest(Equations { factor, found: vec![1.0; size] }).is_none());
            }
        }
    }
}
