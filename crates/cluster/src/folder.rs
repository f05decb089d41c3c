//! Folders that vanish, and the user whom servers run as.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A user and a group, by number.
pub type Account = (u32, u32);

/// A folder of a test's own, for everybody to enter; gone when dropped.
pub struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Ours. The name should be short: a unix socket's path must fit into 103 bytes.
    pub fn new(name: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("howdah-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("the folder's name is new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        Folder(path)
    }

    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// Whom servers run as, if not as ourselves: Postgres refuses root.
///
/// # Panics
/// If we are root and the system has no user `postgres`, as Debian's package makes it.
pub fn server_account() -> Option<Account> {
    let ours = fs::metadata("/proc/self").expect("we are a process").uid();
    if ours != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("there are users");
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("there is a user postgres").split(':').collect();
    Some((fields[2].parse().expect("a user id"), fields[3].parse().expect("a group id")))
}

/// Gives a file or folder to whom servers run as.
pub fn give(path: &Path, account: Option<Account>) {
    if let Some((uid, gid)) = account {
        chown(path, Some(uid), Some(gid)).expect("we are root");
    }
}
