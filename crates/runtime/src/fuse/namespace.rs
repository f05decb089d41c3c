//! A process with mounts of its own (mount_namespaces(7), user_namespaces(7)).

use std::fs;
use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};

use crate::sys::namespace::unshare_mounts;

/// Settings that forbid namespaces to ordinary users, with the value that does.
const FORBIDDING: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
];

/// Whether nothing known speaks against it for an ordinary user. Whether it works is seen when it is tried.
pub(super) fn is_allowed() -> bool {
    let is = |(path, value): (&str, &str)| {
        fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    fs::exists("/proc/self/ns/user").unwrap_or(false) && !FORBIDDING.into_iter().any(is)
}

/// Whether [`enter`] can keep mounts to itself: only what is a mount point can be parted from the others, and in a
/// chroot `/` often is none.
pub(super) fn can_part() -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| has_root(&table))
}

/// Whether the table (proc_pid_mountinfo(5): the fifth field is the mount point) lists `/`.
fn has_root(table: &str) -> bool {
    table.lines().any(|line| line.split_ascii_whitespace().nth(4) == Some("/"))
}

/// Parts from the mounts of others. Theirs still come here, ours do not go there.
pub(super) fn enter() -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(io::Error::other("the process has several threads already"));
    }
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        unshare_mounts(false)?;
    } else {
        unshare_mounts(true)?;
        // Everybody is who they were; nobody else exists.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))?;
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chroot_has_no_mount_to_part_from() {
        let proc = "65 29 0:5 / /proc rw,relatime shared:34 - proc proc rw\n";
        assert!(!has_root(proc));
        assert!(has_root(&format!("{proc}29 1 254:0 / / rw - ext4 /dev/vda rw\n")));
    }
}
