//! `howdah wal verify`: every record redone and compared with what Postgres says that it made of the page.

use std::collections::BTreeSet;
use std::path::Path;

use pg::datadir::control::ControlFile;
use pg::replay::{Comparison, Replay, Tally};
use pg::state::StateCounts;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RecordKind;
use pg::wal::segment::WalVersion;
use runtime::clock;
use runtime::fs::blocking as fs;
use serde_json::{Value, json};

use super::segments::{self, Segment};
use crate::cli::WalVerifyOptions;
use crate::error::{Error, Result, While};
use crate::output;

/// Differences that are printed; all are counted.
pub(super) const DIFFERENCES_SHOWN: usize = 100;
/// What of a data directory is compared and loaded.
const FOLDERS: [&str; 9] = [
    "global",
    "base",
    "pg_tblspc",
    "pg_xact",
    "pg_commit_ts",
    "pg_multixact/offsets",
    "pg_multixact/members",
    "pg_twophase",
    "pg_logical",
];

/// Prints what was found.
///
/// # Errors
/// When anything differs, too: so that scripts see it.
pub(in crate::cli) fn run(options: &WalVerifyOptions) -> Result<()> {
    let started = clock::precise();
    let (replay, read) = replay(options)?;
    let seconds = clock::precise().saturating_duration_since(started).as_secs_f64();
    let total = replay.tallies.values().fold(Tally::default(), |mut total, tally| {
        total.add(tally);
        total
    });
    let compared =
        options.against.as_deref().map(|against| compare(&replay, against)).transpose()?;
    if options.json {
        output::json(&as_json(&replay, &read, &total, compared.as_ref()));
    } else {
        show(&replay, &read, &total, seconds);
        if let Some(compared) = &compared {
            show_comparison(compared);
        }
    }
    let different =
        compared.map_or(0, |compared| compared.kinds.values().map(|(_, found)| found).sum());
    match (total.mismatched, different) {
        (0, 0) => Ok(()),
        (0, different) => Err(Error::new(format!("{different} differences from the cluster"))),
        (mismatched, _) => {
            Err(Error::new(format!("{mismatched} blocks are not what Postgres made")))
        }
    }
}

/// What was read.
struct Read {
    version: WalVersion,
    bytes: u64,
    end: String,
}

fn replay(options: &WalVerifyOptions) -> Result<(Replay, Read)> {
    let files = segments::in_directory(&options.directory)?;
    let mut start = None;
    let mut replay = match &options.base {
        None => Replay::from_nothing(),
        Some(base) => {
            let control = control(base)?;
            start = Some(control.checkpoint.redo);
            let mut replay = Replay::from_base(&control);
            for_each_file(base, |path, bytes| {
                replay.load(path, bytes);
                check_memory(&replay, options.max_memory)
            })?;
            replay
        }
    };
    let bar = output::progress(files.len() as u64, "redo", "segments");
    let mut reader: Option<(StreamDecoder, WalVersion)> = None;
    let mut read = 0;
    let mut ended = None;
    for path in &files {
        bar.inc(1);
        let segment = segments::read(path)?;
        let Segment { name, bytes_max, header, bytes } = &segment;
        let end_of_segment = name.start() + u64::from(*bytes_max);
        if start.is_some_and(|start| start >= end_of_segment) {
            continue;
        }
        let mut input = bytes.as_slice();
        let follows = reader.as_ref().is_some_and(|(reader, _)| reader.position() == name.start());
        if !follows {
            if reader.is_some() {
                let shown = path.display();
                return Err(Error::new(format!("WAL is missing before \"{shown}\"")));
            }
            let decoder = match start {
                Some(start) if start < name.start() => {
                    return Err(Error::new(format!("the WAL from {start} on is not there"))
                        .detail(format!("it begins with \"{}\"", path.display())));
                }
                Some(start) => {
                    let skipped = usize::try_from(start.bytes_since(name.start())).unwrap_or(0);
                    input = input.get(skipped..).unwrap_or_default();
                    StreamDecoder::at_record(start, *bytes_max).assume_version(header.version)
                }
                None => StreamDecoder::resync(name.start(), *bytes_max),
            };
            reader = Some((decoder, header.version));
        }
        let Some((decoder, _)) = &mut reader else { continue };
        read += input.len() as u64;
        check_memory(&replay, options.max_memory)?;
        if let Some(end) = feed(decoder, &mut replay, input)? {
            ended = Some(end);
            break;
        }
    }
    bar.finish_and_clear();
    let (decoder, version) = reader.ok_or_else(|| {
        Error::new("no WAL is newer than the base").hint("name the WAL that was written after it")
    })?;
    let end = ended.unwrap_or_else(|| format!("{}: no more segments", decoder.end()));
    Ok((replay, Read { version, bytes: read, end }))
}

/// Pages are never put aside: a cluster that is larger is not what this command is for.
fn check_memory(replay: &Replay, megabytes_max: u64) -> Result<()> {
    let megabytes = (replay.replica.pages.bytes() >> 20) as u64;
    if megabytes <= megabytes_max {
        return Ok(());
    }
    Err(Error::new(format!(
        "the pages of this cluster take more than {megabytes_max} MB of memory"
    ))
    .detail("All pages that the WAL or the base has are held at once.")
    .hint("allow more with --max-memory, or verify the WAL of a smaller cluster"))
}

/// Takes a segment's bytes; answers why the WAL ends inside it, if it does.
fn feed(
    decoder: &mut StreamDecoder,
    replay: &mut Replay,
    mut input: &[u8],
) -> Result<Option<String>> {
    loop {
        match decoder.next(&mut input) {
            Ok(Some(raw)) => {
                let record = raw.decode().or_fail("could not decode a record")?;
                replay.apply(&record).or_fail("could not redo a record")?;
            }
            Ok(None) => return Ok(None),
            Err(error) if error.is_end_of_wal() => {
                return Ok(Some(format!("{}: {error}", decoder.end())));
            }
            Err(error) => return Err(Error::new(error.to_string())),
        }
    }
}

pub(super) fn control(data: &Path) -> Result<ControlFile> {
    let path = data.join("global/pg_control");
    let shown = path.display();
    let bytes = fs::read(&path).or_fail(format_args!("could not read \"{shown}\""))?;
    ControlFile::parse(&bytes).or_fail(format_args!("\"{shown}\""))
}

/// Hands over every file that matters, by its path relative to `data`.
pub(super) fn for_each_file(
    data: &Path,
    mut each: impl FnMut(&str, Vec<u8>) -> Result<()>,
) -> Result<()> {
    for folder in FOLDERS {
        for path in files_below(data, folder)? {
            let full = data.join(&path);
            let bytes = fs::read(&full);
            let bytes = bytes.or_fail(format_args!("could not read \"{}\"", full.display()))?;
            each(&path, bytes)?;
        }
    }
    Ok(())
}

/// Paths of the files below a folder of the data directory; links to tablespaces are followed.
fn files_below(data: &Path, folder: &str) -> Result<Vec<String>> {
    let full = data.join(folder);
    if !fs::exists(&full) {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&full);
    let entries = entries.or_fail(format_args!("could not list \"{}\"", full.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let Some(name) = entry.name.to_str() else { continue };
        let path = format!("{folder}/{name}");
        let is_folder = entry.is_dir || fs::read_dir(data.join(&path)).is_ok();
        if is_folder {
            found.extend(files_below(data, &path)?);
        } else {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn compare(replay: &Replay, against: &Path) -> Result<StateCounts> {
    let mut paths = Vec::new();
    for folder in FOLDERS {
        paths.extend(files_below(against, folder)?);
    }
    let mut comparison = Comparison::new(&replay.replica, paths.iter().map(String::as_str));
    let bar = output::progress(paths.len() as u64, "compare", "files");
    for path in &paths {
        bar.inc(1);
        let full = against.join(path);
        let bytes = fs::read(&full);
        let bytes = bytes.or_fail(format_args!("could not read \"{}\"", full.display()))?;
        comparison.file(path, &bytes);
    }
    bar.finish_and_clear();
    Ok(comparison.finish())
}

fn show(replay: &Replay, read: &Read, total: &Tally, seconds: f64) {
    output::line(format!(
        "{:<36} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "kind", "records", "checked", "restored", "unjudged", "first", "wrong"
    ));
    let row = |name: &str, tally: &Tally| {
        let Tally { records, checked, restored, unjudged, first_seen, mismatched, .. } = *tally;
        output::line(format!(
            "{name:<36} {records:>9} {checked:>9} {restored:>9} {unjudged:>9} {first_seen:>9} {mismatched:>9}"
        ));
    };
    for (kind, tally) in &replay.tallies {
        row(&kind.to_string(), tally);
    }
    row("all", total);
    let unseen = unseen(replay, read.version);
    output::line(format!(
        "{} of the {} kinds of PostgreSQL {} are in this WAL",
        RecordKind::all(read.version).len() - unseen.len(),
        RecordKind::all(read.version).len(),
        read.version.major()
    ));
    let megabytes = read.bytes as f64 / 1e6;
    output::line(format!(
        "{megabytes:.0} MB up to {}, {:.0} MB/s, {:.0} records/s",
        read.end,
        megabytes / seconds,
        total.records as f64 / seconds
    ));
    for complaint in &replay.complaints {
        let pg::replay::Complaint { lsn, kind, block_id, tag, block, what } = complaint;
        output::line(format!("{lsn} {kind} #{block_id} {tag} block {block}: {what}"));
    }
}

fn show_comparison(compared: &StateCounts) {
    for (kind, (compared, different)) in &compared.kinds {
        output::line(format!("{kind}: {compared} compared, {different} differ"));
    }
    compared.differences.iter().take(DIFFERENCES_SHOWN).for_each(output::line);
}

/// Kinds of this major that the WAL has no record of.
fn unseen(replay: &Replay, version: WalVersion) -> Vec<String> {
    let seen: BTreeSet<String> = replay.tallies.keys().map(RecordKind::to_string).collect();
    let all = RecordKind::all(version).into_iter().map(|kind| kind.to_string());
    all.filter(|kind| !seen.contains(kind)).collect()
}

fn as_json(replay: &Replay, read: &Read, total: &Tally, compared: Option<&StateCounts>) -> Value {
    let tally = |tally: &Tally| {
        let Tally { records, blocks, checked, mismatched, restored, .. } = *tally;
        let Tally { unjudged, first_seen, unsupported, .. } = *tally;
        json!({
            "records": records, "blocks": blocks, "checked": checked, "mismatched": mismatched,
            "restored": restored, "unjudged": unjudged, "first_seen": first_seen,
            "unsupported": unsupported,
        })
    };
    let kinds: serde_json::Map<String, Value> =
        replay.tallies.iter().map(|(kind, counts)| (kind.to_string(), tally(counts))).collect();
    let complaints: Vec<Value> = replay
        .complaints
        .iter()
        .map(|complaint| {
            let pg::replay::Complaint { lsn, kind, block_id, tag, block, what } = complaint;
            json!({
                "lsn": lsn.to_string(), "kind": kind.to_string(), "block_ref": block_id,
                "rel": tag.to_string(), "block": block, "what": what,
            })
        })
        .collect();
    let cluster = compared.map(comparison_as_json);
    json!({
        "version": read.version.major(),
        "bytes": read.bytes,
        "end": read.end,
        "total": tally(total),
        "kinds": kinds,
        "unseen": unseen(replay, read.version),
        "complaints": complaints,
        "cluster": cluster,
    })
}

/// What was compared with a stopped cluster.
pub(super) fn comparison_as_json(compared: &StateCounts) -> Value {
    let counts: serde_json::Map<String, Value> = compared
        .kinds
        .iter()
        .map(|(kind, (compared, different))| {
            ((*kind).to_owned(), json!({ "compared": compared, "different": different }))
        })
        .collect();
    let shown = compared.differences.len().min(DIFFERENCES_SHOWN);
    json!({ "counts": counts, "differences": compared.differences.get(..shown) })
}
