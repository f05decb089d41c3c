//! `howdah wal state`: what a cluster keeps beside pages, followed by its WAL alone, against the stopped cluster's files.

use std::path::Path;

use pg::state::{State, StateCounts};
use pg::wal::reader::StreamDecoder;
use runtime::fs::blocking as fs;
use serde_json::{Value, json};

use super::segments;
use super::verify::{control, for_each_file};
use crate::cli::WalStateOptions;
use crate::error::{Error, Result, While};
use crate::output;

/// Differences that are printed; all are counted.
const DIFFERENCES_SHOWN: usize = 100;
/// Compared besides the files that hold pages and state.
const CONTROL: &str = "global/pg_control";

/// Prints what was compared.
///
/// # Errors
/// When anything differs, too: so that scripts see it.
pub(in crate::cli) fn run(options: &WalStateOptions) -> Result<()> {
    let (state, records) = follow(options)?;
    let counts = compare(&state, &options.against)?;
    if options.json {
        output::json(&as_json(&counts, records));
    } else {
        output::line(format!("{records} records"));
        for (kind, (compared, different)) in &counts.kinds {
            output::line(format!("{kind}: {compared} compared, {different} differ"));
        }
        counts.differences.iter().take(DIFFERENCES_SHOWN).for_each(output::line);
    }
    match counts.differences.len() {
        0 => Ok(()),
        found => Err(Error::new(format!("{found} differences from the cluster"))),
    }
}

/// The state at the end of the WAL, and how many records led to it.
fn follow(options: &WalStateOptions) -> Result<(State, u64)> {
    let control = control(&options.base)?;
    let mut state = State::new(&control);
    for_each_file(&options.base, |path, bytes| state.load(path, bytes))?;
    let start = control.checkpoint.redo;
    let mut decoder = StreamDecoder::at_record(start, control.segment_bytes)
        .expect_system(control.system_identifier)
        .assume_version(control.version);
    let files = segments::in_directory(&options.directory)?;
    let bar = output::progress(files.len() as u64, "read", "segments");
    let mut records = 0;
    for path in &files {
        bar.inc(1);
        let segment = segments::read(path)?;
        let next = decoder.position();
        let from = segment.name.start();
        if next >= from + u64::from(segment.bytes_max) {
            continue;
        }
        if next < from {
            return Err(Error::new(format!("the WAL from {next} on is not there"))
                .detail(format!("\"{}\" begins at {from}", path.display())));
        }
        let skipped = usize::try_from(next.bytes_since(from)).unwrap_or(0);
        let mut input = segment.bytes.get(skipped..).unwrap_or_default();
        loop {
            match decoder.next(&mut input) {
                Ok(Some(raw)) => {
                    let record = raw.decode().or_fail("could not decode a record")?;
                    state.apply(&record).or_fail("could not follow a record")?;
                    records += 1;
                }
                Ok(None) => break,
                Err(error) if error.is_end_of_wal() => {
                    bar.finish_and_clear();
                    return Ok((state, records));
                }
                Err(error) => return Err(Error::new(error.to_string())),
            }
        }
    }
    bar.finish_and_clear();
    Ok((state, records))
}

fn compare(state: &State, against: &Path) -> Result<StateCounts> {
    let mut files = Vec::new();
    for_each_file(against, |path, bytes| files.push((path.to_owned(), bytes.to_owned())))?;
    if !files.iter().any(|(path, _)| path == CONTROL) {
        let path = against.join(CONTROL);
        let bytes =
            fs::read(&path).or_fail(format_args!("could not read \"{}\"", path.display()))?;
        files.push((CONTROL.to_owned(), bytes));
    }
    Ok(state.compare(files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))))
}

fn as_json(counts: &StateCounts, records: u64) -> Value {
    let kinds: serde_json::Map<String, Value> = counts
        .kinds
        .iter()
        .map(|(kind, (compared, different))| {
            ((*kind).to_owned(), json!({ "compared": compared, "different": different }))
        })
        .collect();
    let shown = counts.differences.len().min(DIFFERENCES_SHOWN);
    json!({
        "records": records,
        "kinds": kinds,
        "differences": counts.differences.get(..shown),
    })
}
