//! Which user this process is, and how it stops being root.

use std::fs;
use std::io;

/// An account of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Whether this process may do everything.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The group that this process acts as.
#[must_use]
pub fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

impl User {
    /// The account of this name in `/etc/passwd`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        Ok(in_passwd(&fs::read_to_string("/etc/passwd")?, name))
    }

    /// The account with this number in `/etc/passwd`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn with_uid(uid: u32) -> io::Result<Option<Self>> {
        let text = fs::read_to_string("/etc/passwd")?;
        let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let mut accounts = text.lines().filter_map(|line| in_passwd(&text, &name(line)));
        Ok(accounts.find(|user| user.uid == uid))
    }

    /// Makes this process the user's, for good, in no group but the user's own.
    ///
    /// # Errors
    /// When we may not, or when there are threads already: the change would reach only this one.
    #[cfg(target_os = "linux")]
    pub fn assume(&self) -> io::Result<()> {
        use rustix::process::{Gid, Uid};
        use rustix::thread;
        if fs::read_dir("/proc/self/task")?.count() > 1 {
            return Err(io::Error::other("the process has several threads already"));
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
        // Otherwise our own files in /proc belong to root, and what the metrics read there is refused.
        let dumpable = rustix::process::DumpableBehavior::Dumpable;
        rustix::process::set_dumpable_behavior(dumpable)?;
        Ok(())
    }

    /// Not known how on this system.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn assume(&self) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "changing the user is supported on Linux only",
        ))
    }
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn in_passwd(text: &str, name: &str) -> Option<User> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(User { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let text = "root:x:0:0:root:/root:/bin/sh\npostgres:x:107:111::/var/lib:/bin/sh\n";
        let user = in_passwd(text, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (107, 111));
        assert_eq!(in_passwd(text, "post"), None);
    }

    #[test]
    fn a_test_has_threads_and_keeps_its_user() {
        let user = User { name: "nobody".to_owned(), uid: 65_534, gid: 65_534 };
        let before = rustix::process::geteuid();
        assert!(user.assume().is_err());
        assert_eq!(rustix::process::geteuid(), before);
    }
}
