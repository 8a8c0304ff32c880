//! Files whose block lists are at hand.
//!
//! Invariant: a block list is given out for the version of a file that it is of, never for another one by the same name.

use super::cluster::Patience;
use crate::error::{Error, Result};
use crate::storage::length_changed;
use std::collections::VecDeque;
use std::sync::Arc;

/// Files whose block lists are kept: a file of many blocks would else send its whole list for each split.
const OPEN_FILES: usize = 32;

/// A file as it was listed. What takes its place has another length or time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// Path in the cluster.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Milliseconds since 1970; 0 when unknown.
    pub modified: u64,
}

impl Version {
    /// An error unless the file at `url`, now of `len` bytes and last modified at `modified`, is this one.
    pub fn check(&self, url: &str, len: u64, modified: u64) -> Result<()> {
        if len != self.len {
            return Err(length_changed(url, self.len, len));
        }
        if modified != self.modified {
            return Err(Error::user(format!(
                "{url}: the file changed: it was last modified at {} when it was listed and at {modified} now (ms since \
                 1970); run again when nobody writes to it any more",
                self.modified
            )));
        }
        Ok(())
    }
}

/// Block lists, the latest first.
pub(super) struct Opened<R>(VecDeque<OpenFile<R>>);

/// A file's block list, as a client with some patience got it.
struct OpenFile<R> {
    version: Version,
    reader: Arc<R>,
    patience: Patience,
    /// Whether it met a hung DataNode: then it knows that one, and never asks it again.
    warned: bool,
}

impl<R> Default for Opened<R> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<R> Opened<R> {
    /// The block list of `version`. While a DataNode is `hung`, none whose reader would wait for it at length.
    pub fn find(&self, version: &Version, hung: bool) -> Option<Arc<R>> {
        let known = self.0.iter().find(|file| file.version == *version)?;
        let useful = !hung || known.warned || known.patience != Patience::Quick;
        useful.then(|| known.reader.clone())
    }

    /// Keeps a block list in place of what there is of that path.
    pub fn keep(&mut self, version: Version, reader: Arc<R>, patience: Patience) {
        self.0.retain(|file| file.version.path != version.path);
        self.0.truncate(OPEN_FILES - 1);
        self.0.push_front(OpenFile { version, reader, patience, warned: false });
    }

    /// Notes that reading `version` met a hung DataNode.
    pub fn warn(&mut self, version: &Version) {
        if let Some(file) = self.0.iter_mut().find(|file| file.version == *version) {
            file.warned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    fn version(path: &str, len: u64, modified: u64) -> Version {
        Version { path: path.to_owned(), len, modified }
    }

    #[test]
    fn a_block_list_is_that_of_one_version_of_a_file() {
        let (old, longer, later) = (version("/f", 5, 70), version("/f", 6, 70), version("/f", 5, 71));
        let mut files = Opened::default();
        files.keep(old.clone(), Arc::new("old"), Patience::Quick);
        files.keep(version("/g", 5, 70), Arc::new("other"), Patience::Quick);
        assert_eq!(files.find(&old, false).as_deref(), Some(&"old"));
        assert_eq!((files.find(&longer, false), files.find(&later, false)), (None, None));
        files.keep(later.clone(), Arc::new("later"), Patience::Quick);
        assert_eq!((files.find(&old, false), files.find(&later, false).as_deref()), (None, Some(&"later")));
        for i in 0..OPEN_FILES as u64 {
            files.keep(version(&format!("/{i}"), i, 0), Arc::new("more"), Patience::Quick);
        }
        assert_eq!((files.find(&later, false), files.0.len()), (None, OPEN_FILES));
    }

    #[test]
    fn while_a_data_node_hangs_only_those_that_know_it_are_given_out() {
        let (file, mut files) = (version("/f", 5, 70), Opened::default());
        files.keep(file.clone(), Arc::new(()), Patience::Quick);
        assert!(files.find(&file, true).is_none());
        files.warn(&version("/f", 5, 71));
        assert!(files.find(&file, true).is_none());
        files.warn(&file);
        assert!(files.find(&file, true).is_some());
    }

    #[test]
    fn a_file_that_is_another_one_by_now_is_an_error_that_says_how() {
        let listed = version("/f", 5, 70);
        listed.check("hdfs://h/f", 5, 70).unwrap();
        let error = listed.check("hdfs://h/f", 6, 71).unwrap_err();
        assert!(error.message.contains("had 5 bytes when it was listed and has 6 now"), "{error}");
        let error = listed.check("hdfs://h/f", 5, 71).unwrap_err();
        assert!(
            error.fault == Fault::User && error.message.contains("at 70 when it was listed and at 71 now"),
            "{error}"
        );
    }
}
