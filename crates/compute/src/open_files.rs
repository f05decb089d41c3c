//! Local files held open, the last used ones.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use runtime::fs::OpenOptions;
use runtime::fs::blocking::File;

/// Open files by node.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    files_max: usize,
    open: BTreeMap<u64, (Rc<File>, u64)>,
    /// Node by the turn in which it was last used.
    by_turn: BTreeMap<u64, u64>,
    turn: u64,
}

impl OpenFiles {
    #[must_use]
    pub(crate) fn new(files_max: usize) -> OpenFiles {
        OpenFiles { files_max, open: BTreeMap::new(), by_turn: BTreeMap::new(), turn: 0 }
    }

    /// The file of a node; `None` if it has no local bytes yet.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn existing(&mut self, node: u64, path: &Path) -> io::Result<Option<Rc<File>>> {
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        match self.open(node, path, options) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file of a node, made if it has none.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn made(&mut self, node: u64, path: &Path) -> io::Result<Rc<File>> {
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        self.open(node, path, options)
    }

    /// Closes the file of a node that is gone.
    pub(crate) fn close(&mut self, node: u64) {
        if let Some((_file, turn)) = self.open.remove(&node) {
            self.by_turn.remove(&turn);
        }
    }

    fn open(&mut self, node: u64, path: &Path, options: OpenOptions) -> io::Result<Rc<File>> {
        self.turn += 1;
        let file = match self.open.remove(&node) {
            Some((file, turn)) => {
                self.by_turn.remove(&turn);
                file
            }
            None => Rc::new(File::open(path, options)?),
        };
        self.open.insert(node, (Rc::clone(&file), self.turn));
        self.by_turn.insert(self.turn, node);
        if self.open.len() > self.files_max
            && let Some((_turn, oldest)) = self.by_turn.pop_first()
        {
            self.open.remove(&oldest);
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_last_used_and_no_more() {
        let folder = std::env::temp_dir().join(format!("howdah-open-files-{}", std::process::id()));
        runtime::fs::blocking::create_dir_all(&folder).expect("a folder");
        let mut files = OpenFiles::new(2);
        assert!(files.existing(1, &folder.join("1")).expect("no error").is_none());
        for node in [1, 2, 1, 3] {
            files.made(node, &folder.join(node.to_string())).expect("it is made");
        }
        assert_eq!(files.open.keys().copied().collect::<Vec<_>>(), [1, 3]);
        files.close(1);
        assert_eq!((files.open.len(), files.by_turn.len()), (1, 1));
        runtime::fs::blocking::remove_dir_all(&folder).expect("it goes");
    }
}
