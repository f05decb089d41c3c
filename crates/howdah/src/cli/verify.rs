//! `howdah verify`: a stopped cluster's files against the page versions, block by block.

use pageserver::client::Client;
use pageserver::verify::{Difference, Progress, Report, VerifyError, verify};
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::json;

use super::VerifyOptions;
use super::page::refused;
use crate::api::client::Api;
use crate::error::{Error, Result, While};
use crate::output;

pub(super) fn run(options: &VerifyOptions, api: &Api) -> Result<()> {
    let service = api.page_service()?;
    let login = api.credentials.login(&service, &options.branch)?;
    let bar = output::progress(0, "verify", "blocks");
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.blocks_total);
        shown.set_position(progress.blocks_done);
    };
    let compare = async {
        let client = Client::log_in(&login).await?;
        verify(&options.data_dir, client, progress).await
    };
    let compared = block_on(&Options::default(), compare).or_fail("could not start an I/O loop")?;
    bar.finish_and_clear();
    let report = compared.map_err(|error| match is_on_mount(api) {
        true => failed(error).hint(
            "\"main\" lives in the page server; howdah restore makes a directory of it, which can be verified",
        ),
        false => failed(error),
    })?;
    if options.json {
        output::json(&json!(report));
    } else {
        show(&report);
    }
    if !report.is_identical() {
        return Err(Error::new(format!("{} differences", report.differences_found)));
    }
    if report.unsupported_blocks > 0 {
        return Err(Error::new(format!(
            "{} blocks could not be compared",
            report.unsupported_blocks
        )));
    }
    Ok(())
}

/// Whether `main` has no directory here that could be meant.
fn is_on_mount(api: &Api) -> bool {
    api.get("/v1/status").is_ok_and(|status| status["place"]["main"] == "mount")
}

fn failed(error: VerifyError) -> Error {
    match error {
        VerifyError::Client(error) => refused(error),
        VerifyError::Cluster(message) => {
            Error::new(message).hint("stop the server cleanly first; the page server must run")
        }
        VerifyError::File(error) => Error::new(error.to_string()),
    }
}

fn show(report: &Report) {
    output::line(format!("cluster {} as of {}", report.system_identifier, report.lsn));
    output::line(format!(
        "{} differences in {} blocks of {} forks",
        report.differences_found, report.blocks, report.forks
    ));
    list(&report.differences);
    if report.unsupported_blocks > 0 {
        output::line(format!(
            "{} blocks need a record that cannot be redone yet",
            report.unsupported_blocks
        ));
        list(&report.unsupported);
    }
    let passed_over = [
        (report.free_space_maps_skipped, "free space maps (not in the WAL)"),
        (report.unlogged_forks_skipped, "forks of unlogged relations"),
        (report.temporary_files_skipped, "temporary files"),
    ];
    for (count, what) in passed_over.into_iter().filter(|(count, _)| *count > 0) {
        output::line(format!("passed over: {count} {what}"));
    }
}

fn list(differences: &[Difference]) {
    for difference in differences {
        let block = difference.block.map_or_else(String::new, |block| format!(" block {block}"));
        output::line(format!("  {}{block}: {}", difference.relation, difference.what));
    }
}
