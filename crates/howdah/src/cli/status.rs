//! `howdah timeline status`: what the page server has, and how far it is behind.

use indicatif::BinaryBytes;
use pageserver::api::Status;
use pageserver::remote::StoreStatus;

use crate::api::client::Api;
use crate::error::{Error, Result, While};
use crate::output;

pub(super) fn run(api: &Api, json: bool) -> Result<()> {
    let value = api.get("/v1/timelines")?;
    if json {
        output::json(&value);
        return Ok(());
    }
    let first = value.get("timelines").and_then(|list| list.get(0)).cloned();
    let value = first.ok_or_else(|| Error::new("there is no page server here"))?;
    let status: Status = serde_json::from_value(value).or_fail("unexpected answer of the API")?;
    for (name, value) in rows(&status) {
        output::line(format!("{name:<18} {value}"));
    }
    Ok(())
}

fn store_rows(store: &StoreStatus) -> Vec<(&'static str, String)> {
    let uploaded = store.uploaded_lsn.clone().unwrap_or_else(|| "nothing".to_owned());
    let waiting = match store.waiting_bytes {
        0 => "nothing waits".to_owned(),
        bytes => format!("{} wait, for {} s", BinaryBytes(bytes), store.waiting_ms / 1000),
    };
    let mut rows = vec![
        ("object store", format!("{} (generation {})", store.address, store.generation)),
        ("stored", format!("WAL up to {uploaded}; {waiting}")),
        (
            "stored layers",
            format!(
                "{} there, {} here",
                BinaryBytes(store.remote_layer_bytes),
                BinaryBytes(store.local_layer_bytes)
            ),
        ),
    ];
    rows.extend(store.error.clone().map(|error| ("store's error", error)));
    rows
}

fn rows(status: &Status) -> Vec<(&'static str, String)> {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut rows = vec![
        ("branch", "main".to_owned()),
        ("phase", format!("{:?}", status.phase).to_lowercase()),
        ("page service", status.listen.clone()),
        ("cluster", known(&status.system_identifier)),
        (
            "timeline",
            status.timeline.map_or_else(|| "unknown".to_owned(), |number| number.to_string()),
        ),
        ("oldest LSN", known(&status.oldest_lsn)),
        ("newest LSN", known(&status.ingested_lsn)),
        ("durable LSN", known(&status.flushed_lsn)),
        ("server's LSN", known(&status.server_lsn)),
        ("behind", BinaryBytes(status.lag_bytes).to_string()),
        ("WAL kept", BinaryBytes(status.wal_bytes).to_string()),
        (
            "layers",
            format!(
                "{} of {} ({} before compression), up to {}",
                status.layers,
                BinaryBytes(status.layer_bytes),
                BinaryBytes(status.layer_raw_bytes),
                known(&status.layered_lsn)
            ),
        ),
        (
            "index",
            format!("{}, {} relation forks", BinaryBytes(status.index_memory_bytes), status.forks),
        ),
        ("records", format!("{} ({})", status.records, BinaryBytes(status.record_bytes))),
    ];
    if let Some(backup) = status.backup {
        rows.push((
            "base backup",
            format!("{} of {}", BinaryBytes(backup.bytes_done), BinaryBytes(backup.bytes_total)),
        ));
    }
    if let Some(store) = &status.store {
        rows.extend(store_rows(store));
    }
    if !status.unsupported_records.is_empty() {
        let kinds: Vec<String> = status
            .unsupported_records
            .iter()
            .map(|(kind, count)| format!("{kind} ({count})"))
            .collect();
        rows.push(("not supported", kinds.join(", ")));
    }
    if let Some(problem) = &status.error {
        rows.push(("error", problem.message.clone()));
        rows.extend(problem.hint.clone().map(|hint| ("hint", hint)));
    }
    rows
}
