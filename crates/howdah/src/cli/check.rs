//! `howdah check`: whether a configuration would be accepted.

use std::path::Path;

use super::pooler::{is_ini, read_ini};
use crate::config::Config;
use crate::error::Result;
use crate::output;

pub(super) fn run(file: &Path) -> Result<()> {
    if is_ini(file) {
        for warning in read_ini(file)?.warnings {
            output::note(format!("warning: {warning}"));
        }
    } else {
        Config::read(file)?;
    }
    output::line(format!("{} is valid", file.display()));
    Ok(())
}
