//! Whether the ascent is to be given up for another solver that could go on: how many epochs are still to come, by how the gap
//! fell from certificate to certificate.
//!
//! Columns that are much alike, such as those of few factors, leave the ascent ways along which hardly anything changes from one
//! epoch to the next; no fact of the rows tells. Invariants: without another solver nothing here changes a number; what is decided
//! depends on gaps and numbers of epochs alone, never on the clock.

use flexps_common::plan::Progress;

/// The scalar that says how many epochs the other solver is worth, if there is one.
pub const OTHER: &str = "other_epochs";
/// Whether the ascent is but tried.
pub const TRIED: &str = "ascent_is_tried";
/// Behind the ascent: whether it was given up.
pub const GIVEN_UP: &str = "ascent_given_up";

/// Certificates that are closer, by the epochs until each, tell too little of how the gap falls.
const SPACED: f64 = 1.2;
/// It goes too slowly where it would take so many times the epochs that are left.
const HOPELESS: f64 = 3.0;
/// ... by so many certificates in a row, the last of them behind so many epochs.
const AGREED: f64 = 2.0;
const SURE: f64 = 20.0;

/// When no epochs are left, a gap of so many tolerances is no end.
const FAR: f64 = 10.0;

/// Before the first epoch of a problem.
pub fn begin(progress: &mut Progress) {
    for name in ["paced_from", "paced_to", "slow", GIVEN_UP] {
        progress.set(name, 0.0);
    }
    progress.set("paced_objective", f64::INFINITY);
    progress.set("paced_dual", f64::NEG_INFINITY);
}

/// Behind a certificate, after `ended` of so many `epochs`: why the ascent is to be given up, if it is, by the gap as a part of the
/// objective and by that. What counts is how far the least objective so far is from the largest dual one: far from the optimum the
/// gap is all of the objective, and while the dual objective only grows, the other one leaps by several times on the way.
pub fn judge(
    progress: &mut Progress,
    (ended, epochs): (f64, f64),
    (gap, objective): (f64, f64),
    tolerance: f64,
) -> Option<String> {
    let (from, to) = (progress.scalar("paced_from", 0.0), progress.scalar("paced_to", 0.0));
    let (other, last) = (progress.scalar(OTHER, f64::INFINITY), ended >= epochs);
    if other.is_infinite() || tolerance <= 0.0 {
        return None;
    }
    let dual = progress.scalar("paced_dual", f64::NEG_INFINITY).max(objective - gap * objective);
    let objective = progress.scalar("paced_objective", f64::INFINITY).min(objective);
    progress.set("paced_dual", dual);
    progress.set("paced_objective", objective);
    if ended < SPACED * to && !last {
        return None;
    }
    let apart = objective - dual;
    let gap = apart / objective.max(f64::MIN_POSITIVE);
    let [from_apart, to_apart] = ["paced_from_gap", "paced_to_gap"].map(|name| progress.scalar(name, apart));
    let (since, falls) = if from > 0.0 { (from, from_apart / apart) } else { (to, to_apart / apart) };
    let (tried, left) = (progress.scalar(TRIED, 0.0) > 0.0, left(ended - since, falls, gap / tolerance));
    // At the end the other is all that there is.
    let far = last && gap > FAR * tolerance;
    let slow = since > 0.0 && (far || left > other && (tried || left > HOPELESS * (epochs - ended)));
    let agreed = if slow { progress.scalar("slow", 0.0) + 1.0 } else { 0.0 };
    let (from, from_apart) = if to > 0.0 { (to, to_apart) } else { (ended, apart) };
    let now = [("paced_from", from), ("paced_from_gap", from_apart), ("paced_to", ended), ("paced_to_gap", apart)];
    now.into_iter().chain([("slow", agreed)]).for_each(|(name, value)| progress.set(name, value));
    if !slow || !(tried || last || agreed >= AGREED && ended >= SURE) {
        return None;
    }
    progress.set(GIVEN_UP, 1.0);
    let more = if left < 1e6 { format!("about {left:.0} more epochs") } else { "epochs without end".to_owned() };
    let why = format!("after {ended} epochs a duality gap of {gap:.2e} was left, which would have taken {more}");
    progress.notes.push(format!("solver changed to newton: {why}"));
    Some(why)
}

/// Epochs to come where the gap became `falls` times less in so many, and is `tolerances` times what is asked for.
fn left(epochs: f64, falls: f64, tolerances: f64) -> f64 {
    if falls > 1.0 { tolerances.max(1.0).ln() * epochs / falls.ln() } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many epochs the ascent is given up whose gap is `gap` behind each, of 100, where the objective is 1.
    fn given_up(others: &[(&str, f64)], gap: impl Fn(f64) -> f64) -> Option<f64> {
        given_up_of(others, |ended| (gap(ended), 1.0))
    }

    fn given_up_of(others: &[(&str, f64)], gap: impl Fn(f64) -> (f64, f64)) -> Option<f64> {
        let mut progress = Progress::default();
        others.iter().for_each(|(name, value)| progress.set(name, *value));
        begin(&mut progress);
        let (mut ended, mut due) = (0.0, 10.0);
        while ended < 100.0 {
            ended += 1.0;
            if ended < due && ended < 100.0 {
                continue;
            }
            due = 1.25 * ended;
            let now = gap(ended);
            if now.0 <= 1e-4 {
                return None;
            }
            if judge(&mut progress, (ended, 100.0), now, 1e-4).is_some() {
                assert_eq!(progress.scalar(GIVEN_UP, 0.0), 1.0);
                return Some(ended);
            }
        }
        assert_eq!(progress.scalar(GIVEN_UP, 0.0), 0.0);
        None
    }

    #[test]
    fn the_ascent_is_given_up_where_its_gap_hardly_falls_and_another_solver_costs_less() {
        let slow = |ended: f64| 0.5 * 0.995f64.powf(ended);
        assert_eq!(given_up(&[(OTHER, 50.0)], slow), Some(22.0));
        assert_eq!(given_up(&[], slow), None, "there is no other");
        // The other would take longer still, but when no epochs are left it goes on all the same.
        assert_eq!(given_up(&[(OTHER, 1e5)], slow), Some(100.0));
        assert_eq!(given_up(&[(OTHER, 50.0)], |ended| 0.5 * ended), Some(22.0), "a gap that grows");
        // Nearly there: what is left at the end is less than the other would take, or more.
        let near = |ended: f64| 0.5 * 0.93f64.powf(ended);
        assert_eq!((given_up(&[(OTHER, 50.0)], near), given_up(&[(OTHER, 5.0)], near)), (None, Some(100.0)));
    }

    #[test]
    fn an_ascent_that_gets_there_is_left_alone() {
        assert_eq!(given_up(&[(OTHER, 1.0)], |ended| 0.5 * 0.9f64.powf(ended)), None);
        // One that begins slowly, and one whose objective leaps now and then, the dual one never falling.
        assert_eq!(given_up(&[(OTHER, 1.0)], |ended| 0.5 * 0.5f64.powf((ended - 16.0).max(0.0))), None);
        let leaps = |ended: f64| {
            let objective =
                if matches!(ended as u64, 17 | 22 | 35 | 44) { 8.0 } else { 1.0 + 0.5 * 0.9f64.powf(ended) };
            (1.0 - (1.0 - 0.5 * 0.9f64.powf(ended)) / objective, objective)
        };
        assert_eq!(given_up_of(&[(OTHER, 80.0)], leaps), None);
    }

    #[test]
    fn far_from_the_optimum_it_tells_how_the_objective_falls() {
        // The squared hinge on rows of very different norm: the gap is all of an objective that falls fast.
        let falls = |ended: f64| 4.0 * 0.75f64.powf(ended);
        let case = |ended: f64| (falls(ended) / (0.005 + falls(ended)), 0.005 + falls(ended));
        assert!(case(22.0).0 > 0.5);
        assert_eq!(given_up_of(&[(OTHER, 1.0)], case), None);
        assert_eq!(given_up_of(&[(OTHER, 40.0), (TRIED, 1.0)], case), None);
    }

    #[test]
    fn an_ascent_that_is_tried_ends_as_soon_as_the_other_promises_more() {
        let steady = |ended: f64| 0.5 * 0.9f64.powf(ended);
        assert_eq!(given_up(&[(OTHER, 50.0), (TRIED, 1.0)], steady), Some(13.0));
        assert_eq!(given_up(&[(OTHER, 100.0), (TRIED, 1.0)], steady), None);
    }
}
