//! `howdah compute run` on a mount: its options for the crate that runs it, its errors in our form, and the line that
//! says that it takes connections.

use std::path::PathBuf;

use super::directory::Options;
use super::settings::Mode;
use crate::error::{Error, Result};

/// Whether a compute of this mode is to be on a mount.
///
/// # Errors
/// When it must be and this machine does not let us.
pub fn is_wanted(mode: Mode) -> Result<bool> {
    match (mode, availability()) {
        (Mode::Directory, _) | (Mode::Auto, Err(_)) => Ok(false),
        (_, Ok(())) => Ok(true),
        (Mode::Fuse, Err(why)) => Err(Error::new(format!("could not mount: {why}"))
            .hint("--mode directory restores the branch instead")),
    }
}

/// Whether this machine lets us mount, or why not.
#[cfg(target_os = "linux")]
pub fn availability() -> std::result::Result<(), String> {
    runtime::fuse::is_available()
}

#[cfg(not(target_os = "linux"))]
pub fn availability() -> std::result::Result<(), String> {
    Err("mounts need Linux".to_owned())
}

/// What outlasts a compute, besides its branch.
pub struct Lasting {
    /// File in which the pages that a start reads are remembered.
    pub boot_set: Option<PathBuf>,
    /// File in which what ALTER SYSTEM writes is kept.
    pub altered: Option<PathBuf>,
    /// Folder of slots and statistics.
    pub carried: Option<PathBuf>,
}

/// Runs until a signal asks it to stop.
#[cfg(target_os = "linux")]
pub fn run(options: Options, lasting: Lasting) -> Result<()> {
    use compute::carried::Carried;
    use compute::error::Error as Failure;
    use compute::run::{Options as Run, run};
    use compute::settings::Wanted;
    use serde_json::json;

    use super::process::Ready;
    use crate::output;

    crate::node::start_log(&crate::config::Log::default())?;
    let Options { branch, standby, follows, login, directory, port, binaries, settings } = options;
    let follows = follows.then(|| branch.clone());
    let wanted = Wanted { port, standby, follows, settings };
    let program = binaries.program("postgres");
    let Lasting { boot_set, altered, carried } = lasting;
    let carried = carried.map(Carried::in_folder);
    let run_options =
        Run { login, directory: directory.clone(), program, wanted, boot_set, altered, carried };
    let say = |ready: compute::run::Ready| {
        let line = Ready {
            branch,
            lsn: ready.lsn.to_string(),
            port,
            socket_dir: directory,
            pid: std::process::id(),
            postgres_pid: ready.postgres_pid,
            mode: "fuse".to_owned(),
        };
        output::line(json!(line).to_string());
        output::flush();
    };
    run(&run_options, say).map_err(|error| match error {
        Failure::PageServer(error) => crate::cli::page::refused(error),
        error => match error.hint() {
            Some(hint) => Error::new(error.to_string()).hint(hint),
            None => Error::new(error.to_string()),
        },
    })
}

/// Not here.
#[cfg(not(target_os = "linux"))]
pub fn run(_options: Options, _lasting: Lasting) -> Result<()> {
    Err(Error::new("mounts need Linux").hint("--mode directory restores the branch instead"))
}
