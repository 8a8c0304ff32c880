//! Braces in globs: `part-{1,2}.gz` stands for two patterns, as in Hadoop, where the `glob` crate knows none.
//!
//! Invariant: a pattern without a complete pair of braces comes back as it is.

/// Whether a path holds characters that make it a glob.
pub(super) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// All patterns that a pattern with braces stands for, in order.
pub(super) fn expand_braces(pattern: &str) -> Vec<String> {
    let Some((open, close)) = first_pair(pattern) else { return vec![pattern.to_owned()] };
    let (prefix, suffix) = (&pattern[..open], &pattern[close + 1..]);
    alternatives(&pattern[open + 1..close])
        .into_iter()
        .flat_map(|alternative| expand_braces(&format!("{prefix}{alternative}{suffix}")))
        .collect()
}

fn first_pair(pattern: &str) -> Option<(usize, usize)> {
    let open = pattern.find('{')?;
    let mut depth = 0;
    for (i, byte) in pattern.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return Some((open, i));
        }
    }
    None
}

/// Cuts at the commas that are in no inner pair.
fn alternatives(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (i, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(&inside[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(&inside[start..]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_each_alternative() {
        assert_eq!(expand_braces("a"), ["a"]);
        assert_eq!(expand_braces("a{1,2}b"), ["a1b", "a2b"]);
        assert_eq!(expand_braces("{a,b{1,2}}/{x,y}"), ["a/x", "a/y", "b1/x", "b1/y", "b2/x", "b2/y"]);
        assert_eq!(expand_braces("a{1,2"), ["a{1,2"]);
        assert_eq!(expand_braces("a}1,2"), ["a}1,2"]);
    }
}
