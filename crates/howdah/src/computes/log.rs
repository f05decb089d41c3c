//! A compute's log: a file that grows at its end, begun anew when it is long; one older is kept.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use runtime::fs::OpenOptions;
use runtime::fs::blocking::{self as fs, File};

use crate::error::{Result, While};
use crate::limits::{COMPUTE_LOG_BYTES_MAX, COMPUTE_LOG_LINES};

pub(super) struct Log {
    path: PathBuf,
    bytes_max: u64,
    /// The file and where it ends.
    open: RefCell<(File, u64)>,
}

impl Log {
    /// The file at `path`, made (mode 0600) if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::bounded(path, COMPUTE_LOG_BYTES_MAX)
    }

    fn bounded(path: &Path, bytes_max: u64) -> Result<Self> {
        let opened = at_end(path);
        let open = opened.or_fail(format_args!("could not open \"{}\"", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes_max, open: RefCell::new(open) })
    }

    /// Adds a line. A log that cannot be written is not the compute's fault.
    pub(super) fn write(&self, line: &str) {
        let line = format!("{line}\n");
        let mut open = self.open.borrow_mut();
        if open.1 > 0 && open.1 + line.len() as u64 > self.bytes_max {
            let older = self.path.with_extension("log.old");
            match fs::rename(&self.path, older).and_then(|()| at_end(&self.path)) {
                Ok(begun) => *open = begun,
                Err(error) => {
                    // What is lost is told of; a disk that fills up would lose more.
                    tracing::warn!(%error, log = %self.path.display(), "a compute's log cannot be begun anew");
                    open.1 = 0;
                }
            }
        }
        if open.0.write_all_at(line.as_bytes(), open.1).is_ok() {
            open.1 += line.len() as u64;
        }
    }
}

fn at_end(path: &Path) -> std::io::Result<(File, u64)> {
    let options =
        OpenOptions { write: true, create: true, mode: Some(0o600), ..OpenOptions::default() };
    let file = File::open(path, options)?;
    let end = file.len()?;
    Ok((file, end))
}

/// What a compute said last, in one line.
pub(super) fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(COMPUTE_LOG_LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grows_keeps_what_came_last_within_its_bound() {
        let folder = std::env::temp_dir().join(format!("howdah-log-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("it can be made");
        let path = folder.join("main.log");
        let log = Log::bounded(&path, 40).expect("it can be opened");
        for number in 0..10 {
            log.write(&format!("line number {number}"));
        }
        drop(log);
        let log = Log::bounded(&path, 40).expect("it can be opened again");
        log.write("another");
        let newer = fs::read_to_string(&path).expect("it is there");
        assert_eq!(newer, "line number 8\nline number 9\nanother\n");
        let older = fs::read_to_string(folder.join("main.log.old")).expect("one is kept");
        assert_eq!(older, "line number 6\nline number 7\n");
        assert_eq!(last_lines(&path), "line number 8; line number 9; another");
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
