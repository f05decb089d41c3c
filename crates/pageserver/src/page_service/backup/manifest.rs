//! The backup manifest: every file with its checksum, as `pg_verifybackup` reads it (`backup_manifest.c`).

use std::fmt::Write;

use pg::lsn::Lsn;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How files are summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Checksums {
    None,
    #[default]
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Checksums {
    /// By the name of the command's option, in any case.
    pub(super) fn named(name: &str) -> Option<Checksums> {
        let all = [
            Checksums::None,
            Checksums::Crc32c,
            Checksums::Sha224,
            Checksums::Sha256,
            Checksums::Sha384,
            Checksums::Sha512,
        ];
        all.into_iter().find(|known| known.name().eq_ignore_ascii_case(name))
    }

    const fn name(self) -> &'static str {
        match self {
            Checksums::None => "NONE",
            Checksums::Crc32c => "CRC32C",
            Checksums::Sha224 => "SHA224",
            Checksums::Sha256 => "SHA256",
            Checksums::Sha384 => "SHA384",
            Checksums::Sha512 => "SHA512",
        }
    }

    pub(super) fn begin(self) -> Sum {
        match self {
            Checksums::None => Sum::None,
            Checksums::Crc32c => Sum::Crc32c(0),
            Checksums::Sha224 => Sum::Sha224(Sha224::new()),
            Checksums::Sha256 => Sum::Sha256(Sha256::new()),
            Checksums::Sha384 => Sum::Sha384(Sha384::new()),
            Checksums::Sha512 => Sum::Sha512(Sha512::new()),
        }
    }
}

/// A file's checksum while it is sent.
pub(super) enum Sum {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Sum {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::None => {}
            Sum::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Sum::Sha224(sha) => sha.update(bytes),
            Sum::Sha256(sha) => sha.update(bytes),
            Sum::Sha384(sha) => sha.update(bytes),
            Sum::Sha512(sha) => sha.update(bytes),
        }
    }

    /// In hexadecimal digits; a CRC in the order of its bytes in memory.
    fn finish(self) -> Option<String> {
        match self {
            Sum::None => None,
            Sum::Crc32c(crc) => Some(hex(&crc.to_le_bytes())),
            Sum::Sha224(sha) => Some(hex(&sha.finalize())),
            Sum::Sha256(sha) => Some(hex(&sha.finalize())),
            Sum::Sha384(sha) => Some(hex(&sha.finalize())),
            Sum::Sha512(sha) => Some(hex(&sha.finalize())),
        }
    }
}

/// The manifest as far as it goes.
pub(super) struct Manifest {
    pub(super) checksums: Checksums,
    text: String,
    files: u64,
}

impl Manifest {
    pub(super) fn new(checksums: Checksums) -> Manifest {
        let text = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned();
        Manifest { checksums, text, files: 0 }
    }

    /// Adds a file: path relative to the data directory, bytes, seconds since the Unix epoch.
    pub(super) fn add(&mut self, path: &str, bytes: u64, modified: i64, sum: Sum) {
        self.text.push_str(if self.files == 0 { "\n" } else { ",\n" });
        self.files += 1;
        let path = serde_json::to_string(path).expect("a text becomes JSON");
        let modified = timestamp(modified);
        let entry = format!(
            "{{ \"Path\": {path}, \"Size\": {bytes}, \"Last-Modified\": \"{modified} GMT\""
        );
        self.text.push_str(&entry);
        let name = self.checksums.name();
        if let Some(sum) = sum.finish() {
            let sum = format!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{sum}\"");
            self.text.push_str(&sum);
        }
        self.text.push_str(" }");
    }

    /// The whole file; a server that starts on the backup needs the WAL from `start` to `end`.
    pub(super) fn finish(mut self, timeline: u32, start: Lsn, end: Lsn) -> Vec<u8> {
        let range = format!(
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}\n],\n"
        );
        self.text.push_str(&range);
        let sum = hex(&Sha256::digest(self.text.as_bytes()));
        self.text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        self.text.into_bytes()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// `2026-11-21 06:40:48`, in UTC (days to date after Howard Hinnant's `civil_from_days`).
fn timestamp(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_times_as_the_server_does() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_243_248, "2026-11-21 06:40:48"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn sums_up_files_and_itself() {
        let mut manifest = Manifest::new(Checksums::Crc32c);
        let mut sum = Checksums::Crc32c.begin();
        sum.update(b"123456789");
        manifest.add("a\"b", 9, 0, sum);
        manifest.add("c", 0, 0, Checksums::None.begin());
        let bytes = manifest.finish(1, Lsn(0x28), Lsn(0xA0));
        let text = String::from_utf8(bytes).expect("it is text");
        let json: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(json["Files"][0]["Path"], "a\"b");
        assert_eq!(json["Files"][0]["Checksum"], "839206e3"); // 0xE3069283, the check value of CRC-32C
        assert_eq!(json["WAL-Ranges"][0]["End-LSN"], "0/A0");
        let (before, _) = text.split_once("\"Manifest-Checksum\"").expect("it is there");
        assert_eq!(json["Manifest-Checksum"], hex(&Sha256::digest(before.as_bytes())));
        assert_eq!(Checksums::named("sha256"), Some(Checksums::Sha256));
    }
}
