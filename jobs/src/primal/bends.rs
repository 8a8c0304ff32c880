//! Slopes and curvatures of the losses of many rows, several at a time.
//!
//! Invariant: sums are made in an order that depends on the rows alone.

use super::certificate::RowSums;
use super::loss::Smooth;
use flexps_common::widest::{Work, widest};

/// Rows that go side by side.
const ROWS: usize = 64;
/// Sums that go side by side.
const LANES: usize = 8;
/// Sums over rows: those of the certificate but one, which is another's here, and that of the curvatures.
const SUMS: usize = RowSums::COUNT;

/// Fills `bends` with weighted slope and curvature, times `share`, of each row's loss at its score; `targets` holds targets and
/// weights. Gives the sums for the certificate, and that of the curvatures.
pub fn bend(
    loss: impl Smooth,
    targets: &[(f64, f64)],
    scores: &[f64],
    bends: &mut [[f64; 2]],
    share: f64,
) -> (RowSums, f64) {
    widest(Bend { loss, targets, scores, bends, share })
}

/// The sum over rows of the squares of how far their slopes are from those before.
pub fn far(before: &[f64], bends: &[[f64; 2]]) -> f64 {
    let (mut sums, mut rest) = ([0.0; LANES], 0.0);
    let (chunks, ends) = before.as_chunks::<LANES>();
    let (now, now_ends) = bends.as_chunks::<LANES>();
    for (then, now) in chunks.iter().zip(now) {
        for lane in 0..LANES {
            let moved = now[lane][0] - then[lane];
            sums[lane] += moved * moved;
        }
    }
    ends.iter().zip(now_ends).for_each(|(then, [now, _])| rest += (now - then) * (now - then));
    rest + sums.iter().sum::<f64>()
}

struct Bend<'a, L> {
    loss: L,
    targets: &'a [(f64, f64)],
    scores: &'a [f64],
    bends: &'a mut [[f64; 2]],
    share: f64,
}

impl<L: Smooth> Work for Bend<'_, L> {
    type Output = (RowSums, f64);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let mut sums = [[0.0; ROWS]; SUMS];
        let (targets, last_targets) = self.targets.as_chunks::<ROWS>();
        let (scores, last_scores) = self.scores.as_chunks::<ROWS>();
        let (bends, last_bends) = self.bends.as_chunks_mut::<ROWS>();
        for ((targets, scores), bends) in targets.iter().zip(scores).zip(bends) {
            some(self.loss, (targets, scores), bends, self.share, &mut sums);
        }
        // Rows of weight 0, which add nothing, fill the rest.
        let (mut targets, mut scores, mut bends) = ([(1.0, 0.0); ROWS], [0.0; ROWS], [[0.0; 2]; ROWS]);
        let rest = last_scores.len();
        targets[..rest].copy_from_slice(last_targets);
        scores[..rest].copy_from_slice(last_scores);
        some(self.loss, (&targets, &scores), &mut bends, self.share, &mut sums);
        last_bends.copy_from_slice(&bends[..rest]);
        let [loss, inner, bend, slope, curvature, mass, lift, spread] = sums.map(|rows| rows.iter().sum::<f64>());
        (RowSums { loss, dual: loss, inner, bend, slope, mass, lift, spread }, curvature)
    }
}

/// By itself each loop is one that the compiler turns into vector code.
#[inline(always)]
fn some<L: Smooth>(
    of: L,
    (targets, scores): (&[(f64, f64); ROWS], &[f64; ROWS]),
    bends: &mut [[f64; 2]; ROWS],
    share: f64,
    sums: &mut [[f64; ROWS]; SUMS],
) {
    let (mut y, mut weight, mut made) = ([0.0; ROWS], [0.0; ROWS], [[0.0; ROWS]; 4]);
    for row in 0..ROWS {
        (y[row], weight[row]) = targets[row];
    }
    let [loss, slope, curvature, bend] = &mut made;
    for row in 0..ROWS {
        let at = of.at(y[row], scores[row]);
        (loss[row], slope[row], curvature[row], bend[row]) = (at.loss, at.slope, at.curvature, at.bend);
    }
    for row in 0..ROWS {
        let by = weight[row];
        let own = [share * by * slope[row], share * by * curvature[row].max(L::FLAT)];
        sums[0][row] += by * loss[row];
        sums[1][row] += by * slope[row] * scores[row];
        sums[2][row] += by * bend[row];
        sums[3][row] += by * slope[row];
        sums[4][row] += own[1];
        bends[row] = own;
    }
    for row in 0..ROWS {
        let (by, inner) = (weight[row], slope[row] * scores[row]);
        sums[5][row] += by * slope[row].abs();
        sums[6][row] += by * (loss[row] - inner).max(0.0);
        sums[7][row] += by * inner.abs();
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss::{Hinge, Logistic, Squared, SquaredHinge};
    use super::*;

    fn check<L: Smooth>(of: L, rows: usize) {
        let targets: Vec<(f64, f64)> =
            (0..rows).map(|i| (if i % 3 == 0 { -1.0 } else { 1.0 }, (i % 4) as f64)).collect();
        let scores: Vec<f64> = (0..rows).map(|i| (i as f64 * 0.7).sin() * 4.0).collect();
        let (mut bends, share) = (vec![[9.0; 2]; rows], 0.25);
        let (sums, curvature) = bend(of, &targets, &scores, &mut bends, share);
        let (mut loss, mut slope, mut curved) = (0.0, 0.0, 0.0);
        for (((y, weight), z), own) in targets.iter().zip(&scores).zip(&bends) {
            let at = of.at(*y, *z);
            assert_eq!(*own, [share * weight * at.slope, share * weight * at.curvature.max(L::FLAT)]);
            (loss, slope, curved) = (loss + weight * at.loss, slope + weight * at.slope, curved + own[1]);
        }
        let sized = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs());
        assert!(sized(sums.loss, loss) && sized(sums.slope, slope) && sized(curvature, curved), "{rows} rows");
        let then: Vec<f64> = bends.iter().map(|[slope, _]| slope + 0.5).collect();
        assert!(sized(far(&then, &bends), 0.25 * rows as f64));
    }

    #[test]
    fn many_rows_bend_as_each_does_alone() {
        for rows in [0, 1, 63, 64, 65, 200] {
            check(Logistic, rows);
            check(SquaredHinge, rows);
            check(Squared, rows);
            check(Hinge::WIDE.smoothed(0.5), rows);
        }
    }
}
