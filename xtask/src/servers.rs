//! Where servers and their clusters are put: a place that the user can get at whom they run as.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::root;

/// Used instead of the checkout's `target` if that lies in a closed home.
const OPEN_PLACE: &str = "/var/cache/howdah";

/// `target/NAME`. PostgreSQL refuses root, so root's servers run as user postgres; where that user cannot enter the
/// checkout (a clone below `/root`), the folder is elsewhere and `target/NAME` a link to it.
pub(crate) fn folder(name: &str) -> Result<PathBuf, String> {
    let own = root().join("target").join(name);
    if !is_root() || is_open(&root()) {
        return Ok(own);
    }
    let open = Path::new(OPEN_PLACE).join(name);
    let made = fs::create_dir_all(&open).and_then(|()| fs::create_dir_all(root().join("target")));
    made.map_err(|error| format!("{}: {error}", open.display()))?;
    if fs::read_link(&own).is_ok_and(|to| to == open) {
        return Ok(open);
    }
    let _unreachable = fs::remove_dir_all(&own);
    match symlink(&open, &own) {
        // Another run was quicker.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("{}: {error}", own.display()))
        }
        _ => Ok(open),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Whether anybody may pass through the folder and all above it.
fn is_open(folder: &Path) -> bool {
    let passable = |place: &Path| {
        fs::metadata(place).is_ok_and(|place| place.permissions().mode() & 0o001 != 0)
    };
    folder.ancestors().all(passable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_closes_what_is_in_it() {
        let folder = std::env::temp_dir().join(format!("howdah-xtask-{}", std::process::id()));
        let inner = folder.join("inner");
        fs::create_dir_all(&inner).expect("a folder is made");
        let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode));
        set(0o755).expect("it is ours");
        assert!(is_open(&inner));
        set(0o700).expect("it is ours");
        assert!(!is_open(&inner));
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
