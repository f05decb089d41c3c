//! Finds a PgBouncer to compare with: a recent one from Debian sid, else the machine's own package.
//!
//! The recent one is unpacked, not installed: its packages go into `target/bench/pgbouncer-sid` and it is
//! started by its own dynamic loader with its own libraries, so nothing of the machine changes and no root is needed.

use std::fs;
use std::path::Path;

use super::process;
use crate::debian::{self, Apt};
use crate::root;

/// How to start it, and what it calls itself.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) command: Vec<String>,
    pub(crate) version: String,
}

/// The newest that can be had here; says on standard error why if that is only the machine's own.
pub(crate) fn newest() -> Result<Program, String> {
    match from_sid() {
        Ok(program) => Ok(program),
        Err(reason) => {
            eprintln!("no PgBouncer from Debian sid: {reason}");
            installed()
        }
    }
}

/// The machine's own package.
pub(crate) fn installed() -> Result<Program, String> {
    let paths = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
    let path = paths.into_iter().find(|path| Path::new(path).is_file());
    let path = path.ok_or("no PgBouncer here; apt-get install pgbouncer (and stop its service)")?;
    described(vec![path.to_owned()], "installed package")
}

fn described(command: Vec<String>, origin: &str) -> Result<Program, String> {
    let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
    line.push("--version");
    let said = process::output(&line, None)?;
    let version = said.lines().next().unwrap_or_default().trim();
    Ok(Program { version: format!("{version} ({origin})"), command })
}

fn from_sid() -> Result<Program, String> {
    let cache = root().join("target/bench/pgbouncer-sid");
    let tree = cache.join("root");
    let binary = tree.join("usr/sbin/pgbouncer");
    if !binary.is_file() {
        eprintln!("fetching PgBouncer from Debian sid into {}", cache.display());
        let _stale = fs::remove_dir_all(&cache);
        let apt = Apt::update(&cache, "sid")?;
        let mut packages = apt.closure(&["pgbouncer"])?;
        // The rest of the closure (Perl, for one) is not needed to run it.
        packages.retain(|name| {
            let starts = |list: &[&str]| list.iter().any(|prefix| name.starts_with(prefix));
            starts(&["lib", "zlib", "pgbouncer"]) && !starts(&["libperl", "libsystemd-shared"])
        });
        apt.unpack(&packages, &tree)?;
    }
    let (loader, libraries) = debian::loader(&tree)?;
    let command = vec![
        loader.display().to_string(),
        "--library-path".to_owned(),
        libraries.display().to_string(),
        binary.display().to_string(),
    ];
    described(command, "Debian sid")
}
