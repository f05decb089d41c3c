//! The answer to BASE_BACKUP since PostgreSQL 15: one COPY OUT whose CopyData messages are typed.
//!
//! First come two ordinary results: the start position (`recptr` text, `tli` int8) and the
//! tablespaces (`spcoid` oid, `spclocation` text, `size` int8; NULL oid and location for the data
//! directory itself). Then the COPY. Then one more result, the end position, like the first.

use crate::wire::Malformed;
use crate::wire::read::Reader;
use crate::wire::write;

/// The data of one CopyData message of a base backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupPart<'a> {
    /// `n`: a new archive begins. `file_name` is the client's to use (`base.tar`, `16384.tar`);
    /// `tablespace` is its directory, empty for the data directory.
    Archive { file_name: &'a [u8], tablespace: &'a [u8] },
    /// `m`: the manifest begins.
    Manifest,
    /// `d`: bytes of the archive or of the manifest.
    Data(&'a [u8]),
    /// `p`: bytes of the current tablespace done so far.
    Progress(u64),
}

impl<'a> BackupPart<'a> {
    pub fn read(data: &'a [u8]) -> Result<BackupPart<'a>, Malformed> {
        let mut reader = Reader::new(data);
        let part = match reader.u8()? {
            b'n' => {
                BackupPart::Archive { file_name: reader.string()?, tablespace: reader.string()? }
            }
            b'm' => BackupPart::Manifest,
            b'd' => BackupPart::Data(reader.take_rest()),
            b'p' => BackupPart::Progress(reader.u64()?),
            other => return Err(Malformed::Kind(other)),
        };
        reader.end()?;
        Ok(part)
    }

    /// Appends the data of the CopyData message (without its header).
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            BackupPart::Archive { file_name, tablespace } => {
                out.push(b'n');
                write::string(out, file_name);
                write::string(out, tablespace);
            }
            BackupPart::Manifest => out.push(b'm'),
            BackupPart::Data(data) => {
                out.push(b'd');
                out.extend_from_slice(data);
            }
            BackupPart::Progress(bytes) => {
                out.push(b'p');
                write::u64(out, *bytes);
            }
        }
    }
}
