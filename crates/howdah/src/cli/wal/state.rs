//! `howdah wal state`: what a cluster keeps beside pages, followed by its WAL alone, against the stopped cluster's files.

use std::path::Path;

use pg::state::{State, StateComparison, StateCounts};
use pg::wal::reader::StreamDecoder;
use serde_json::Value;

use super::segments;
use super::verify::{DIFFERENCES_SHOWN, comparison_as_json, control, for_each_file};
use crate::cli::WalStateOptions;
use crate::error::{Error, Result, While};
use crate::output;

/// Prints what was compared.
///
/// # Errors
/// When anything differs, too: so that scripts see it.
pub(in crate::cli) fn run(options: &WalStateOptions) -> Result<()> {
    let (state, records) = follow(options)?;
    let counts = compare(&state, &options.against)?;
    if options.json {
        let Value::Object(mut answer) = comparison_as_json(&counts) else { return Ok(()) };
        answer.insert("records".to_owned(), records.into());
        output::json(&Value::Object(answer));
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
    for_each_file(&options.base, |path, bytes| {
        state.load(path, &bytes);
        Ok(())
    })?;
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
    let mut comparison = StateComparison::new(state);
    for_each_file(against, |path, bytes| {
        comparison.file(path, &bytes);
        Ok(())
    })?;
    Ok(comparison.finish())
}
