//! `howdah restore`: a branch as of a moment as a data directory that a stock server starts on.

use pageserver::api::Moment;
use pageserver::basebackup::Progress;
use pageserver::restore::restore;
use pg::lsn::Lsn;
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::{from_value, json};

use super::RestoreOptions;
use super::page::refused;
use crate::api::client::{Api, escaped};
use crate::error::{Result, While};
use crate::output;

pub(super) fn run(options: &RestoreOptions, api: &Api) -> Result<()> {
    let service = match &options.server {
        Some(server) => server.clone(),
        None => api.page_service()?,
    };
    let database = match lsn(options, api)? {
        Some(lsn) => format!("{}@{lsn}", options.branch),
        None => options.branch.clone(),
    };
    let login = api.credentials.login(&service, &database)?;
    let bar = output::progress(0, "restore", "KiB");
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.bytes_total.max(progress.bytes_done) / 1024);
        shown.set_position(progress.bytes_done / 1024);
    };
    let restored = block_on(&Options::default(), restore(&login, &options.target, progress));
    let restored = restored.or_fail("could not start an I/O loop")?.map_err(refused)?;
    bar.finish_and_clear();
    let target = options.target.display();
    if options.json {
        let tablespaces: Vec<_> = restored
            .tablespaces
            .iter()
            .map(|(oid, path)| json!({ "oid": oid, "directory": path }))
            .collect();
        output::json(&json!({
            "target": options.target,
            "branch": options.branch,
            "lsn": restored.lsn.to_string(),
            "timeline": restored.timeline,
            "files": restored.files,
            "bytes": restored.bytes,
            "tablespaces": tablespaces,
        }));
    } else {
        let (files, mebibytes) = (restored.files, restored.bytes >> 20);
        let (branch, lsn) = (&options.branch, restored.lsn);
        output::line(format!("restored {branch} as of {lsn}: {files} files, {mebibytes} MiB"));
        for (oid, path) in &restored.tablespaces {
            output::line(format!("tablespace {oid} is in {}", path.display()));
        }
        output::line(format!("start it with: pg_ctl -D {target} start"));
    }
    Ok(())
}

/// The LSN of the moment that is asked for; nothing for now.
fn lsn(options: &RestoreOptions, api: &Api) -> Result<Option<Lsn>> {
    let Some(at) = &options.at else { return Ok(options.lsn) };
    if let Ok(lsn) = at.parse() {
        return Ok(Some(lsn));
    }
    let query = format!("branch={}&at={}", escaped(&options.branch), escaped(at));
    let moment: Moment = from_value(api.get(&format!("/v1/lsn-at?{query}"))?)
        .or_fail("unexpected answer of the API")?;
    moment.note.iter().for_each(|note| output::note(format!("howdah: warning: {note}")));
    Ok(Some(moment.lsn.parse().or_fail("unexpected answer of the API")?))
}
