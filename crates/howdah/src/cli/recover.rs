//! `howdah recover`: a page server's directory out of nothing but its object store.

use std::path::Path;

use pageserver::remote::recover::{Progress, recover};
use pageserver::settings::Settings;
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::json;

use super::RecoverOptions;
use crate::error::{Error, Result, While};
use crate::output;

pub(super) fn run(options: &RecoverOptions) -> Result<()> {
    let settings = Settings {
        directory: options.dir.clone(),
        store: absolute(&options.store)?,
        store_endpoint: options.endpoint.clone().unwrap_or_default(),
        store_region: options.region.clone().unwrap_or_default(),
        ..Settings::default()
    };
    let bar = output::progress(0, "recover", "KiB");
    let shown = bar.clone();
    let progress = move |progress: Progress| {
        shown.set_length(progress.bytes_total / 1024);
        shown.set_position(progress.bytes_done / 1024);
    };
    let recovered = block_on(&Options::default(), recover(&settings, options.all, progress));
    let recovered = recovered.or_fail("could not start an I/O loop")?.map_err(failed)?;
    bar.finish_and_clear();
    if options.json {
        output::json(&json!({
            "directory": options.dir,
            "store": options.store,
            "system_identifier": recovered.system_identifier.to_string(),
            "version": recovered.version,
            "generation": recovered.generation,
            "timelines": recovered.timelines,
            "layers": recovered.layers,
            "layer_bytes": recovered.layer_bytes,
            "layers_fetched": options.all,
            "end": recovered.end.to_string(),
        }));
        return Ok(());
    }
    let (end, timelines) = (recovered.end, recovered.timelines);
    let (layers, mebibytes) = (recovered.layers, recovered.layer_bytes >> 20);
    let branches = timelines.saturating_sub(1);
    output::line(format!("recovered system {} up to {end}", recovered.system_identifier));
    let place = if options.all { "fetched" } else { "fetched when they are read" };
    output::line(format!("{branches} branches; {layers} layers, {mebibytes} MiB, {place}"));
    Ok(())
}

fn failed(error: pageserver::error::Error) -> Error {
    let hint = error.hint();
    let error = Error::new(error.to_string());
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A directory may be given as any path on the command line.
fn absolute(store: &str) -> Result<String> {
    if store.contains("://") || Path::new(store).is_absolute() {
        return Ok(store.to_owned());
    }
    let here = std::env::current_dir().or_fail("could not find out the current directory")?;
    Ok(here.join(store).display().to_string())
}
