//! `howdah import`: what can be said to it, and what it says.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;

use crate::config::environment::Environment;
use crate::error::{Result, While};
use crate::import::checks::{Finding, Grade};
use crate::import::{self, Imported, Options, Outcome};
use crate::output;

#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    /// The cluster's primary: a URI or key=value pairs, as libpq reads them
    #[arg(long, value_name = "CONNINFO")]
    pub from: String,
    /// Folder to make, or to go on with
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Physical replication slot to make on the primary
    #[arg(long, default_value = "howdah", value_name = "NAME")]
    pub slot: String,
    /// Look at the server only, and make nothing
    #[arg(long)]
    pub check: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) const EXAMPLE: &str = "Example:
  howdah import --from postgres://replicator@db.example.com/postgres --dir /srv/shop --check
  howdah import --from postgres://replicator@db.example.com/postgres --dir /srv/shop
  howdah node --config /srv/shop/howdah.toml

The user needs the attribute REPLICATION, and pg_hba.conf must let it in for \"replication\".
Nothing is done to the server but making the slot and taking a base backup.
Killed, the same command goes on.
PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE and PGSSLROOTCERT say what is missing in the
connection string.";

pub(super) fn run(options: &ImportOptions, environment: &Environment) -> Result<()> {
    let directory =
        std::path::absolute(&options.dir).or_fail(format_args!("\"{}\"", options.dir.display()))?;
    let wanted = Options {
        from: options.from.clone(),
        directory,
        slot: options.slot.clone(),
        check: options.check,
    };
    let imported = import::run(&wanted, environment, |finding| {
        if !options.json || finding.grade == Grade::Bad {
            tell(finding);
        }
    })?;
    if options.json {
        output::json(&as_json(&imported, &wanted.directory));
        return Ok(());
    }
    match &imported.outcome {
        None => output::line("the server can be imported"),
        Some(outcome) => output::line(text(&imported, outcome)),
    }
    Ok(())
}

/// To standard error: what was found is no result.
fn tell(finding: &Finding) {
    let grade = match finding.grade {
        Grade::Good => "ok",
        Grade::Note => "note",
        Grade::Bad => "bad",
    };
    output::note(format!("{grade:<5} {:<20} {}", finding.what, finding.text));
    if let Some(hint) = &finding.hint {
        output::note(format!("      {:<20} hint: {hint}", ""));
    }
}

fn text(imported: &Imported, outcome: &Outcome) -> String {
    let status = &outcome.status;
    let at = status.ingested_lsn.as_deref().unwrap_or("nothing");
    let mebibytes = status.layer_bytes >> 20;
    let config = imported.config.display();
    let slot = &imported.origin.slot;
    let mut lines = vec![
        format!(
            "imported PostgreSQL {}, system {}, up to {at}: {} layers, {mebibytes} MiB",
            imported.found.version, imported.found.system_identifier, status.layers
        ),
        "Next:".to_owned(),
        format!(
            "  howdah node --config {config}    # follows on; until then slot \"{slot}\" keeps the WAL"
        ),
        "  howdah branch create try".to_owned(),
        "  howdah compute start try".to_owned(),
    ];
    if imported.with_pooler {
        let (user, database) = (&imported.origin.user, &imported.origin.database);
        lines.push(format!("  psql -h 127.0.0.1 -p 6432 -U {user} {database}@try"));
    }
    lines.push(
        "To cut over, or to leave again: docs/operating.md, \"An existing cluster\".".to_owned(),
    );
    lines.join("\n")
}

fn as_json(imported: &Imported, directory: &Path) -> serde_json::Value {
    let mut value = json!({
        "server": imported.origin.server,
        "slot": imported.origin.slot,
        "version": imported.found.version,
        "system_identifier": imported.found.system_identifier.to_string(),
        "data_checksums": imported.found.data_checksums,
        "checks": imported.findings,
        "imported": imported.outcome.is_some(),
    });
    if let (Some(outcome), Some(object)) = (&imported.outcome, value.as_object_mut()) {
        let status = &outcome.status;
        object.insert("directory".to_owned(), json!(directory));
        object.insert("config".to_owned(), json!(imported.config));
        object.insert("oldest_lsn".to_owned(), json!(status.oldest_lsn));
        object.insert("lsn".to_owned(), json!(status.ingested_lsn));
        object.insert("caught_up_with".to_owned(), json!(outcome.caught_up_with.to_string()));
        object.insert("layers".to_owned(), json!(status.layers));
        object.insert("layer_bytes".to_owned(), json!(status.layer_bytes));
    }
    value
}
