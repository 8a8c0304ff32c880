//! Remarks for the user.

/// Adds remarks to others, each once: several files, slaves or openings of a job come to the same.
pub fn note(notes: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for note in more {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
}
