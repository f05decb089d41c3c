//! A file system that this process serves: the kernel's requests arrive as messages on a core (Linux's FUSE).
//!
//! Here is only the channel: mounting, receiving a request's bytes, answering. What the bytes mean is up to the user;
//! they are specified by `include/uapi/linux/fuse.h` of the kernel.
//!
//! The channel never waits in the kernel: a core serves it beside everything else, and may answer a request long
//! after others that came later.

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::io::Readiness;

mod namespace;

const DEVICE: &str = "/dev/fuse";

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What the table of mounts shows as the source and as the type's suffix.
    pub name: &'static str,
    /// Who owns the mount: the user who may use it besides root.
    pub uid: u32,
    pub gid: u32,
    /// Whether users other than the one that mounts may use it. The kernel checks the modes of files in any case.
    pub other_users: bool,
    /// Most bytes that one read request asks for.
    pub read_bytes_max: u32,
}

/// A mounted file system, until it is dropped.
#[derive(Debug)]
pub struct Mount {
    device: Readiness,
    mountpoint: PathBuf,
}

/// A file system that is mounted and not served yet. Unlike a [`Mount`] it needs no core: a process can mount, then
/// give up its rights, and only then begin to serve.
#[derive(Debug)]
pub struct Mounted {
    device: OwnedFd,
    mountpoint: PathBuf,
}

/// Whether this machine lets us mount: the device is there and may be opened, and we are root or may have a
/// namespace of our own.
///
/// # Errors
/// Why not, as a reason for people.
pub fn is_available() -> Result<(), String> {
    open_device().map_err(|error| format!("{DEVICE}: {error}"))?;
    if !namespace::can_part() {
        return Err("/ is not a mount point, as in a chroot: mounts would show outside".to_owned());
    }
    if rustix::process::geteuid().is_root() || namespace::is_allowed() {
        Ok(())
    } else {
        Err("only root may mount, and users may not have namespaces of their own".to_owned())
    }
}

/// Gives this process mounts of its own: what it mounts from here on only it and its children see, and it goes with
/// the last of them, however that ends. An ordinary user gets the right to mount by it.
///
/// # Errors
/// When the system does not allow it, or this process has several threads already.
pub fn enter_namespace() -> io::Result<()> {
    namespace::enter()
}

impl Mounted {
    /// Mounts over the directory `mountpoint`. Requests wait until they are received.
    ///
    /// # Errors
    /// When the device cannot be opened or the kernel refuses: usually for want of rights.
    pub fn new(mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
        let device = open_device()?;
        let others = if options.other_users { ",allow_other" } else { "" };
        let data = format!(
            "fd={},rootmode=40700,user_id={},group_id={},default_permissions,max_read={}{others}",
            device.as_raw_fd(),
            options.uid,
            options.gid,
            options.read_bytes_max,
        );
        let data = CString::new(data)?;
        let target = CString::new(mountpoint.as_os_str().as_bytes())?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        let kind = format!("fuse.{}", options.name);
        rustix::mount::mount(options.name, &target, kind, flags, data.as_c_str())?;
        Ok(Mounted { device, mountpoint: mountpoint.to_owned() })
    }

    /// Begins to serve it, on this core.
    ///
    /// # Errors
    /// When the core takes no more descriptors; it is not mounted any more then.
    pub fn serve(self) -> io::Result<Mount> {
        let Mounted { device, mountpoint } = self;
        // From here on a failure must not leave the mount behind.
        match Readiness::new(device) {
            Ok(device) => Ok(Mount { device, mountpoint }),
            Err(error) => {
                detach(&mountpoint);
                Err(error)
            }
        }
    }
}

impl Mount {
    /// Mounts over the directory `mountpoint`. Requests wait until they are received.
    ///
    /// # Errors
    /// When the device cannot be opened or the kernel refuses: usually for want of rights.
    pub fn new(mountpoint: &Path, options: &MountOptions) -> io::Result<Mount> {
        Mounted::new(mountpoint, options)?.serve()
    }

    /// Waits for a request and puts its bytes into `buffer`, which must be as large as the largest one. Answers how
    /// many there are, or `None` when the file system was unmounted.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.try_receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.device.readable().await?;
                }
                other => return other,
            }
        }
    }

    /// The same without waiting: [`io::ErrorKind::WouldBlock`] when there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.device, &mut *buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::NODEV) => return Ok(None),
                // Interrupted, or the request was withdrawn while we took it.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers a request: one message, in parts. An answer that nobody waits for any more is dropped.
    ///
    /// # Errors
    /// What the kernel says: the answer is malformed, or the file system is gone.
    pub fn reply(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match rustix::io::writev(&self.device, parts) {
            Ok(_all) => Ok(()),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        detach(&self.mountpoint);
    }
}

/// Takes the mount out of the tree. Whoever has files of it open gets errors from now on.
///
/// Also for what a process that was killed left behind: such a mount refuses every access.
pub fn detach(mountpoint: &Path) {
    if let Err(error) = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)
        // It was gone already; or it is in a namespace of our own, and goes with us.
        && !matches!(error, Errno::INVAL | Errno::PERM)
    {
        tracing::debug!(mountpoint = %mountpoint.display(), %error, "not unmounted");
    }
}

fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(DEVICE, flags, Mode::empty())?)
}
