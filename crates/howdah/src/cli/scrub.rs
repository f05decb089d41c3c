//! `howdah scrub`: all checksums of all layers compared, with progress.

use std::time::Duration;

use indicatif::BinaryBytes;
use pageserver::api::Scrub;
use runtime::clock;
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::{from_value, json};

use crate::api::client::Api;
use crate::error::{Error, Result, While};
use crate::output;

/// How often to ask how far it is.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(json: bool, api: &Api) -> Result<()> {
    let read = |value| from_value::<Scrub>(value).or_fail("unexpected answer of the API");
    let mut scrub = read(api.post("/v1/scrub")?)?;
    let bar = output::progress(scrub.bytes_total, "scrub", "bytes");
    while scrub.running {
        bar.set_length(scrub.bytes_total);
        bar.set_position(scrub.bytes_done);
        let slept = block_on(&Options::default(), async { clock::sleep(PAUSE).await });
        slept.or_fail("could not start an I/O loop")?;
        scrub = read(api.get("/v1/scrub")?)?;
    }
    bar.finish_and_clear();
    if json {
        output::json(&json!(scrub));
    } else {
        let (bytes, damaged) = (BinaryBytes(scrub.bytes_total), scrub.damaged.len());
        output::line(format!("{bytes} of layers and WAL compared, {damaged} damaged"));
        scrub.damaged.iter().for_each(|what| output::line(format!("  {what}")));
        if scrub.litter_objects > 0 {
            let (objects, bytes) = (scrub.litter_objects, BinaryBytes(scrub.litter_bytes));
            output::line(format!(
                "{objects} objects of {bytes} in the store that nothing names; they go by themselves"
            ));
        }
    }
    if scrub.damaged.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("{} blocks or layers are damaged", scrub.damaged.len()))
        .hint("start with an empty directory to take a new base backup"))
}
