//! Everything that administrators write: no text panics, and what is read back is what was read.

use std::path::Path;

use pooler::hba::{Attempt, Hba, IdentMaps, Interfaces, Origin};
use pooler::settings::file::read_pooler;
use pooler::settings::units;
use pooler::{pgbouncer_ini, userlist};

/// Takes one input.
pub fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let files = |path: &Path| {
        if path.as_os_str().len() == 1 {
            Ok(text.to_owned())
        } else {
            Err(std::io::ErrorKind::NotFound.into())
        }
    };
    let _ = pgbouncer_ini::parse("f", text, &files);
    let _ = userlist::parse("f", text);
    let _ = read_pooler("f", text);
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(units::parse_duration(&units::format_duration(duration)), Ok(duration));
    }
    let maps = IdentMaps::parse("f", text).unwrap_or_default();
    let interfaces = Interfaces::from_proc(text, text, text);
    if let Ok(hba) = Hba::parse("f", text, &maps, &interfaces, &files) {
        let attempt =
            Attempt { origin: Origin::Unix, database: "d", user: "u", replication: false };
        let _ = hba.decide(&attempt);
    }
}
