//! Requests of the kernel's.

/// A request, its names and data still in the buffer that it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Names the request in its answer.
    pub unique: u64,
    pub node: u64,
    pub operation: Operation<'a>,
}

/// What is asked of the node. Names are of entries in it, where it is a directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        read_ahead_max: u32,
        flags: u32,
    },
    Lookup(&'a [u8]),
    /// The kernel forgets so many of the look-ups that were answered; not answered itself.
    Forget(u64),
    /// The same for several (node, look-ups).
    ForgetMany(Vec<(u64, u64)>),
    GetAttributes,
    SetAttributes(SetAttributes),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MakeDirectory {
        name: &'a [u8],
        mode: u32,
    },
    Unlink(&'a [u8]),
    RemoveDirectory(&'a [u8]),
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a [u8],
        mode: u32,
        flags: u32,
    },
    Read {
        offset: u64,
        bytes: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    Allocate {
        offset: u64,
        bytes: u64,
        mode: u32,
    },
    Release,
    Flush,
    Sync,
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        bytes: u32,
    },
    ReleaseDirectory {
        handle: u64,
    },
    FileSystem,
    /// The answer to the request of this number is not waited for any more; not answered itself.
    Interrupt(u64),
    Destroy,
    /// An operation that we do not know, by its code.
    Other(u32),
}

/// Attributes to be set; those that are `None` stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A message that is shorter than its operation needs: the kernel does not send such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub code: u32,
}

impl<'a> Request<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// When it is cut short, or a name in it has no end.
    pub fn parse(message: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut fields = Fields(message);
        let mut head = || {
            let length = fields.u32()?;
            let code = fields.u32()?;
            let unique = fields.u64()?;
            let node = fields.u64()?;
            // Of the caller: user, group, process, and the length of extensions that we did not ask for.
            fields.skip(16)?;
            (usize::try_from(length).ok()? == message.len()).then_some((code, unique, node))
        };
        let (code, unique, node) = head().ok_or(Malformed { code: 0 })?;
        let operation = operation(code, &mut fields).ok_or(Malformed { code })?;
        Ok(Request { unique, node, operation })
    }
}

fn operation<'a>(code: u32, fields: &mut Fields<'a>) -> Option<Operation<'a>> {
    let operation = match code {
        1 => Operation::Lookup(fields.name()?),
        2 => Operation::Forget(fields.u64()?),
        3 => Operation::GetAttributes,
        4 => Operation::SetAttributes(set_attributes(fields)?),
        5 => Operation::ReadLink,
        6 => Operation::Symlink { name: fields.name()?, target: fields.name()? },
        9 => {
            let (mode, _umask) = (fields.u32()?, fields.u32()?);
            Operation::MakeDirectory { name: fields.name()?, mode }
        }
        10 => Operation::Unlink(fields.name()?),
        11 => Operation::RemoveDirectory(fields.name()?),
        12 => {
            let new_parent = fields.u64()?;
            let (name, new_name) = (fields.name()?, fields.name()?);
            Operation::Rename { name, new_parent, new_name, flags: 0 }
        }
        14 => Operation::Open { flags: fields.u32()? },
        15 => {
            let (_handle, offset, bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Operation::Read { offset, bytes }
        }
        16 => {
            let (_handle, offset, bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
            fields.skip(20)?;
            Operation::Write { offset, data: fields.take(usize::try_from(bytes).ok()?)? }
        }
        17 => Operation::FileSystem,
        18 => Operation::Release,
        20 | 30 => Operation::Sync,
        25 => Operation::Flush,
        26 => {
            let (major, minor) = (fields.u32()?, fields.u32()?);
            let (read_ahead_max, flags) = (fields.u32()?, fields.u32()?);
            Operation::Init { major, minor, read_ahead_max, flags }
        }
        27 => Operation::OpenDirectory,
        28 => {
            let (handle, offset, bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Operation::ReadDirectory { handle, offset, bytes }
        }
        29 => Operation::ReleaseDirectory { handle: fields.u64()? },
        35 => {
            let (flags, mode) = (fields.u32()?, fields.u32()?);
            fields.skip(8)?;
            Operation::Create { name: fields.name()?, mode, flags }
        }
        36 => Operation::Interrupt(fields.u64()?),
        38 => Operation::Destroy,
        42 => {
            let count = fields.u32()?;
            fields.skip(4)?;
            let pairs = (0..count).map(|_| Some((fields.u64()?, fields.u64()?)));
            Operation::ForgetMany(pairs.collect::<Option<_>>()?)
        }
        43 => {
            let (_handle, offset, bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
            Operation::Allocate { offset, bytes, mode: fields.u32()? }
        }
        45 => {
            let (new_parent, flags) = (fields.u64()?, fields.u32()?);
            fields.skip(4)?;
            let (name, new_name) = (fields.name()?, fields.name()?);
            Operation::Rename { name, new_parent, new_name, flags }
        }
        other => Operation::Other(other),
    };
    Some(operation)
}

/// `struct fuse_setattr_in`; bits of `valid` are `FATTR_MODE` 1, `FATTR_UID` 2, `FATTR_GID` 4, `FATTR_SIZE` 8. Times
/// are the file system's own business here.
fn set_attributes(fields: &mut Fields<'_>) -> Option<SetAttributes> {
    let valid = fields.u32()?;
    fields.skip(12)?;
    let size = fields.u64()?;
    fields.skip(44)?;
    let mode = fields.u32()?;
    fields.skip(4)?;
    let (uid, gid) = (fields.u32()?, fields.u32()?);
    let if_set = |bit: u32| valid & bit != 0;
    Some(SetAttributes {
        size: if_set(8).then_some(size),
        mode: if_set(1).then_some(mode),
        uid: if_set(2).then_some(uid),
        gid: if_set(4).then_some(gid),
    })
}

/// Reads a message from its front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.take(bytes).map(drop)
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*taken))
    }

    fn u64(&mut self) -> Option<u64> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*taken))
    }

    /// Up to a zero byte, which is taken, too.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let name = self.take(end)?;
        self.skip(1)?;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(code: u32, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let length = u32::try_from(40 + body.len()).expect("small");
        let mut message = Vec::new();
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&code.to_ne_bytes());
        message.extend_from_slice(&7_u64.to_ne_bytes());
        message.extend_from_slice(&9_u64.to_ne_bytes());
        message.extend_from_slice(&[0; 16]);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn reads_names_numbers_and_data() {
        let check = |code: u32, body: &[&[u8]], expected: Operation<'_>| {
            let message = message(code, body);
            let request = Request::parse(&message).expect("it is whole");
            assert_eq!((request.unique, request.node), (7, 9));
            assert_eq!(request.operation, expected);
            for length in 0..message.len() {
                assert!(Request::parse(&message[..length]).is_err(), "{length} bytes of it");
            }
        };
        let (zero, one, eight) = (0_u64.to_ne_bytes(), 1_u32.to_ne_bytes(), 8_u64.to_ne_bytes());
        check(1, &[b"base\0"], Operation::Lookup(b"base"));
        check(15, &[&zero, &eight, &one], Operation::Read { offset: 8, bytes: 1 });
        let write = [&zero[..], &eight, &one, &[0; 20], b"x"];
        check(16, &write, Operation::Write { offset: 8, data: b"x" });
        let renamed = Operation::Rename { name: b"a", new_parent: 8, new_name: b"b", flags: 1 };
        check(45, &[&eight, &one, &[0; 4], b"a\0b\0"], renamed);
        let many = Operation::ForgetMany(vec![(8, 0)]);
        check(42, &[&one, &[0; 4], &eight, &zero], many);
    }

    #[test]
    fn takes_only_the_attributes_that_are_marked() {
        let mut body = vec![0_u8; 88];
        body[0..4].copy_from_slice(&(8_u32 | 1).to_ne_bytes());
        body[16..24].copy_from_slice(&16_384_u64.to_ne_bytes());
        body[68..72].copy_from_slice(&0o600_u32.to_ne_bytes());
        body[76..80].copy_from_slice(&26_u32.to_ne_bytes());
        let message = message(4, &[&body]);
        let request = Request::parse(&message).expect("it is whole");
        let expected =
            SetAttributes { size: Some(16_384), mode: Some(0o600), ..SetAttributes::default() };
        assert_eq!(request.operation, Operation::SetAttributes(expected));
    }
}
