//! Where PostgreSQL's programs are.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Debian's place of PostgreSQL 15.
const INSTALLED: &str = "/usr/lib/postgresql/15/bin";

/// The programs of one major.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Default for Programs {
    /// PostgreSQL 15's, as installed.
    fn default() -> Programs {
        Programs { folder: PathBuf::from(INSTALLED) }
    }
}

impl Programs {
    /// Those that `cargo xtask postgres` put into `target/postgres`; `None`, and a loud word, if they are not here.
    pub fn of_major(major: u32) -> Option<Programs> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = checkout.join(format!("target/postgres/{major}/bin"));
        if folder.join("postgres").exists() {
            // As the user finds it whom servers run as: it may be a link out of a closed home.
            let folder = folder.canonicalize().ok()?;
            return Some(Programs { folder });
        }
        let said = format!(
            "SKIPPED: no PostgreSQL {major} here; `cargo xtask postgres {major}` fetches it"
        );
        let _said = writeln!(std::io::stderr(), "{said}");
        None
    }

    /// A program's path; clients of 15 serve where a major came without them.
    pub fn path(&self, name: &str) -> PathBuf {
        let own = self.folder.join(name);
        let is_client = matches!(name, "psql" | "pgbench" | "pg_isready");
        if is_client && !own.exists() { Path::new(INSTALLED).join(name) } else { own }
    }
}
